"""Reading run directories, finished or still being written."""

import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.runs.files import Optional, parse_json, read_json, read_rows

_MOMENTS = 5  # pictures of a series
_EFFECTIVE = re.compile(rb'"effective_step": (\[\[[^\]]*\](?:, \[[^\]]*\])*\])')
_MOST_SEEDS = 100_000
_CONFIG = {"suite": str, "method": str, "num_seeds": int, "seed": Optional(int),
           "sweep": Optional(str), "leave_out": Optional(str), "total_steps": Optional(float),
           "adapt": Optional({"regime": Optional(str)}), "varshare": Optional(dict)}
_SUMMARY = {
    "env_steps": Optional(float), "wall_seconds": Optional(float), "eval": Optional({str: list}),
    "task_names": Optional([str]), "hidden": Optional([int]), "diverged": Optional([dict]),
    "score_range": Optional({"random": [float], "target": [float]}),
    "task_parameters": Optional({str: [float]}), "parameters": Optional({str: float}),
    "device": Optional(dict), "versions": Optional({str: str}), "num_seeds": Optional(int)}
_CUTS = {"tasks": "", "without": "", "leave_out": "none"}  # what cuts a suite, and by nothing
_EVALUATION = {"env_steps": int, "wall_seconds": float, "return": list}
_MOMENT = {"env_steps": int, "metrics": {str: list}}
_POSTERIOR = {"gram": list, "residual": bool, "sigma": {str: {"edges": [float],
                                                              "counts": [float]}}}
"""What is read of each file; whatever else stands there is shown as it is or not at all."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation of all seeds: returns [S, M], success [S, M] or None; NaN if diverged.

    `env_steps` counts one seed's steps, summed over its tasks.
    """

    env_steps: int
    wall_seconds: float
    returns: np.ndarray
    success: np.ndarray | None


class Moment(NamedTuple):
    """A logged update: steps of one seed, summed over tasks, and metrics, each [S, M]."""

    env_steps: int
    metrics: Mapping[str, np.ndarray]


