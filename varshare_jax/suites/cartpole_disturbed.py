"""Cart-poles whose actions come late and whose observations are noisy or leave something out.

An action takes effect `delay` steps after it is chosen; until the first arrives there is no force.
Pending actions are part of the environment's state and are not observed. Every observation
carries fresh Gaussian noise and shows the quantities in `observed` alone, so a policy of the
present observation sees neither the true state nor what it has already decided: such a task is
partially observed. Rewards and ends of episodes follow the true state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.suites.cartpole import CartPoleSuite

_NO_FORCE = 0.5  # gymnax's force is proportional to 2 · action - 1


class Disturbance(NamedTuple):
    """What makes balancing hard, the same for all tasks; the defaults are CartPole's own.

    `noise`: standard deviations of position [m], velocity [m/s], angle [rad] and angular velocity
    [rad/s] as observed. `observed`: which of these four an observation shows.
    """

    time_step: float = 0.02  # s
    horizon: int = 500  # steps
    delay: int = 0  # steps
    noise: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    observed: tuple[int, ...] = (0, 1, 2, 3)


# One linear rule of the pole balances nearly any cart-pole: tasks that see no more than it differ
# in little but the direction of their force. The noise keeps them from the ceiling.
POLE_ALONE = Disturbance(time_step=0.01, horizon=1000, noise=(0.0, 0.0, 0.02, 0.1),
                         observed=(2, 3))


class DisturbedState(NamedTuple):
    """`physics`: gymnax's state; `pending`: `delay` actions that have not arrived, next first.

    A tuple, because an array would be empty where nothing is delayed, and JAX batches no such leaf.
    """

    physics: Any
    pending: tuple[jax.Array, ...]


class DisturbedCartPole:
    """gymnax's CartPole under a `Disturbance`, behind the methods that a GymnaxSuite calls."""

    def __init__(self, env: Any, disturbance: Disturbance):
        self._env, self._disturbance = env, disturbance
        self.action_space = env.action_space

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, DisturbedState]:
        """-> observation [D], state; the noise has a key of its own, folded from `key`."""
        obs, physics = self._env.reset_env(key, params)
        pending = (jnp.float32(_NO_FORCE),) * self._disturbance.delay
        return self._seen(key, obs), DisturbedState(physics, pending)

    def step_env(self, key: jax.Array, state: DisturbedState, action: jax.Array, params: Any):
        """-> observation [D], state, reward, terminated, gymnax's info."""
        queue = *state.pending, jnp.float32(action)
        obs, physics, *rest = self._env.step_env(key, state.physics, queue[0], params)
        return self._seen(key, obs), DisturbedState(physics, queue[1:]), *rest

    def is_truncated(self, state: DisturbedState, params: Any) -> jax.Array:
        return self._env.is_truncated(state.physics, params)

    def _seen(self, key: jax.Array, obs: jax.Array) -> jax.Array:
        if any(self._disturbance.noise):
            # Fold 1 of a suite's key is its step's.
            drawn = jax.random.normal(jax.random.fold_in(key, 2), obs.shape)
            obs += jnp.array(self._disturbance.noise) * drawn
        return obs[jnp.array(self._disturbance.observed)]


class DisturbedCartPoleSuite(CartPoleSuite):
    """Cart-poles of a table of tasks under one disturbance."""

    def __init__(self, name: str, tasks, version: str, disturbance: Disturbance):
        self.disturbance = disturbance
        super().__init__(name, tasks, version)

    def _environment(self):
        env, default = super()._environment()
        return DisturbedCartPole(env, self.disturbance), default.replace(
            tau=self.disturbance.time_step, max_steps_in_episode=self.disturbance.horizon)

    def render(self, state, task):
        return super().render(state.physics, task)

    def gymnasium_env(self, task: int):
        """Gymnasium's CartPole-v1 with a task's physics, delay and noise."""
        from varshare_jax.suites.cartpole_gymnasium import Disturbed

        env = super().gymnasium_env(task)
        env.unwrapped.tau = self.disturbance.time_step
        return Disturbed(env, self.disturbance)
