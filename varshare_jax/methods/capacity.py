"""Widths at which methods have equally many parameters, in training or once merged."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from varshare_jax.errors import UserError
from varshare_jax.methods.lifting import MultiTaskNetwork

REFERENCE = "varshare"
TOLERANCE = 0.02
COUNTS = {"matched": "active", "merged": "merged"}
"""Which parameters each choice of `--capacity` makes equal, as `num_parameters` counts them."""


def match(config: Any, make_network: Callable[[Any], MultiTaskNetwork]) -> Any:
    """`config` with all hidden widths scaled until it has as many parameters as the reference.

    The reference is VarShare at the widths of `config`, whose `capacity` names what is counted;
    `make_network` makes a config's network. Raises UserError where no widths come within 2 % of it.
    """
    counted = COUNTS[config.capacity]
    # What no network depends on, so that a plan's runs find each other's counts.
    bare = dataclasses.replace(config, suite="", seed=0, num_seeds=1, total_steps=1, sweep="",
                               run_dir="", tasks="", without="", leave_out="none")
    target = parameters(make_network(dataclasses.replace(bare, method=REFERENCE)), counted)
    given = config.network.hidden

    def count(hidden):
        return parameters(make_network(_with_hidden(bare, hidden)), counted)

    low, high = 0.0, 1.0
    while count(_scaled(given, high)) < target:
        low, high = high, 2 * high
    while _scaled(given, low) != _scaled(given, high) and high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if count(_scaled(given, middle)) < target else (low, middle)
    for reach in (3, 9):
        candidates = {_scaled(given, low), _scaled(given, high)} | (
            set() if config.network.torso == "bronet" else _neighbours(_scaled(given, low), reach))
        best = min(candidates, key=lambda hidden: (abs(count(hidden) - target), hidden))
        if abs(count(best) - target) <= TOLERANCE * target:
            return _with_hidden(config, best)
    raise UserError(
        f"--capacity={config.capacity}: {config.method} cannot match the {target} {counted} "
        f"parameters of {REFERENCE} with --network.hidden={','.join(map(str, given))}; the "
        f"nearest widths {','.join(map(str, best))} have {count(best)}. Wider layers match more "
        "finely")


@functools.lru_cache(maxsize=4096)
def parameters(network: MultiTaskNetwork, counted: str) -> int:
    """Parameters of one task: those `active` in training, or those `merged` for inference."""
    return network.num_parameters(jax.eval_shape(network.init, jax.random.key(0)))[counted]


def _with_hidden(config: Any, hidden: tuple[int, ...]) -> Any:
    return dataclasses.replace(config, network=dataclasses.replace(config.network, hidden=hidden))


def _scaled(hidden: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(width * factor)) for width in hidden)


def _neighbours(hidden: tuple[int, ...], reach: int) -> set[tuple[int, ...]]:
    """Widths with one layer up to `reach` wider: steps finer than scaling all layers."""
    return {(*hidden[:i], width + more, *hidden[i + 1:])
            for i, width in enumerate(hidden) for more in range(1, reach + 1)}
