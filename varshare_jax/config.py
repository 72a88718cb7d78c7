"""The configuration: every section of settings assembled into one tree, the source of every flag.

Sections stand in the room of what reads them. Those of algorithms, methods and suites come with
those of other packages. Nothing here imports JAX.
"""

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from varshare_jax import algorithms, methods, suites
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.algorithms.settings import AlgorithmConfig
from varshare_jax.errors import UserError, unknown
from varshare_jax.methods import METHODS
from varshare_jax.methods.settings import GradientsConfig
from varshare_jax.networks.settings import NetworkConfig
from varshare_jax.runs.settings import RunConfig
from varshare_jax.settings import Section, field, flag_value, flatten, get, leaves, replace
from varshare_jax.settings import to_dict as to_dict

_LAST_SEED = 2**31 - 1
_LISTS = ("leave_out", "adapt.regime")  # may hold several values: a configuration for each


@dataclasses.dataclass(frozen=True)
class _Tree:
    """One training run: a suite, an algorithm, a method, S seeds in one compiled program."""

    suite: str = field("cartpole10", f"tasks to learn: {', '.join(suites.names())}")
    method: str = field("varshare", f"how tasks share parameters: {', '.join(METHODS)}")
    algorithm: str = field("ppo", "how policies learn", choices=tuple(ALGORITHMS))
    num_seeds: int = field(1, "seeds trained side by side in one compiled program (S)", above=0,
                           most=10_000)
    seed: int = field(0, "the first seed; the others follow", least=0)
    total_steps: int = field(1_000_000, "environment steps per seed, summed over tasks", above=0,
                             most=10**15)
    sweep: str = field("", "fields to vary in one compiled program, of those marked [traced], such "
                           "as 'varshare.beta=0.1,1;ppo.learning_rate=3e-4,1e-3'; every "
                           "combination trains num_seeds seeds")
    run_dir: str = field("", "folder of the run; '' writes nothing")
    tasks: str = field("", "the suite's tasks to take, by name, separated by commas; '': all")
    without: str = field("", "tasks of the suite to do without, by name, separated by commas")
    leave_out: str = field("none", "a task that is stepped and evaluated but never learned from, "
                                   "as if the suite had none such; several, separated by commas, "
                                   "or all: a fold for each, in one compiled program")
    capacity: str = field("free", "matched: widths are scaled so that one task's forward pass "
                                  "reads as many parameters in training as VarShare's does at "
                                  "--network.hidden, within 2 %; merged: in inference",
                         choices=("free", "matched", "merged"))

    @property
    def learning(self) -> AlgorithmConfig:
        """The section of the algorithm."""
        return getattr(self, self.algorithm)

    @property
    def steps_per_task(self) -> int:
        """Environment steps of one task per update, T·N."""
        return self.learning.rollout_length * self.learning.num_envs

    def scalars(self) -> dict[str, float]:
        """The traced fields by dotted name; any of them may become a vector over seeds.

        Those of other algorithms are left out: nothing would read them.
        """
        others = ALGORITHMS.keys() - {self.algorithm}
        return {leaf.name: leaf.value for leaf in leaves(self)
                if leaf.traced and leaf.name.partition(".")[0] not in others}

    def configurations(self) -> tuple[Self, ...]:
        """The C combinations of folds and of `sweep` as runs of their own, the last field varying
        fastest.

        Each has a folder inside `run_dir`. Without either it is this config alone. Raises
        UserError for a sweep that cannot be read or varies what is not traced.
        """
        if not self.varies:
            return (self,)
        return tuple(replace(self, change | {
            "sweep": "", "run_dir": self.run_dir and f"{self.run_dir}/{_label(change)}"})
            for change in self._changes())

    def labels(self) -> tuple[str, ...]:
        """What tells the C configurations apart, such as learning_rate=0.001,beta=1."""
        return tuple(map(_label, self._changes()))

    @property
    def varies(self) -> bool:
        """Whether its configurations are runs of their own, with a folder each."""
        return bool(self.sweep) or any("," in get(self, name) for name in _LISTS)

    def _changes(self) -> list[dict[str, Any]]:
        """What each configuration changes; one that changes nothing without a sweep."""
        varied: dict[str, Any] = {name: get(self, name).split(",") for name in _LISTS
                                  if "," in get(self, name)}
        varied |= _parse_sweep(self.sweep, self.scalars(), self)
        return [dict(zip(varied, values, strict=True))
                for values in itertools.product(*varied.values())]

    def members(self) -> list[Self]:
        """What one program trains side by side: S = C · num_seeds configs of one seed each."""
        return [dataclasses.replace(config, seed=self.seed + s, num_seeds=1)
                for config in self.configurations() for s in range(self.num_seeds)]

    def num_updates(self, num_tasks: int) -> int:
        """Updates that reach `total_steps` with M = `num_tasks`, rounded up."""
        return max(1, math.ceil(self.total_steps / (num_tasks * self.steps_per_task)))

    def validate(self) -> Self:
        """Returns self; raises UserError at the first value that cannot work."""
        for leaf in leaves(self):
            leaf.check()
        if self.seed + self.num_seeds - 1 > _LAST_SEED:
            raise UserError(f"--seed={self.seed}: seed + num_seeds must stay below "
                            f"{_LAST_SEED + 1}")
        for each in dataclasses.fields(self):
            if isinstance(section := getattr(self, each.name), Section):
                section.check()
        ALGORITHMS[self.algorithm].check(self)
        if get(self, "adapt.regime") and self.leave_out != "none":
            raise UserError(f"--leave_out={self.leave_out}: every task is learned alone under "
                            "--adapt.regime; use none")
        if self.varies:
            for config in self.configurations():
                config.validate()
        return self


