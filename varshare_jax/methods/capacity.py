"""Widths at which methods have equally many active parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from varshare_jax.errors import UserError
from varshare_jax.methods.lifting import MultiTaskNetwork

REFERENCE = "varshare"
TOLERANCE = 0.02


def match(config: Any, make_network: Callable[[Any], MultiTaskNetwork]) -> Any:
    """`config` with all hidden widths scaled until its active parameters match the reference's.

    The reference is VarShare at the widths of `config`; `make_network` makes a config's network.
    Raises UserError where no widths come within 2 % of it.
    """
    target = active(make_network(dataclasses.replace(config, method=REFERENCE)))
    count = functools.lru_cache(lambda hidden: active(make_network(_with_hidden(config, hidden))))
    given = config.network.hidden

    low, high = 0.0, 1.0
    while count(_scaled(given, high)) < target:
        low, high = high, 2 * high
    while _scaled(given, low) != _scaled(given, high) and high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if count(_scaled(given, middle)) < target else (low, middle)
    candidates = {_scaled(given, low), _scaled(given, high)} | (
        set() if config.network.torso == "bronet" else _neighbours(_scaled(given, low)))
    best = min(candidates, key=lambda hidden: (abs(count(hidden) - target), hidden))
    if abs(count(best) - target) > TOLERANCE * target:
        raise UserError(
            f"--capacity=matched: {config.method} cannot match the {target} active parameters of "
            f"{REFERENCE} with --network.hidden={','.join(map(str, given))}; the nearest widths "
            f"{','.join(map(str, best))} have {count(best)}. Wider layers match more finely")
    return _with_hidden(config, best)


def active(network: MultiTaskNetwork) -> int:
    """Parameters that one task's forward pass reads in training."""
    return network.num_parameters(jax.eval_shape(network.init, jax.random.key(0)))["active"]


def _with_hidden(config: Any, hidden: tuple[int, ...]) -> Any:
    return dataclasses.replace(config, network=dataclasses.replace(config.network, hidden=hidden))


def _scaled(hidden: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(width * factor)) for width in hidden)


def _neighbours(hidden: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Widths with one layer a little wider: steps finer than scaling all layers."""
    return {(*hidden[:i], width + more, *hidden[i + 1:])
            for i, width in enumerate(hidden) for more in (1, 2, 3)}
