"""CartPole-10 Hard: its cart-poles with a late action, a noisy observation, a longer horizon.

An action takes effect `delay` steps after it is chosen; until the first arrives there is no force.
Pending actions are part of the environment's state and are not observed, and every observation
carries fresh Gaussian noise: a policy of the present observation sees neither the true
state nor what it has already decided, so the task is partially observed. Rewards and ends of
episodes follow the true state. The time step is half of CartPole's, without which a late action
could not be recovered from on the short poles.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.suites.cartpole import TASKS, CartPoleSuite

VERSION = "1"
_NO_FORCE = 0.5  # gymnax's force is proportional to 2 · action - 1


class Disturbance(NamedTuple):
    """What makes balancing hard, the same for all tasks.

    `noise`: standard deviations of position [m], velocity [m/s], angle [rad] and angular velocity
    [rad/s] as observed.
    """

    time_step: float  # s
    horizon: int  # steps
    delay: int  # steps
    noise: tuple[float, float, float, float]


HARD = Disturbance(time_step=0.01, horizon=1000, delay=1, noise=(0.02, 0.1, 0.01, 0.1))
RANDOM_RETURNS = (51.3, 62.5, 73.5, 96.9, 17.3, 12.7, 11.2, 9.5, 16.7, 13.4)  # 4096 episodes


class DisturbedState(NamedTuple):
    """`physics`: gymnax's state; `pending`: actions [delay] that have not arrived, next first."""

    physics: Any
    pending: jax.Array


class DisturbedCartPole:
    """gymnax's CartPole under a `Disturbance`, behind the methods that a GymnaxSuite calls."""

    def __init__(self, env: Any, disturbance: Disturbance):
        self._env, self._disturbance = env, disturbance
        self.action_space, self._noise = env.action_space, jnp.array(disturbance.noise)

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, DisturbedState]:
        """-> observation [4], state; the noise has a key of its own, folded from `key`."""
        obs, physics = self._env.reset_env(key, params)
        pending = jnp.full(self._disturbance.delay, _NO_FORCE)
        return self._seen(key, obs), DisturbedState(physics, pending)

    def step_env(self, key: jax.Array, state: DisturbedState, action: jax.Array, params: Any):
        """-> observation [4], state, reward, terminated, gymnax's info."""
        queue = jnp.append(state.pending, action.astype(state.pending.dtype))
        obs, physics, *rest = self._env.step_env(key, state.physics, queue[0], params)
        return self._seen(key, obs), DisturbedState(physics, queue[1:]), *rest

    def is_truncated(self, state: DisturbedState, params: Any) -> jax.Array:
        return self._env.is_truncated(state.physics, params)

    def _seen(self, key: jax.Array, obs: jax.Array) -> jax.Array:
        # Fold 1 of a suite's key is its step's.
        return obs + self._noise * jax.random.normal(jax.random.fold_in(key, 2), obs.shape)


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


def make() -> DisturbedCartPoleSuite:
    """The suite `cartpole10_hard`, M = 10."""
    tasks = tuple(task._replace(random_return=measured)
                  for task, measured in zip(TASKS, RANDOM_RETURNS, strict=True))
    return DisturbedCartPoleSuite("cartpole10_hard", tasks, VERSION, HARD)
