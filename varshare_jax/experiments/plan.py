"""Plans: an experiment as a TOML file, read into the runs that it stands for.

A plan's keys are fields of the configuration, by the names of their flags, and those of
`PLAN_KEYS`. Its table `variants` names runs that change them. What a file says is checked when
it is loaded for running, not when plans are listed.
"""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from varshare_jax.config import Config, with_presets
from varshare_jax.errors import UserError, unknown
from varshare_jax.experiments.space import (
    Search,
    Space,
    check_equal_effort,
    read_space,
    read_table,
)
from varshare_jax.runs.settings import LauncherConfig
from varshare_jax.settings import Registry, flatten, leaves, replace

PLANS = Path(__file__).parent / "plans"
PLAN_KEYS: dict[str, type] = {
    "title": str, "methods": list, "variants": dict, "cases": dict, "presets": list,
    "sweep": dict, "tuned": str, "tuning": bool, "seeds_apart": bool, "evaluations": dict,
    "adaptation": dict, "space": dict, "search": dict, "launcher": dict}
VARIANT_KEYS: dict[str, type] = {"presets": list, "sweep": dict, "space": dict}
CASE_KEYS: dict[str, type] = {"tuned": str}
EVALUATION_KEYS: dict[str, type] = {
    "weights": str, "engine": str, "samples": int, "actions": str, "episodes": int,
    "eval_seed": int}
"""The flags of `varshare-evaluate` that a plan may set: none that names a file."""
ADAPTATION_KEYS = "regime", "start"
"""Flags of `varshare-adapt` that are no settings."""
_NOT_ADAPTATIONS = {"suite", "method", "leave_out", "adapt.source", "adapt.regime", "adapt.start"}
_NOT_A_PLANS = {"run_dir", "sweep", "run.compile_cache"}  # where things go, and what is executed
_NAME = re.compile(r"\w[\w.,=+-]{0,99}")  # of a folder or file within the plan's own


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One compiled program of a plan: its seeds, and the configurations of its sweep.

    `tuned` are the settings that came from the plan's file of tuned ones, none where it has none
    for this run, None where the plan names no file; `space` is what a search varies.
    """

    name: str
    config: Config
    presets: tuple[str, ...]
    tuned: Mapping[str, Any] | None
    space: Space

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of an experiment in their order, and what follows them.

    `evaluations` holds the flags of `varshare-evaluate` by name, for each run once it is
    finished; `adaptation` those of `varshare-adapt`, for each that has left tasks out. With
    `tuning` every run sweeps as many configurations, and the best is chosen. A plan with a
    `search` has no runs to make: its runs' spaces are searched. `launcher` is read where its jobs
    are a cluster's.
    """

    name: str
    title: str
    out: Path
    runs: tuple[PlannedRun, ...]
    tuning: bool
    evaluations: Mapping[str, Mapping[str, Any]]
    search: Search | None = None
    launcher: LauncherConfig = dataclasses.field(default_factory=LauncherConfig)
    adaptation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def searched(self) -> Search:
        """The `search` of a plan that is known to have one."""
        assert self.search
        return self.search


_FOLDERS = Registry("plans", {"varshare_jax": PLANS},
                    lambda name, package: Path(package.__path__[0]))


def _files() -> dict[str, Path]:
    """All plans by name; raises UserError where two packages have one of the same name."""
    files: dict[str, Path] = {}
    for path in (path for folder in _FOLDERS.values() for path in folder.glob("*.toml")):
        if path.stem in files:
            raise UserError(f"experiment {path.stem}: {path} and {files[path.stem]} have the "
                            "same name")
        files[path.stem] = path
    return files


def names() -> list[str]:
    """The plans that come with the package, and those that other packages register."""
    return sorted(_files())


def title(name: str) -> str:
    """What a plan is for, in a line."""
    return str(_read(_path(name)).get("title", ""))


def load(name: str, out: Path | None = None, *, only: Sequence[str] = (),
         overrides: Mapping[str, Any] | None = None,
         search: Mapping[str, Any] | None = None,
         launcher: Mapping[str, Any] | None = None) -> Plan:
    """The plan of that name, or in the TOML file of that name, with its runs inside `out`.

    Settings come from the defaults, the presets, the plan, its file of tuned settings, the case,
    the variant, `overrides`: later ones win. `search` changes the settings of a plan's search,
    `launcher` those of its jobs. Raises UserError for unknown names, keys and values.
    """
    path = _path(name)
    tree = _read(path)
    keys = _checked(tree, PLAN_KEYS, f"{path.name}: ")
    out = out or Path("runs") / path.stem
    for name, flags in keys.get("evaluations", {}).items():
        _check_evaluation(f"{path.name}: evaluations.{name}", flags)
    runs = _runs(path, tree, keys, out, only, overrides or {})
    tuning = keys.get("tuning", False)
    if tuning:
        _check_effort(path.name, runs)
    searched = _search(path.name, keys, runs, search or {})
    if keys.get("seeds_apart"):
        if tuning or searched or any(run.config.varies for run in runs):
            raise UserError(f"{path.name}: seeds_apart=true: not for a plan with a sweep, folds or "
                            "a search")
        runs = _seed_by_seed(runs)
    return Plan(path.stem, keys.get("title", ""), out, runs, tuning, keys.get("evaluations", {}),
                searched, _launcher(path.name, keys, launcher or {}, searched),
                _adaptation(path.name, keys.get("adaptation", {})))


