"""A car too weak for its hill (Ernst, Geurts & Wehenkel 2005, "Tree-Based Batch Mode Reinforcement
Learning", appendix C.2), behind the methods that a GymnaxSuite calls.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.suites.integration import runge_kutta
from varshare_jax.types import Discrete

# s of an action, steps of integration in it: many, because acceleration jumps at position 0
_DURATION, _STEPS = 0.1, 10
_START = -0.5  # m, the bottom of the valley
_END, _FASTEST = 1.0, 3.0  # m to either side, m/s


class State(NamedTuple):
    """Position [m], velocity [m/s], steps so far."""

    position: jax.Array
    velocity: jax.Array
    time: jax.Array


class Params(NamedTuple):
    """Physics, and steps of an episode."""

    force: Any = 4.0  # N, of action 1; action 0 has as much to the left
    mass: Any = 1.0  # kg
    gravity: Any = 9.81  # m/s²
    max_steps_in_episode: Any = 100


class CarOnHill:
    """Reward 1 beyond the right end at no more than 3 m/s; -1 beyond the left end or if faster."""

    def action_space(self, params: Params) -> Discrete:
        return Discrete(2)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """At rest in the valley, always."""
        state = State(jnp.float32(_START), jnp.float32(0.0), jnp.int32(0))
        return _seen(state), state

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Params):
        """-> observation [2], state, reward, terminated, nothing."""
        force = params.force * (2.0 * action - 1.0)

        def motion(moving):
            position, velocity = moving
            return velocity, acceleration(position, velocity, force, params)

        position, velocity = runge_kutta(motion, (state.position, state.velocity), _DURATION,
                                         _STEPS)
        lost = (position < -_END) | (jnp.abs(velocity) > _FASTEST)
        won = (position > _END) & ~lost
        state = State(position, velocity, state.time + 1)
        return _seen(state), state, jnp.float32(won) - jnp.float32(lost), won | lost, {}

    def is_truncated(self, state: State, params: Params) -> jax.Array:
        return state.time >= params.max_steps_in_episode


def acceleration(position: jax.Array, velocity: jax.Array, force: jax.Array,
                 params: Params) -> jax.Array:
    """m/s² along the horizontal axis.

    The hill is p² + p left of 0 and p / √(1 + 5p²) right of it, [m].
    """
    root = 1 + 5 * jnp.square(position)
    slope = jnp.where(position < 0, 2 * position + 1, root**-1.5)
    bend = jnp.where(position < 0, 2.0, -15 * position * root**-2.5)
    pull = params.gravity + jnp.square(velocity) * bend
    return (force / params.mass - slope * pull) / (1 + jnp.square(slope))


def _seen(state: State) -> jax.Array:
    return jnp.stack([state.position, state.velocity])
