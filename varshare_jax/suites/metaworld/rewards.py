"""Shaping functions of Meta-World's rewards (the tolerance family of the DeepMind Control Suite).

All work element-wise on arrays of any shape, in the precision of their inputs.
"""

import math

import jax
import jax.numpy as jnp

_VALUE_AT_MARGIN = 0.1
_SCALES = {"long_tail": math.sqrt(1 / _VALUE_AT_MARGIN - 1),
           "gaussian": math.sqrt(-2 * math.log(_VALUE_AT_MARGIN))}


def norm(x: jax.Array) -> jax.Array:
    """Euclidean norm over the last axis."""
    return jnp.sqrt(jnp.sum(jnp.square(x), -1))


def tolerance(x: jax.Array, lower: float, upper: float, margin: jax.Array | float,
              sigmoid: str = "long_tail") -> jax.Array:
    """1 within [lower, upper], falling to 0.1 at `margin` outside of it (Tassa et al. 2018).

    A margin of 0 gives 0 outside. `sigmoid`: `long_tail` or `gaussian`.
    """
    outside = jnp.maximum(lower - x, x - upper)
    scaled = outside / jnp.where(margin == 0, 1.0, margin) * _SCALES[sigmoid]
    tail = 1 / (scaled**2 + 1) if sigmoid == "long_tail" else jnp.exp(-0.5 * scaled**2)
    return jnp.where(outside <= 0, 1.0, jnp.where(margin == 0, 0.0, tail))


def hamacher(a: jax.Array, b: jax.Array) -> jax.Array:
    """Hamacher product ab / (a + b − ab) of two values in [0, 1]; 0 where both are 0."""
    denominator = a + b - a * b
    return jnp.where(denominator > 0, a * b / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def within_prism(x: jax.Array, zero: jax.Array, one: jax.Array) -> jax.Array:
    """1 outside the box spanned by corners `zero` and `one` [3]; inside, the product of how far
    x [3] has come from `zero` to `one` along each axis.
    """
    inside = jnp.all((x >= jnp.minimum(zero, one)) & (x <= jnp.maximum(zero, one)), -1)
    return jnp.where(inside, jnp.prod((x - zero) / (one - zero), -1), 1.0)


def bell(distance: jax.Array) -> jax.Array:
    """The bonus near a goal in V1: 1000 (exp(−d²/0.01) + exp(−d²/0.001)), d in m."""
    return 1000 * (jnp.exp(-distance**2 / 0.01) + jnp.exp(-distance**2 / 0.001))
