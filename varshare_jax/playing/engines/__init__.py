"""Playing trained policies in the implementations that suites stand for.

An engine is a module of this package with one function

    evaluate(suite, act, num_episodes, rng, progress) -> {"return", "length", "success"}

which plays E = `num_episodes` episodes of every task and returns arrays [M, E], "success" only
where the suite has one. `act(task_index, observations [B, D]) -> actions [B, ...]` is a
deterministic policy, normalisation included; `rng` draws the episodes, others for every task;
`progress(text)` tells people how far it is.
"""

import importlib
from collections.abc import Callable

import numpy as np

from varshare_jax.errors import unknown
from varshare_jax.suites import Suite

__all__ = ["ENGINES", "Act", "Evaluate", "make"]

Act = Callable[[int, np.ndarray], np.ndarray]
Evaluate = Callable[[Suite, Act, int, np.random.Generator, Callable[[str], None]],
                    dict[str, np.ndarray]]

ENGINES = ("jax", "gymnasium", "metaworld")
"""What `--engine` may name; `jax` is the suite itself and needs no module here."""


def make(name: str) -> Evaluate:
    """The function of the engine of that name; raises UserError for an unknown one."""
    if name not in ENGINES[1:]:
        raise unknown("--engine", name, ENGINES[1:])
    return importlib.import_module(f"varshare_jax.playing.engines.{name}").evaluate