class Posterior(NamedTuple):
    """What training left of the tasks' own parameters.

    `gram` [S, M, M] are their inner products, None where they have none; `residual` says whether
    they start from the shared network. `sigma` has, for each layer with random parameters, edges
    [B + 1] and how many standard deviations lie between them [B].
    """

    gram: np.ndarray | None
    residual: bool
    sigma: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory: S seeds of one method on the M tasks of one suite.

    `seeds` are their numbers [S]; equal numbers pair up across runs.
    `evaluations` are those during training, by env steps. `final` is the evaluation of the
    trained policy or, while training goes on, the latest one; None before the first.
    `others` are scores [S, M] of other evaluations of it, by the file's name and the measure.
    `moments` are logged updates from the first to the last, evenly spaced; `effective_steps` [S, M]
    are means over all of them. `similarity` [S, M, M] holds the cosines between the tasks' own
    parameters; None where they have none, or before the end, when `posterior` is None as well.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    seeds: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    final: Evaluation | None
    moments: tuple[Moment, ...]
    similarity: np.ndarray | None = None
    posterior: Posterior | None = None
    others: Mapping[tuple[str, str], np.ndarray] = dataclasses.field(default_factory=dict)
    effective_steps: np.ndarray | None = None

    @property
    def suite(self) -> str:
        """Which tasks it learned: runs of one suite are compared."""
        of = [f"{flag} {self.config[flag]}" for flag, none in _CUTS.items()
              if self.config.get(flag, none) != none]
        return " ".join([str(self.config["suite"]), *of]).replace("leave_out", "without")

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def num_seeds(self) -> int:
        return len(self.seeds)

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def num_tasks(self) -> int | None:
        """M, or None while nothing logged tells it."""
        shapes = [self.final.returns.shape] if self.final else []
        shapes += [metric.shape for metric in self.last_metrics.values()]
        return shapes[0][1] if shapes else None

    @property
    def task_names(self) -> tuple[str, ...] | None:
        """Names [M]; None before the run has finished."""
        names = (self.summary or {}).get("task_names")
        return None if names is None else tuple(str(name) for name in names)

    @property
    def score_range(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns [M] that count as 0 and as 1 on this suite; None where it names none."""
        known = (self.summary or {}).get("score_range")
        return known and (np.array(known["random"], float), np.array(known["target"], float))

    @property
    def widths(self) -> str:
        """Hidden widths of its networks, after any matching of capacity; empty if not known."""
        return ",".join(map(str, (self.summary or {}).get("hidden", ())))

    @property
    def last_metrics(self) -> Mapping[str, np.ndarray]:
        """Metrics of the last logged update, each [S, M]."""
        return self.moments[-1].metrics if self.moments else {}

    @property
    def effective_step(self) -> float | None:
        """An update's median |ΔW| over median |W|, mean over training, seeds and tasks."""
        return None if self.effective_steps is None else float(np.mean(self.effective_steps))

    @property
    def task_parameters(self) -> dict[str, np.ndarray]:
        """What the tasks differ in, quantities [M] by name."""
        known = (self.summary or {}).get("task_parameters") or {}
        return {name: np.array(values, float) for name, values in known.items()}

    def number(self, *names: str) -> float | None:
        """A number of the summary by its path of names; None where it has none."""
        node: Any = self.summary
        for name in names:
            node = node.get(name) if isinstance(node, Mapping) else None
        return float(node) if isinstance(node, int | float) else None


def load_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Loads every run once, in the order given; a sweep counts as its configurations.

    A folder that is no run stands for all runs below it. Raises UserError for one without any, and
    for damaged files.
    """
    if not run_dirs:
        raise UserError("no run directory given; usage: varshare-report RUN_DIR... --out FILE")
    run_dirs = [path for folder in run_dirs for run_dir in _runs_in(folder)
                for path in _configurations(run_dir)]
    unique = {path.resolve(): path for path in reversed(run_dirs)}
    return [load_run(path) for path in reversed(unique.values())]


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs below it, but for those within a run."""
    if (folder / "config.json").is_file():
        return [folder]
    inside = sorted(path.parent for path in folder.rglob("config.json"))
    runs = [path for path in inside if not any(parent in inside for parent in path.parents)]
    if not runs:
        raise UserError(_not_a_run(folder))
    return runs


def _configurations(path: Path) -> list[Path]:
    """The folders of a sweep's configurations, there once it is finished; else the run itself."""
    config = read_json(path / "config.json", _CONFIG)
    lists = config.get("leave_out", ""), (config.get("adapt") or {}).get("regime", "")
    if not config.get("sweep") and not any("," in str(text) for text in lists):
        return [path]
    found = sorted(config.parent for config in path.glob("*/config.json"))
    if not (path / "summary.json").is_file():
        print(f"warning: {path}: a sweep that is not finished; its configurations will be there "
              "once it is", file=sys.stderr, flush=True)
    return found


def load_run(path: Path) -> Run:
    """Loads one directory; raises UserError as `load_runs` does."""
    if not (path / "config.json").is_file():
        raise UserError(_not_a_run(path))
    config = read_json(path / "config.json", _CONFIG)
    seeds = config["num_seeds"]
    if not 0 < seeds <= _MOST_SEEDS:
        raise UserError(f"{path / 'config.json'}: num_seeds={seeds}: must lie in [1, "
                        f"{_MOST_SEEDS}]")
    evaluations = _evaluations(path / "eval.jsonl", seeds)
    finished = (path / "summary.json").is_file()
    summary = read_json(path / "summary.json", _SUMMARY) if finished else None
    _check_range(path / "summary.json", summary)
    final = _final(path / "summary.json", summary, seeds)
    final = final or (evaluations[-1] if evaluations else None)
    first = int(config.get("seed") or 0)
    log = (path / "train.jsonl").read_bytes() if (path / "train.jsonl").is_file() else b""
    run = Run(path, config, summary, tuple(range(first, first + seeds)), evaluations, final,
              _moments(log), _similarity(path / "similarity.json", seeds),
              _posterior(path / "posterior.json"), _others(path, seeds),
              _effective_steps(log))
    left_out = config.get("leave_out")
    return _cut(run, summary, left_out) if summary and left_out in (run.task_names or ()) else run


def _cut(run: Run, summary: Mapping[str, Any], left_out: str) -> Run:
    """A run as if its suite did not have a task: one that it has left out, and not learned."""
    task = summary["task_names"].index(left_out)

    def columns(scores: np.ndarray) -> np.ndarray:
        return np.delete(scores, task, axis=1)

    def evaluation(each: Evaluation) -> Evaluation:
        success = None if each.success is None else columns(each.success)
        return dataclasses.replace(each, returns=columns(each.returns), success=success)

    def entries(tree: Any) -> dict[str, Any]:
        return {name: [x for m, x in enumerate(values) if m != task]
                for name, values in tree.items()}

    def square(products: np.ndarray | None) -> np.ndarray | None:
        return None if products is None else np.delete(np.delete(products, task, 1), task, 2)

    known = {name: entries(summary[name]) for name in ("score_range", "task_parameters")
             if summary.get(name)}
    names = [name for name in summary["task_names"] if name != left_out]
    moments = tuple(Moment(moment.env_steps, {name: columns(x) for name, x in
                                              moment.metrics.items()}) for moment in run.moments)
    posterior = run.posterior and run.posterior._replace(gram=square(run.posterior.gram))
    return dataclasses.replace(
        run, summary=dict(summary) | known | {"task_names": names},
        final=run.final and evaluation(run.final),
        evaluations=tuple(map(evaluation, run.evaluations)), moments=moments, posterior=posterior,
        similarity=square(run.similarity),
        others={key: columns(scores) for key, scores in run.others.items()},
        effective_steps=None if run.effective_steps is None else columns(run.effective_steps))


def _check_range(file: Path, summary: Mapping[str, Any] | None) -> None:
    known = (summary or {}).get("score_range")
    if known and not (len(known["random"]) == len(known["target"]) and all(
            math.isfinite(low) and math.isfinite(high) and low < high
            for low, high in zip(known["random"], known["target"], strict=True))):
        raise UserError(f"{file}: score_range={known}: every target must exceed its random")


def _final(file: Path, summary: Mapping[str, Any] | None, seeds: int) -> Evaluation | None:
    if not summary or not summary.get("eval"):
        return None
    row = {"env_steps": summary.get("env_steps"), "wall_seconds": summary.get("wall_seconds")}
    return _evaluation(str(file), row | summary["eval"], seeds)


def _similarity(file: Path, seeds: int) -> np.ndarray | None:
    if not file.is_file():
        return None
    try:
        cosines = np.array(read_json(file, list), float)  # null becomes NaN
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: not a list of matrices ({error})") from error
    if cosines.size == 0:
        return None
    if cosines.ndim != 3 or len(cosines) != seeds or cosines.shape[1] != cosines.shape[2]:
        raise UserError(f"{file}: shape {cosines.shape} is not [num_seeds, num_tasks, num_tasks]")
    return cosines


def _evaluations(file: Path, seeds: int) -> tuple[Evaluation, ...]:
    # A run resumed from a checkpoint logs the updates since then again: the later row counts.
    rows = {row["env_steps"]: _evaluation(f"{file}:{line}", row, seeds)
            for line, row in enumerate(read_rows(file, _EVALUATION), start=1)}
    if len({evaluation.returns.shape for evaluation in rows.values()}) > 1:
        raise UserError(f"{file}: its rows differ in the number of tasks")
    return tuple(sorted(rows.values(), key=lambda evaluation: evaluation.env_steps))


def _evaluation(where: str, row: Mapping[str, Any], seeds: int) -> Evaluation:
    try:
        returns = _matrix(row["return"], seeds)
        success = row.get("success")
        success = None if success is None else _matrix(success, seeds)
        steps = np.int64(int(row["env_steps"]))  # more would be an object to numpy
        return Evaluation(int(steps), float(row["wall_seconds"]), returns, success)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: not an evaluation of {seeds} seeds "
                        f"({type(error).__name__}: {error})") from error


