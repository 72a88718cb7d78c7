"""Small functions on trees of variables."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import DictKey


def layers(tree: dict[str, Any],
           is_leaf: Callable[[Any], bool] | None = None) -> dict[str, list[Any]]:
    """The leaves of each layer, the innermost dict that holds leaves.

    A layer's name joins those of the path to it, as in `actor_0`.
    """
    found: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
        found.setdefault(layer_of(path), []).append(leaf)
    return found


def layer_of(path: tuple[Any, ...]) -> str:
    """The name of the layer that a leaf of this path is in."""
    names = [entry.key for entry in path if isinstance(entry, DictKey)]
    return "_".join(names[:-1] or names)


def by_layer(tree: dict[str, Any], function: Callable[[Any], jax.Array],
             is_leaf: Callable[[Any], bool] | None = None) -> dict[str, jax.Array]:
    """Sums `function` over the leaves of each layer."""
    sums: dict[str, Any] = {
        name: sum(map(function, leaves)) for name, leaves in layers(tree, is_leaf).items()}
    return sums
