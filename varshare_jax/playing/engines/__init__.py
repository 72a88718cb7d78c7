"""Playing trained policies in the implementations that suites stand for.

An engine is a module of this package with two functions

    check(suite) raises UserError where it cannot play the suite

    evaluate(suite, act, num_episodes, rng, progress) -> {"return", "length", "success"}

which plays E = `num_episodes` episodes of every task and returns arrays [M, E], "success" only
where the suite has one. `act(task_index, observations [B, D]) -> actions [B, ...]` is a
deterministic policy, normalisation included; `rng` draws the episodes, others for every task;
`progress(text)` tells people how far it is.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

import numpy as np

from varshare_jax.errors import unknown
from varshare_jax.playing.settings import ENGINES
from varshare_jax.suites.base import Suite

Act = Callable[[int, np.ndarray], np.ndarray]
Evaluate = Callable[[Suite, Act, int, np.random.Generator, Callable[[str], None]],
                    dict[str, np.ndarray]]


def make(name: str) -> Evaluate:
    """The function of the engine of that name; raises UserError for an unknown one."""
    return _module(name).evaluate


def check(name: str, suite: Suite) -> None:
    """Raises UserError where the engine cannot play the suite, before anything is played."""
    _module(name).check(suite)


def _module(name: str) -> ModuleType:
    if name not in ENGINES[1:]:
        raise unknown("--engine", name, ENGINES[1:])
    return importlib.import_module(f"varshare_jax.playing.engines.{name}")
