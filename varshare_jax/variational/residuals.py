"""Residuals that mirror the shared parameters, W_m = θ + φ_m: what they are, how large.

Methods that give every task an entry for each shared one (VarShare, L2-soft) have them; those
whose tasks own heads, factors or coefficients do not.
"""

from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.types import Variables
from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.tree import by_layer

_TINY = 1e-12


def mean_of(leaf: Any) -> jax.Array:
    return leaf.mean if is_gaussian(leaf) else leaf


def mirrors(variables: Variables) -> bool:
    """Whether each task owns exactly one residual for every shared parameter."""
    own = jax.tree.map(lambda leaf: mean_of(leaf).shape[1:], variables["task"],
                       is_leaf=is_gaussian)
    return bool(own) and own == jax.tree.map(jnp.shape, variables["shared"])


def means(variables: Variables) -> Any:
    """The residuals, means of random ones, in the tree of the shared ones; leaves [M, ...]."""
    return jax.tree.map(mean_of, variables["task"], is_leaf=is_gaussian)


def relative_size(variables: Variables) -> dict[str, jax.Array]:
    """Σ|μ_m| / Σ|θ| of each layer as `relative_mu/<layer>`, each [M]; empty without residuals."""
    if not mirrors(variables):
        return {}

    def size(tree):
        return by_layer(tree, lambda x: jnp.sum(jnp.abs(x)))

    shared, own = size(variables["shared"]), jax.vmap(size)(means(variables))
    return {f"relative_mu/{layer}": own[layer] / jnp.maximum(shared[layer], _TINY)
            for layer in own}
