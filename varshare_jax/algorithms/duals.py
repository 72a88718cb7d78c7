"""Adam for what each task learns beside its networks: multipliers and temperatures, at a rate of
their own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

_ADAM = optax.scale_by_adam()


def dual_moments(duals: Any) -> Any:
    """Adam's moments of a tree of [M], task by task."""
    return jax.vmap(_ADAM.init)(duals)


def step_duals(duals: Any, grads: Any, moments: Any, rate: jax.Array) -> tuple[Any, Any]:
    """The next duals and moments; a gradient that is not finite counts as 0."""
    sound = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
    updates, moments = jax.vmap(_ADAM.update)(sound, moments)
    return jax.tree.map(lambda p, u: p - rate * u, duals, updates), moments