def _seed_by_seed(runs: Sequence[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Every run's first seed, then every run's second: all may be compared at any time."""
    def alone(run: PlannedRun, seed: int) -> PlannedRun:
        part = f"seed_{seed}"
        config = replace(run.config, {"seed": seed, "num_seeds": 1,
                                      "run_dir": str(run.folder / part)})
        return dataclasses.replace(run, name=f"{run.name}/{part}", config=config)

    most = max(run.config.num_seeds for run in runs)
    return tuple(alone(run, run.config.seed + k) for k in range(most) for run in runs
                 if k < run.config.num_seeds)


def _runs(path: Path, tree: Mapping[str, Any], keys: Mapping[str, Any], out: Path,
          only: Sequence[str], overrides: Mapping[str, Any]) -> tuple[PlannedRun, ...]:
    """A run for each variant or, where there are cases, for each variant of each case.

    Case by case: what is compared with one another is complete as early as can be.
    """
    file = path.name
    variants: dict[str, dict[str, Any]] = {
        method: {"method": method} for method in keys.get("methods", [])}
    cases, changed = keys.get("cases", {}), keys.get("variants", {})
    for name in (*variants, *changed, *cases, *keys.get("evaluations", {})):
        if not _NAME.fullmatch(name):
            raise UserError(f"{file}: name {name!r}: must be letters, digits and _ . , = + -, and "
                            "begin with one of the first three")
    for kind, table in (("variants", changed), ("cases", cases)):
        for name, change in table.items():
            if not isinstance(change, dict):
                raise UserError(f"{file}: {kind}.{name}={change!r}: must be a table")
    for name, change in changed.items():
        variants[name] = variants.get(name, {}) | change
    if not variants:
        raise UserError(f"{file}: names no run; give it 'methods' or 'variants'")
    for name in only:
        if name not in (*variants, *cases):
            raise unknown("--only", name, [*variants, *cases])
    read_tuned = functools.cache(functools.partial(_read_tuned, path))
    found = []
    for case in _wanted(cases, only) or [""]:
        table = cases.get(case, {})
        own = _checked(table, CASE_KEYS, f"{file}: case {case}: ")
        tuned_by = read_tuned(own.get("tuned", keys.get("tuned")))
        for variant in _wanted(variants, only):
            name = str(Path(case, variant))
            found.append(_planned(file, name, tree, _settings(table, CASE_KEYS), variants[variant],
                                  tuned_by, {"run_dir": str(out / name)} | dict(overrides)))
    return tuple(found)


def _wanted(names: Iterable[str], only: Sequence[str]) -> list[str]:
    """Those that are asked for; all of them where none is."""
    return [name for name in names if name in only] or list(names)


def _planned(file: str, name: str, base: Mapping[str, Any], case: Mapping[str, Any],
             change: Mapping[str, Any], tuned_by: Mapping[str, Any] | None,
             overrides: Mapping[str, Any]) -> PlannedRun:
    where = f"{file}: variant {name}: "
    common = _checked(base, PLAN_KEYS, f"{file}: ")
    own = _checked(change, VARIANT_KEYS, where)
    settings, changes = _settings(base, PLAN_KEYS), _settings(change, VARIANT_KEYS)
    method = changes.get("method", settings.get("method"))
    if not isinstance(method, str):
        raise UserError(f"{where}" + ("names no method" if method is None else
                                      f"method={method!r}: must be a name"))
    presets = (*common.get("presets", []), *own.get("presets", []))
    sweep = dict(flatten(common.get("sweep", {}))) | dict(flatten(own.get("sweep", {})))
    tuned = tuned_by and tuned_by.get(Path(name).name, tuned_by.get(method, {}))
    swept = {"sweep": _sweep_text(where, sweep)} if sweep else {}
    try:
        config = with_presets(Config(), presets)
        for layer in (settings, tuned or {}, case, changes, swept, overrides):
            config = replace(config, layer)
        config.validate()
        space = read_space(common.get("space", {}), own.get("space", {}), config)
    except UserError as error:
        raise UserError(f"{where}{error}") from error
    return PlannedRun(name, config, presets, tuned, space)


def _search(file: str, keys: Mapping[str, Any], runs: Sequence[PlannedRun],
            changes: Mapping[str, Any]) -> Search | None:
    """The search of a plan whose runs have a space, None for other plans."""
    if "search" not in keys and not any(run.space for run in runs):
        return None
    for run in runs:
        if run.config.sweep:
            raise UserError(f"{file}: variant {run.name}: has a sweep; a search has a space only")
    check_equal_effort(file, {run.name: (run.space, run.config) for run in runs})
    return read_table(f"{file}: ", Search(), keys.get("search", {}) | changes)


def _launcher(file: str, keys: Mapping[str, Any], changes: Mapping[str, Any],
              searched: Search | None) -> LauncherConfig:
    found = read_table(f"{file}: ", LauncherConfig(), keys.get("launcher", {}) | changes)
    if found.workers > 1 and not searched:
        raise UserError(f"{file}: launcher.workers={found.workers}: is for a search; of other "
                        "plans every run is a job")
    return found


def _adaptation(file: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of `varshare-adapt`: settings, and which regimes from which start."""
    allowed = {leaf.name for leaf in leaves(Config())} - _NOT_A_PLANS - _NOT_ADAPTATIONS
    found = dict(flatten(tree))
    for name in found:
        if name not in (*ADAPTATION_KEYS, *allowed):
            raise unknown(f"{file}: adaptation: key", name, [*ADAPTATION_KEYS, *allowed])
    return found


def _settings(tree: Mapping[str, Any], keys: Mapping[str, type]) -> dict[str, Any]:
    return dict(flatten({name: value for name, value in tree.items() if name not in keys}))


def _checked(tree: Mapping[str, Any], keys: Mapping[str, type], where: str) -> dict[str, Any]:
    """The entries of a table that are no settings; UserError for unknown ones of either kind."""
    allowed = {leaf.name for leaf in leaves(Config())} - _NOT_A_PLANS
    for name in _settings(tree, keys):
        if name in _NOT_A_PLANS:
            raise UserError(f"{where}key={name}: not for a plan to set")
        if name not in allowed:
            raise unknown(f"{where}key", name, [*allowed, *keys])
    found = {name: tree[name] for name in keys if name in tree}
    for name, value in found.items():
        if not isinstance(value, keys[name]):
            raise UserError(f"{where}{name}={value!r}: must be a {keys[name].__name__}")
    for name in ("methods", "presets"):
        for each in found.get(name, []):
            if not isinstance(each, str):
                raise UserError(f"{where}{name}: {each!r} must be a name in quotes")
    return found


def _check_evaluation(where: str, flags: Any) -> None:
    if not isinstance(flags, dict):
        raise UserError(f"{where}={flags!r}: must be a table")
    for name, value in flags.items():
        if name not in EVALUATION_KEYS:
            raise unknown(f"{where}: key", name, EVALUATION_KEYS)
        if type(value) is not EVALUATION_KEYS[name]:
            raise UserError(f"{where}.{name}={value!r}: must be of type "
                            f"{EVALUATION_KEYS[name].__name__}")


def _sweep_text(where: str, sweep: Mapping[str, Any]) -> str:
    for name, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}sweep.{name}={values!r}: must be a list of numbers")
    return ";".join(f"{name}={','.join(map(str, values))}" for name, values in sweep.items())


def _check_effort(file: str, runs: Sequence[PlannedRun]) -> None:
    counts = {run.name: len(run.config.configurations()) for run in runs}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"{file}: tuning must try as many configurations for every run, not "
                        f"{told}")


def _read_tuned(plan: Path, name: str | None) -> dict[str, dict[str, Any]] | None:
    """Settings by variant or method, from a tuning plan's file; named as seen from the plan."""
    if name is None:
        return None
    path = plan.parent / name
    if not path.resolve().is_relative_to(plan.parent.resolve()):
        raise UserError(f"{plan.name}: tuned={name}: must be a file beside the plan or below it")
    if not path.is_file():
        raise UserError(f"{plan.name}: tuned={name}: there is no file {path}; a tuning plan "
                        f"writes one as tuned.toml into its folder")
    tree = _read(path)
    for method, settings in tree.items():
        if not isinstance(settings, dict):
            raise UserError(f"{path.name}: {method}={settings!r}: must be a table")
    return {method: dict(flatten(settings)) for method, settings in tree.items()}


def _path(name: str) -> Path:
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UserError(f"experiment {name}: there is no such file")
        return Path(name)
    files = _files()
    if name not in files:
        raise unknown("experiment", name, files)
    return files[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # what tomllib makes of odd dates is a ValueError
        raise UserError(f"{path.name}: not TOML: {error}") from error
