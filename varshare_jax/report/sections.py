"""Runs side by side: one section per suite, one entry per run, scores ready to aggregate."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from varshare_jax.errors import UserError, unknown
from varshare_jax.report import statistics
from varshare_jax.report.runs import Run

OWN_METHOD, ORACLE = "varshare", "independent"
RETURN, SUCCESS = "return", "success rate"
MARKED_FROM = 5  # seeds of each run; with fewer the best is too often another by chance
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run under the label it has in the report.

    `scores` [S, M] are its final scores by the section's measure, empty while there is no finite
    one; `curve` [E, S, M] those during training, after `steps` [E] and `seconds` [E]. A diverged
    return (NaN) counts as the lowest that any seed of the run ever had on that task (or, where
    there is none, on any task), a diverged success as 0; `replaced` counts them among the final
    scores.
    """

    label: str
    style: int
    run: Run
    scores: np.ndarray
    replaced: int
    steps: np.ndarray
    seconds: np.ndarray
    curve: np.ndarray

    @functools.cached_property
    def iqm_curve(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """IQM [E] of the curve and its 95 % interval ([E], [E]); one seed has none."""
        center = statistics.interquartile_mean(self.curve)
        if self.run.num_seeds == 1:
            return center, None
        # The same resamples at every evaluation: the band moves with the data, not with the draw.
        bounds = [statistics.bootstrap_interval(
            scores, statistics.interquartile_mean, resamples=_RESAMPLES,
            rng=np.random.default_rng(0)) for scores in self.curve]
        low, high = np.array(bounds).T
        return center, (low, high)

    @property
    def status(self) -> str:
        """Why there are no scores; empty if there are."""
        if self.run.final is None:
            return "no evaluation yet"
        return "" if self.scores.size else "every return is NaN"

    @property
    def marks(self) -> str:
        """Signs of the footnotes that concern it."""
        return ("†" if self.replaced else "") + ("" if self.run.finished else "‡")


@dataclasses.dataclass(frozen=True)
class Section:
    """The runs of one suite; `task_names` is [M], empty while no run tells M.

    `measure` is what scores are: success rates where every run has them, else returns.
    `focus` is the label of the run that the others are compared with, "" if it has no scores.
    """

    suite: str
    task_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    measure: str
    focus: str

    @property
    def scored(self) -> tuple[Entry, ...]:
        """The entries that have scores."""
        return tuple(entry for entry in self.entries if entry.scores.size)

    @property
    def marks_best(self) -> bool:
        """Whether every run has the seeds that marking the best of them takes."""
        return all(entry.run.num_seeds >= MARKED_FROM for entry in self.scored)

    @property
    def oracle(self) -> Entry | None:
        """The first run of single-task agents, if there is one."""
        return next((e for e in self.scored if e.run.method == ORACLE), None)


def group(runs: Sequence[Run], focus: str | None = None) -> tuple[Section, ...]:
    """One section per suite, suites and runs in the order given.

    `focus` is a label; sections without it, or all if it is None, take their first run of
    VarShare, else their first run. Raises UserError if no run has been evaluated, two runs of
    a suite differ in their tasks, or no run has the label.
    """
    if all(run.final is None for run in runs):
        names = ", ".join(f"'{run.path}'" for run in runs)
        raise UserError(f"no run has an evaluation yet: {names}")
    suites = {run.suite: [other for other in runs if other.suite == run.suite] for run in runs}
    labels = {suite: _labels(members) for suite, members in suites.items()}
    # One label keeps one colour throughout the report.
    every = list(dict.fromkeys(label for names in labels.values() for label in names))
    if focus is not None and focus not in every:
        raise unknown("--focus", focus, every)
    return tuple(_section(suite, members, labels[suite], every, focus)
                 for suite, members in suites.items())


def _section(suite: str, runs: Sequence[Run], labels: Sequence[str], every: Sequence[str],
             focus: str | None) -> Section:
    logged = [evaluation for run in runs for evaluation in (*run.evaluations, run.final)
              if evaluation]
    measure = SUCCESS if logged and all(e.success is not None for e in logged) else RETURN
    entries = tuple(_entry(run, label, every.index(label), measure)
                    for run, label in zip(runs, labels, strict=True))
    scored = [entry for entry in entries if entry.scores.size]
    ranked = sorted(scored, key=lambda e: (e.label != focus, e.run.method != OWN_METHOD))
    return Section(suite, _task_names(runs), entries, measure, ranked[0].label if ranked else "")


def folders(runs: Sequence[Run]) -> list[str]:
    """Each run's folder, with as many of those above it as tell all of them apart."""
    paths = [run.path.resolve() for run in runs]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return [str(Path(*path.parts[-depth:])) for path in paths]


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method, with the folder where two runs have the same."""
    count = Counter(run.method for run in runs)
    return [f"{run.method} ({folder})" if count[run.method] > 1 else run.method
            for run, folder in zip(runs, folders(runs), strict=True)]


def _task_names(runs: Sequence[Run]) -> tuple[str, ...]:
    sized = [(run, run.num_tasks) for run in runs if run.num_tasks is not None]
    for run, tasks in sized[1:]:
        if tasks != sized[0][1]:
            raise UserError(f"'{run.path}' has {tasks} tasks of {run.suite}, but "
                            f"'{sized[0][0].path}' has {sized[0][1]}; compare runs of the "
                            f"same tasks")
    named = [(run, run.task_names) for run in runs if run.task_names is not None]
    for run, names in named[1:]:
        if names != named[0][1]:
            raise UserError(f"'{run.path}' and '{named[0][0].path}' name the tasks of {run.suite} "
                            f"differently; compare runs of the same tasks")
    if named:
        return named[0][1]
    return tuple(f"task {m}" for m in range(sized[0][1])) if sized else ()


def _entry(run: Run, label: str, style: int, measure: str) -> Entry:
    evaluations = [*run.evaluations, run.final] if run.final else []
    empty = np.empty((0, 0, 0))
    returns = np.stack([e.returns for e in evaluations]) if evaluations else empty
    if not np.isfinite(returns).any():
        return Entry(label, style, run, np.empty((0, 0)), 0, np.empty(0), np.empty(0), empty)
    if measure == SUCCESS:  # all have it
        filled = np.nan_to_num(np.stack([np.asarray(e.success) for e in evaluations]), nan=0.0)
    else:
        filled = _fill(returns)
    steps, seconds = np.array([(e.env_steps, e.wall_seconds) for e in run.evaluations]
                              or np.empty((0, 2))).T
    return Entry(label, style, run, filled[-1], int(np.isnan(returns[-1]).sum()),
                 steps, seconds, filled[:-1])


def _fill(history: np.ndarray) -> np.ndarray:
    """Returns [E, S, M] with NaN replaced by the task's (else the run's) lowest score."""
    lowest = np.where(np.isnan(history), np.inf, history).min(axis=(0, 1))
    lowest = np.where(np.isinf(lowest), lowest.min(), lowest)
    return np.where(np.isnan(history), lowest, history)
