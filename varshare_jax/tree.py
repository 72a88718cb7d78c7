"""Small functions on trees of variables."""

from collections.abc import Callable
from typing import Any

import jax


def by_layer(tree: dict[str, Any], function: Callable[[Any], jax.Array],
             is_leaf: Callable[[Any], bool] | None = None) -> dict[str, jax.Array]:
    """Sums `function` over the leaves of each top-level entry of one collection."""
    return {layer: sum(function(leaf) for leaf in jax.tree.leaves(branch, is_leaf=is_leaf))
            for layer, branch in tree.items()}
