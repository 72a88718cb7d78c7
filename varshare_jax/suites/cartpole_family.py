"""CartPole-Family: any number of cart-poles, from all alike to extremely different.

A task's physics are drawn log-uniformly around CartPole's, each quantity q as

    q = nominal · (bound / nominal)^(spread · |u|),   u ~ U[-1, 1]

with the upper bound where u > 0 and the lower one where u < 0. The quantities' bounds are such
that linear controllers balance in every corner of them (tests/test_cartpole_suites.py). Above
a spread of one half tasks also differ in direction: the share `spread - 1/2` of them has its force
reversed, half of them at a spread of 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from varshare_jax.errors import UserError, unknown
from varshare_jax.suites.base import ScoreRange
from varshare_jax.suites.cartpole import NOMINAL, CartPoleTask
from varshare_jax.suites.cartpole_disturbed import POLE_ALONE, DisturbedCartPoleSuite
from varshare_jax.suites.random_play import random_returns

VERSION = "1"
BOUNDS = {"pole_length": (0.05, 2.0), "cart_mass": (0.5, 4.0), "pole_mass": (0.05, 1.0),
          "gravity": (1.6, 25.0)}
_SAME_DIRECTION = 0.5  # spread up to which no force is reversed
_RANDOM_EPISODES = 128  # per task


class FamilyOptions(NamedTuple):
    """What the name of a family sets."""

    tasks: int = 10  # 2 … 256
    spread: float = 0.5  # 0: identical … 1: extreme
    seed: int = 0  # of the physics


_ALLOWED = {"tasks": (int, 2, 256, "a whole number from 2 to 256"),
            "spread": (float, 0.0, 1.0, "a number from 0 to 1"),
            "seed": (int, 0, 2**31 - 1, "a whole number from 0 to 2147483647")}


class CartPoleFamilySuite(DisturbedCartPoleSuite):
    """Cart-poles whose random returns stand in no table."""

    @functools.cached_property
    def score_range(self) -> ScoreRange:  # type: ignore[override]  # measured, not set
        """Measured when first asked for: random actions for 128 episodes of every task."""
        return ScoreRange(random_returns(self, jax.random.key(0), _RANDOM_EPISODES),
                          (float(self.horizon),) * self.num_tasks)


def make(name: str) -> CartPoleFamilySuite:
    """The suite `cartpole_family:tasks=…,spread=…,seed=…`; what is left out has its default.

    Raises UserError for a setting that is unknown, given twice or out of its range.
    """
    options = parse(name)
    return CartPoleFamilySuite(canonical(options), family_tasks(options), VERSION, POLE_ALONE)


def canonical(options: FamilyOptions) -> str:
    """The family's name with every setting written out."""
    return (f"cartpole_family:tasks={options.tasks},spread={options.spread:g},"
            f"seed={options.seed}")


def parse(name: str) -> FamilyOptions:
    """The settings in the name of a family; raises UserError as `make` says."""
    given: dict[str, Any] = {}
    for part in filter(None, name.partition(":")[2].split(",")):
        key, _, text = part.partition("=")
        if key not in _ALLOWED:
            raise unknown(f"--suite={name}: setting", key, _ALLOWED)
        if key in given:
            raise UserError(f"--suite={name}: {key} is set twice")
        given[key] = _value(name, key, text)
    return FamilyOptions(**given)


def _value(name: str, key: str, text: str) -> Any:
    kind, low, high, allowed = _ALLOWED[key]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise UserError(f"--suite={name}: {key}={text}; allowed: {allowed}")
    return value


def family_tasks(options: FamilyOptions) -> tuple[CartPoleTask, ...]:
    """The family's tasks [M].

    The first tasks of a seed and spread are the same whatever their number, and at another spread
    the same tasks lie further out in the same direction.
    """
    return tuple(_task(options, index) for index in range(options.tasks))


def _task(options: FamilyOptions, index: int) -> CartPoleTask:
    draws = np.random.default_rng((options.seed, index)).uniform(-1.0, 1.0, len(BOUNDS))
    physics = {field: _between(getattr(NOMINAL, field), *BOUNDS[field], options.spread * u)
               for field, u in zip(BOUNDS, draws, strict=True)}
    reversed_ = _is_reversed(index, options.spread)
    return CartPoleTask(f"task{index}" + "_reversed" * reversed_, **physics,
                        force=-NOMINAL.force if reversed_ else NOMINAL.force)


def _between(nominal: float, low: float, high: float, u: float) -> float:
    bound = high if u > 0 else low
    return float(nominal * (bound / nominal) ** abs(u))


def _is_reversed(index: int, spread: float) -> bool:
    """Whether the van der Corput sequence, which fills [0, 1) evenly, falls in the upper share.

    So any number of first tasks has close to that share reversed, and the first task never.
    """
    bits = f"{index:b}"[::-1]
    return int(bits, 2) / 2 ** len(bits) >= 1.0 - max(0.0, spread - _SAME_DIRECTION)