def _sections() -> dict[str, type[Section]]:
    """All sections by name, in the order of their flags."""
    kinds: tuple[type[Section], ...] = (
        *algorithms.sections(), NetworkConfig, *methods.sections(), GradientsConfig,
        *suites.sections(), RunConfig)
    return {kind.section: kind for kind in kinds}


if TYPE_CHECKING:
    class Config(_Tree):
        """One training run: a suite, an algorithm, a method, S seeds in one compiled program.

        Its sections are attributes beside its fields: `config.ppo.num_envs`. Which there are
        depends on the packages that are installed.
        """

        def __init__(self, **settings: Any): ...
        def __getattr__(self, section: str) -> Any: ...
else:
    Config = dataclasses.make_dataclass(
        "Config", [(name, section, dataclasses.field(default_factory=section))
                   for name, section in _sections().items()],
        bases=(_Tree,), frozen=True, namespace={"__module__": __name__, "__doc__": _Tree.__doc__})


def _parse_sweep(text: str, traced: Mapping[str, Any],
                 config: _Tree) -> dict[str, tuple[float, ...]]:
    varied = {}
    for part in filter(None, text.split(";")):
        name, _, values = part.partition("=")
        if name not in traced:
            raise _not_swept(name, traced, config)
        if name in varied:
            raise UserError(f"--sweep={text}: names '{name}' twice")
        try:
            varied[name] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise UserError(f"--sweep={text}: must be fields with their values, such as "
                            f"'varshare.beta=0.1,1;ppo.learning_rate=3e-4,1e-3'") from None
        if len(set(varied[name])) < len(varied[name]):
            raise UserError(f"--sweep={text}: '{name}' has a value twice")
    return varied


def _not_swept(name: str, traced: Mapping[str, Any], config: _Tree) -> UserError:
    """Why a field cannot be varied within one program, and what can be near it."""
    fields = {leaf.name: leaf.traced for leaf in leaves(config)}
    if name not in fields:
        return unknown("--sweep: field", name, traced)
    if fields[name]:
        return UserError(f"--sweep={name}=…: nothing of --algorithm={config.algorithm} reads it")
    section = name.rpartition(".")[0]
    beside = [other for other in traced if other.rpartition(".")[0] == section]
    there = f"traced of {section}: {', '.join(beside)}" if beside else "--help marks those that are"
    return UserError(f"--sweep={name}=…: is not traced, so each of its values takes a program, and "
                     f"a run, of its own; {there}")


def _label(change: Mapping[str, Any]) -> str:
    """A folder's name, such as learning_rate=0.001,beta=1; other values make another name."""
    def shortest(value: float | str) -> str:
        if isinstance(value, str):
            return value
        short = f"{value:g}"
        return short if float(short) == value else repr(value)

    return ",".join(f"{name.rpartition('.')[2]}={shortest(value)}"
                    for name, value in change.items())


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Inverse of `to_dict`; raises UserError for unknown fields."""
    return replace(Config(), dict(flatten(tree)))


def to_flags(config: Config, presets: Sequence[str] = ()) -> list[str]:
    """The command line that makes `config`, with `presets` applied before single flags."""
    base = with_presets(Config(), presets)
    flags = [f"--{leaf.name}={flag_value(leaf.value)}" for leaf in leaves(config)
             if leaf.value != get(base, leaf.name)]
    return [f"--preset={','.join(presets)}", *flags] if presets else flags


def _read_presets() -> dict[str, dict[str, Any]]:
    tree = tomllib.loads(Path(__file__).with_name("presets.toml").read_text())
    return {name: dict(flatten(settings)) for name, settings in tree.items()}


PRESETS = _read_presets()
"""Named bundles of settings: applied in the order given, before single flags."""


def with_presets(config: Config, names: Sequence[str]) -> Config:
    """Applies presets in order, each after those that it names as `after`.

    Raises UserError for an unknown one.
    """
    for name in names:
        if name not in PRESETS:
            raise unknown("--preset", name, PRESETS)
        preset = dict(PRESETS[name])
        config = replace(with_presets(config, preset.pop("after", ())), preset)
    return config
