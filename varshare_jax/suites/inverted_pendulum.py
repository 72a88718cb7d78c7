"""A pendulum balanced by pushing its cart (Lagoudakis & Parr 2003, "Least-Squares Policy
Iteration", section 9.2), behind the methods that a GymnaxSuite calls.

The cart's own motion is not part of the task: only the pendulum's is.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.suites.integration import runge_kutta
from varshare_jax.types import Discrete

_DURATION, _STEPS = 0.1, 2  # s of an action, steps of integration in it
_FALLEN = math.pi / 2  # rad from upright
_START = math.pi / 8  # rad from upright at most


class State(NamedTuple):
    """Angle from upright [rad], angular velocity [rad/s], steps so far."""

    angle: jax.Array
    velocity: jax.Array
    time: jax.Array


class Params(NamedTuple):
    """Physics, and steps of an episode."""

    force: Any = 50.0  # N, of action 2; action 1 has none, action 0 the opposite
    noise: Any = 10.0  # N at most, uniform, added to every action's force
    length: Any = 0.5  # m, l of the paper
    mass: Any = 2.0  # kg
    cart_mass: Any = 8.0  # kg
    gravity: Any = 9.8  # m/s²
    max_steps_in_episode: Any = 3000


class InvertedPendulum:
    """Reward -1 for falling, else 0."""

    def action_space(self, params: Params) -> Discrete:
        return Discrete(3)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """At rest, up to π/8 from upright."""
        angle = jax.random.uniform(key, minval=-_START, maxval=_START)
        state = State(angle, jnp.float32(0.0), jnp.int32(0))
        return _seen(state), state

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Params):
        """-> observation [2], state, reward, terminated, nothing."""
        noise = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        force = params.force * (action - 1.0) + params.noise * noise

        def motion(moving):
            angle, velocity = moving
            return velocity, acceleration(angle, velocity, force, params)

        angle, velocity = runge_kutta(motion, (state.angle, state.velocity), _DURATION, _STEPS)
        fallen = jnp.abs(angle) > _FALLEN
        state = State(angle, velocity, state.time + 1)
        return _seen(state), state, -jnp.float32(fallen), fallen, {}

    def is_truncated(self, state: State, params: Params) -> jax.Array:
        return state.time >= params.max_steps_in_episode


def acceleration(angle: jax.Array, velocity: jax.Array, force: jax.Array,
                 params: Params) -> jax.Array:
    """rad/s²; a force to the right turns the pendulum to the left."""
    share = params.mass * params.length / (params.mass + params.cart_mass)
    turning = (params.gravity * jnp.sin(angle)
               - share * jnp.square(velocity) * jnp.sin(2 * angle) / 2
               - jnp.cos(angle) * force / (params.mass + params.cart_mass))
    return turning / (4 / 3 * params.length - share * jnp.square(jnp.cos(angle)))


def _seen(state: State) -> jax.Array:
    return jnp.stack([state.angle, state.velocity])
