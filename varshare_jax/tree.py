"""Small functions on trees of variables."""

from collections.abc import Callable
from typing import Any

import jax


def by_layer(tree: dict[str, Any], function: Callable[[Any], jax.Array],
             is_leaf: Callable[[Any], bool] | None = None) -> dict[str, jax.Array]:
    """Sums `function` over the leaves of each layer, the innermost entry that holds leaves.

    A layer's name joins those of the path to it, as in `actor_0`.
    """
    sums: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
        names = [entry.key for entry in path]
        layer = "_".join(names[:-1] or names)
        sums[layer] = sums.get(layer, 0.0) + function(leaf)
    return sums
