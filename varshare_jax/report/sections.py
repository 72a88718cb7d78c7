"""Runs side by side: one section per suite, one entry per run, scores ready to aggregate."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run under the label it has in the report.

    `returns` [S, M] are its final scores, None while there is no finite one; `steps` [E] and
    `curve` [E, S, M] those during training. A diverged score (NaN) counts as the lowest return
    that any seed of the run ever had on that task (or, where there is none, on any task);
    `replaced` counts them among the final scores. A diverged seed's success counts as 0.
    """

    label: str
    style: int
    run: Run
    returns: np.ndarray | None
    replaced: int
    success: np.ndarray | None
    steps: np.ndarray
    curve: np.ndarray

    @property
    def status(self) -> str:
        """Why there are no scores; empty if there are."""
        if self.run.final is None:
            return "no evaluation yet"
        return "every return is NaN" if self.returns is None else ""


@dataclasses.dataclass(frozen=True)
class Section:
    """The runs of one suite; `task_names` is [M], empty while no run tells M."""

    suite: str
    task_names: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def scored(self) -> tuple[Entry, ...]:
        """The entries that have scores."""
        return tuple(entry for entry in self.entries if entry.returns is not None)


def group(runs: Sequence[Run]) -> tuple[Section, ...]:
    """One section per suite, suites and runs in the order given.

    Raises UserError if no run has been evaluated or two runs of a suite differ in their tasks.
    """
    if all(run.final is None for run in runs):
        names = ", ".join(f"'{run.path}'" for run in runs)
        raise UserError(f"no run has an evaluation yet: {names}")
    suites = {run.suite: [other for other in runs if other.suite == run.suite] for run in runs}
    labels = {suite: _labels(members) for suite, members in suites.items()}
    # One label keeps one colour throughout the report.
    every = list(dict.fromkeys(label for names in labels.values() for label in names))
    return tuple(
        Section(suite, _task_names(members),
                tuple(_entry(run, label, every.index(label))
                      for run, label in zip(members, labels[suite], strict=True)))
        for suite, members in suites.items())


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method, with as much of the directory as tells two runs of one method apart."""
    labels = [run.method for run in runs]
    for qualifier in (lambda run: run.path.resolve().name, lambda run: str(run.path)):
        shared = {label for label, count in Counter(labels).items() if count > 1}
        labels = [f"{run.method} ({qualifier(run)})" if label in shared else label
                  for run, label in zip(runs, labels, strict=True)]
    return labels


def _task_names(runs: Sequence[Run]) -> tuple[str, ...]:
    sized = [run for run in runs if run.num_tasks is not None]
    for run in sized[1:]:
        if run.num_tasks != sized[0].num_tasks:
            raise UserError(f"'{run.path}' has {run.num_tasks} tasks of {run.suite}, but "
                            f"'{sized[0].path}' has {sized[0].num_tasks}; compare runs of the "
                            f"same tasks")
    named = [run for run in runs if run.task_names is not None]
    for run in named[1:]:
        if run.task_names != named[0].task_names:
            raise UserError(f"'{run.path}' and '{named[0].path}' name the tasks of {run.suite} "
                            f"differently; compare runs of the same tasks")
    if named:
        return named[0].task_names
    return tuple(f"task {m}" for m in range(sized[0].num_tasks)) if sized else ()


def _entry(run: Run, label: str, style: int) -> Entry:
    logged = [evaluation.returns for evaluation in run.evaluations]
    history = np.stack([*logged, run.final.returns]) if run.final else np.empty((0, 0, 0))
    if not np.isfinite(history).any():
        return Entry(label, style, run, None, 0, None, np.empty(0), np.empty((0, 0, 0)))
    filled = _fill(history)
    success = run.final.success
    return Entry(
        label, style, run, filled[-1], int(np.isnan(history[-1]).sum()),
        None if success is None else np.nan_to_num(success, nan=0.0),
        np.array([evaluation.env_steps for evaluation in run.evaluations]), filled[:-1])


def _fill(history: np.ndarray) -> np.ndarray:
    """Evaluations [E, S, M] with NaN replaced by the task's (else the run's) lowest score."""
    lowest = np.where(np.isnan(history), np.inf, history).min(axis=(0, 1))
    lowest = np.where(np.isinf(lowest), lowest.min(), lowest)
    return np.where(np.isnan(history), lowest, history)
