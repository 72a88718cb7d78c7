"""What a search may vary: ranges and choices for fields of the configuration, and its own settings.

In a plan, `space.<field>` is a dimension as `sweep.<field>` is a list of values: those of the plan
are every run's, those of a variant its own.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from varshare_jax import methods
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.config import Config
from varshare_jax.errors import UserError, unknown
from varshare_jax.methods import METHODS
from varshare_jax.settings import Section, field, leaves, replace

FIRST_SEED = 1000
"""Searches train seeds from here on, results the ones below: no seed chooses and tells."""
_EDGE = 0.05  # of a range, in which a chosen value counts as at its end
_Settings = TypeVar("_Settings", bound=Section)
_NEVER = {"suite", "method", "algorithm", "seed", "num_seeds", "total_steps", "sweep", "run_dir"}


@dataclasses.dataclass(frozen=True)
class Search(Section):
    """How the configurations of a plan are searched, the same for all of its runs."""

    section = "search"

    trials: int = field(48, "configurations tried for every run", above=0)
    places: int = field(8, "configurations trained side by side in one compiled program (C)",
                        above=0)
    objective: str = field("final", "what is maximised: the interquartile mean of the last "
                                    "evaluation's returns over seeds and tasks, or the mean "
                                    "return over all evaluations of training",
                           choices=("final", "area"))
    evaluations: int = field(10, "evaluations of a trial, evenly over its training", above=0)
    sampler: str = field("tpe", "tree-structured Parzen estimators, or draws that learn nothing",
                         choices=("tpe", "random"))
    sampler_seed: int = field(0, "seed of the proposals", least=0)
    startup: int = field(10, "trials before proposals learn from others, and that are complete "
                             "before the first one is pruned", above=0)
    pruner: str = field("median", "what ends bad trials early: less than the median of the others "
                                  "so far, successive halving, nothing",
                        choices=("median", "halving", "none"))
    warmup: int = field(5, "evaluations of a trial before it may be pruned", above=0)
    reduction: int = field(3, "successive halving keeps one of so many", least=2)


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A range [low, high] of a traced field, uniform or in its logarithm; or choices of any."""

    low: float = math.nan
    high: float = math.nan
    log: bool = False
    choices: tuple[Any, ...] = ()

    def edge(self, value: Any) -> str:
        """The end of the range that a value is at, within 5 % of it; "" within.

        Choices have ends if they are numbers: the least and the greatest.
        """
        if self.choices:
            if len(self.choices) < 2 or not all(type(c) in (int, float) for c in self.choices):
                return ""
            return {min(self.choices): "lowest", max(self.choices): "highest"}.get(value, "")
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return "low end" if share < _EDGE else "high end" if share > 1 - _EDGE else ""

    def __str__(self) -> str:
        if self.choices:
            return "{" + ", ".join(map(str, self.choices)) + "}"
        return f"[{self.low:g}, {self.high:g}]" + (" log" if self.log else "")


Space = Mapping[str, Dimension]
"""Dimensions by the dotted name of their field."""


def read_space(common: Mapping[str, Any], own: Mapping[str, Any],
               config: Config) -> dict[str, Dimension]:
    """The space of a run from the tables of its plan and of its variant.

    Raises UserError for what cannot be varied, what nothing of the run would read, and for a
    variant that changes a dimension all runs have in common.
    """
    shared, special = dict(_dimensions(common)), dict(_dimensions(own))
    for name in shared.keys() & special.keys():
        raise UserError(f"space.{name}: is common to all runs; a variant cannot change it")
    space = shared | special
    known = {leaf.name: leaf for leaf in leaves(config) if _searchable(leaf.name)}
    for name, dimension in space.items():
        if name not in known:
            raise unknown("space: field", name, known)
        _check_read(f"space.{name}", name, config)
        if not dimension.choices and name not in config.scalars():
            raise UserError(f"space.{name}: is static, so every value of a range would "
                            "compile a program of its own; give it choices")
        for value in dimension.choices or (dimension.low, dimension.high):
            replace(config, {name: value}).validate()
    _check_programs(space, config)
    return space


