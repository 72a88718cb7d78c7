"""Cart-poles whose actions come late, whose observations are noisy, or that start anywhere.

An action takes effect `delay` steps after it is chosen; until the first arrives there is no force.
Pending actions are part of the environment's state and are not observed, and every observation
carries fresh Gaussian noise: a policy of the present observation sees neither the true
state nor what it has already decided, so such a task is partially observed. Rewards and ends of
episodes follow the true state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.suites.cartpole import CartPoleSuite

_NO_FORCE = 0.5  # gymnax's force is proportional to 2 · action - 1


class Disturbance(NamedTuple):
    """What makes balancing hard, the same for all tasks; the defaults are CartPole's own.

    `noise`: standard deviations of position [m], velocity [m/s], angle [rad] and angular velocity
    [rad/s] as observed. `start`: episodes start at a position uniform in ± `start`.
    """

    time_step: float = 0.02  # s
    horizon: int = 500  # steps
    delay: int = 0  # steps
    noise: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    start: float = 0.05  # m

    @property
    def widening(self) -> float:
        """Factor from a position that CartPole draws at the start to one of this disturbance."""
        return self.start / Disturbance().start


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
        """-> observation [4], state; the noise has a key of its own, folded from `key`."""
        _, physics = self._env.reset_env(key, params)
        physics = physics.replace(x=physics.x * self._disturbance.widening)
        obs = self._env.get_obs(physics)
        pending = (jnp.float32(_NO_FORCE),) * self._disturbance.delay
        return self._seen(key, obs), DisturbedState(physics, pending)

    def step_env(self, key: jax.Array, state: DisturbedState, action: jax.Array, params: Any):
        """-> observation [4], state, reward, terminated, gymnax's info."""
        queue = *state.pending, jnp.float32(action)
        obs, physics, *rest = self._env.step_env(key, state.physics, queue[0], params)
        return self._seen(key, obs), DisturbedState(physics, queue[1:]), *rest

    def is_truncated(self, state: DisturbedState, params: Any) -> jax.Array:
        return self._env.is_truncated(state.physics, params)

    def _seen(self, key: jax.Array, obs: jax.Array) -> jax.Array:
        if not any(self._disturbance.noise):
            return obs
        # Fold 1 of a suite's key is its step's.
        drawn = jax.random.normal(jax.random.fold_in(key, 2), obs.shape)
        return obs + jnp.array(self._disturbance.noise) * drawn


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