def _matrix(nested: Any, seeds: int) -> np.ndarray:
    matrix = np.array(nested, float)
    if matrix.ndim != 2 or len(matrix) != seeds or matrix.size == 0:
        raise ValueError(f"shape {matrix.shape} is not [num_seeds, num_tasks]")
    return np.where(np.isfinite(matrix), matrix, np.nan)


def _others(folder: Path, seeds: int) -> dict[tuple[str, str], np.ndarray]:
    """What `varshare-evaluate --out=evaluation_<name>.json` wrote into the folder."""
    found = {}
    for file in sorted(folder.glob("evaluation_*.json")):
        for key, values in read_json(file).items():
            if key.endswith(("return", "success")):
                try:
                    found[file.stem.removeprefix("evaluation_"), key] = _matrix(values, seeds)
                except (TypeError, ValueError) as error:
                    raise UserError(f"{file}: {key}: {error}") from error
    return found


def _posterior(file: Path) -> Posterior | None:
    if not file.is_file():
        return None
    tree = read_json(file, _POSTERIOR)
    try:
        gram = np.array(tree["gram"], float)
        sigma = {layer: (np.array(one["edges"], float), np.array(one["counts"], float))
                 for layer, one in tree["sigma"].items()}
        return Posterior(gram if gram.size else None, bool(tree["residual"]), sigma)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: not what training writes "
                        f"({type(error).__name__}: {error})") from error


def _moments(log: bytes) -> tuple[Moment, ...]:
    """Up to `_MOMENTS` rows, the first and the last among them; no other line is parsed."""
    lines = log.splitlines()
    if lines and _moment(lines[-1]) is None:  # cut off by a kill
        lines.pop()
    chosen = np.unique(np.linspace(0, len(lines) - 1, _MOMENTS).round().astype(int))
    found = (_moment(lines[i]) for i in chosen if lines)
    return tuple(moment for moment in found if moment)


def _moment(line: bytes) -> Moment | None:
    try:
        row = parse_json(line, "", _MOMENT)
        return Moment(row["env_steps"], {
            name: np.array(values, float) for name, values in row["metrics"].items()})
    except (ValueError, TypeError):
        return None


def _effective_steps(log: bytes) -> np.ndarray | None:
    """Mean [S, M] over all rows, of which nothing else is parsed."""
    found = _EFFECTIVE.findall(log)
    if not found:
        return None
    try:
        return np.mean([np.array(parse_json(x, "", [list]), float) for x in found], 0)
    except (ValueError, TypeError):  # rows that other runs have written, or a person
        return None


def _not_a_run(path: Path) -> str:
    if not path.exists():
        siblings = [run.parent.name for run in path.parent.glob("*/config.json")]
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean '{path.parent / near[0]}'?" if near else ""
        return f"run directory '{path}' does not exist{hint}"
    return f"'{path}' is not a run directory (it has no config.json), and no run is below it"