def read_table(where: str, settings: _Settings, table: Mapping[str, Any]) -> _Settings:
    """A section of a plan that is no run's; raises UserError for unknown settings and values."""
    try:
        found = replace(settings, table)
        for leaf in leaves(found):
            leaf.check()
        found.check()
    except UserError as error:
        raise UserError(f"{where}{settings.section}: {error}") from error
    return found


def check_equal_effort(file: str, runs: Mapping[str, tuple[Space, Config]]) -> None:
    """Raises UserError unless every run has a space and all have the same seeds and steps."""
    for name, (space, _) in runs.items():
        if not space:
            raise UserError(f"{file}: variant {name}: its space is empty; give 'space.<field>' "
                            "for every run that is to be tuned")
    for what in ("suite", "seed", "num_seeds", "total_steps"):
        values = {name: getattr(config, what) for name, (_, config) in runs.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name} {value}" for name, value in values.items())
            raise UserError(f"{file}: a search must spend as much on every run: {what} must be "
                            f"the same, not {told}")
    seed = next(iter(runs.values()))[1].seed
    if seed < FIRST_SEED:
        raise UserError(f"{file}: seed={seed}: a search takes seeds from {FIRST_SEED} on, which "
                        "no result uses")


def _dimensions(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Dimension]]:
    """Tables of dimensions, nested as TOML nests dotted keys."""
    allowed = {each.name for each in dataclasses.fields(Dimension)}
    for key, value in tree.items():
        name = prefix + key
        if not isinstance(value, Mapping):
            raise UserError(f"space.{name}={value!r}: must be {{low=, high=}} or "
                            "{choices=[...]}")
        if allowed & value.keys() or not value:
            yield name, _dimension(f"space.{name}", value, allowed)
        else:
            yield from _dimensions(value, f"{name}.")


def _dimension(where: str, table: Mapping[str, Any], allowed: set[str]) -> Dimension:
    for key in table:
        if key not in allowed:
            raise unknown(f"{where}: key", key, allowed)
    if "choices" in table:
        choices = table["choices"]
        if len(table) > 1 or not isinstance(choices, list) or not choices:
            raise UserError(f"{where}: choices must be a list of values, and alone")
        values = tuple(tuple(c) if isinstance(c, list) else c for c in choices)
        if len(set(values)) < len(values):
            raise UserError(f"{where}: has a choice twice")
        return Dimension(choices=values)
    ends: tuple[Any, Any] = table.get("low"), table.get("high")
    if not all(type(end) in (int, float) and math.isfinite(end) for end in ends):
        raise UserError(f"{where}: must have numbers low and high, or choices")
    low, high = map(float, ends)
    log = table.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}: log={log!r}: must be true or false")
    if low >= high or (log and low <= 0):
        raise UserError(f"{where}: low={low:g}, high={high:g}: must hold "
                        f"{'0 < ' if log else ''}low < high")
    return Dimension(low, high, log)


def _check_programs(space: Space, config: Config) -> None:
    """Raises UserError where static values do not fit together."""
    static = {name: dimension.choices for name, dimension in space.items()
              if name not in config.scalars()}
    for together in itertools.product(*static.values()):
        replace(config, dict(zip(static, together, strict=True))).validate()


def _searchable(name: str) -> bool:
    return name not in _NEVER and not name.startswith("run.")


def _check_read(where: str, name: str, config: Config) -> None:
    """Raises UserError for a field of an algorithm or a method that this run does not have."""
    section = name.partition(".")[0]
    if section in ALGORITHMS and section != config.algorithm:
        raise UserError(f"{where}: nothing of --algorithm={config.algorithm} reads it")
    if config.method not in METHODS:
        raise unknown("--method", config.method, METHODS)
    of_methods = {kind.section for kind in methods.sections()}
    entry = METHODS[config.method]
    unread = of_methods - {kind.section for kind in entry.method.settings}
    if entry.combiner == config.gradients.combine == "mean" and name != "gradients.combine":
        unread.add("gradients")  # they are added, whatever the settings of combiners are
    if section in unread:
        raise UserError(f"{where}: nothing of --method={config.method} reads it")
