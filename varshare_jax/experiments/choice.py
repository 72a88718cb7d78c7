"""What tuning chose, by one stated rule: the same for a grid and for a search."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from varshare_jax.experiments.space import Space

_MEASURES = {"final": "interquartile mean of the final evaluation's returns over seeds and tasks",
             "area": "mean return over all evaluations of training"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration: what it varied, and its scores (-inf where a seed diverged)."""

    values: Mapping[str, Any]
    iqm: float
    area: float


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The files that tuning wrote: the table in Markdown, the chosen settings in TOML."""

    table: Path
    settings: Path


def rule(objective: str = "final") -> str:
    """`choose` in words."""
    other = next(name for name in _MEASURES if name != objective)
    return (f"Chosen is the configuration with the highest {_MEASURES[objective]}; on a tie (to "
            f"0.1 % of the best) the one with the highest {_MEASURES[other]}. A configuration "
            "with a diverged seed is never chosen.")


def choose(trials: Sequence[Trial], objective: str = "final") -> Trial | None:
    """The best by `rule`; of equals the first. None where every configuration diverged."""
    scores = [(trial.iqm, trial.area) if objective == "final" else (trial.area, trial.iqm)
              for trial in trials]
    best = max(score for score, _ in scores)
    if not math.isfinite(best):
        return None
    ties = [index for index, (score, _) in enumerate(scores) if score >= best - 1e-3 * abs(best)]
    return trials[max(ties, key=lambda index: scores[index][1])]


def shown(values: Mapping[str, Any]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                     for name, value in values.items())


def edges(spaces: Mapping[str, Space], chosen: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each chosen value at an end of its dimension: the best may lie beyond it."""
    for run, values in chosen.items():
        for name, value in values.items():
            if edge := spaces[run][name].edge(value):
                yield (f"{run}: {shown({name: value})} is at the {edge} of {spaces[run][name]}: "
                       "the best may lie beyond it")


def to_toml(head: str, chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """What a plan's `tuned` reads: a table of settings for each run."""
    lines = [f"# {head}"]
    for run, values in chosen.items():
        lines += ["", f"[{run}]", *(f"{name} = {_literal(value)}"
                                    for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, lists and booleans are TOML's, too."""
    return repr(value) if isinstance(value, float) else json.dumps(value)
