"""What a run has measured so far, told to its files and to the console as it comes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config
from varshare_jax.runs import provenance
from varshare_jax.runs.files import Optional, check, plain
from varshare_jax.runs.folder import learned
from varshare_jax.runs.monitoring import NullWriter, Progress, warn
from varshare_jax.types import Variables

_OF_SEED = {"member": int, "seed": int, "task": str, "update": int}
NOTE = {"wall_seconds": float, "diverged": [_OF_SEED], "settings": Optional(dict),
        "skipped": Optional([_OF_SEED | {"steps": int}]), "rows": Optional({str: int})}
"""What `Record.note` returns; the optional entries are missing from older checkpoints."""


class Record:
    """The update that a run of S seeds is at, its clock, its latest metrics and scores."""

    def __init__(self, problem: Problem, quiet: bool = False,
                 on_row: Callable[[str, dict[str, Any]], None] | None = None):
        config = problem.config
        self.problem, self.suite, self.writer = problem, problem.suite, NullWriter()
        self.seeds = [member.seed for member in config.members()]
        self.steps_per_update = self.suite.num_tasks * config.steps_per_task
        self.progress = Progress(f"{config.suite}/{config.method}", problem.num_updates,
                                 self.steps_per_update, len(self.seeds), quiet)
        self._left_out = _left_out_mask(config, self.suite.task_names)
        self.metrics: dict[str, np.ndarray] = {}
        self.diverged: dict[int, dict[str, Any]] = {}
        self.skipped: dict[tuple[int, str], dict[str, Any]] = {}
        self.known_rows: dict[str, int] = {}
        self._shown: dict[str, Any] = {}
        self._on_row = on_row or (lambda kind, row: None)
        self.update, self._seconds_before, self._started = 0, 0.0, time.monotonic()

    @property
    def env_steps(self) -> int:
        """Environment steps of one seed so far."""
        return self.update * self.steps_per_update

    @property
    def wall_seconds(self) -> float:
        """Seconds since `start`, and those of the process that was resumed."""
        return self._seconds_before + time.monotonic() - self._started

    def start(self) -> None:
        """Training begins: everything is compiled."""
        self._started = time.monotonic()
        self.progress.start(self.update)

    def note(self) -> dict[str, Any]:
        """What a checkpoint has to keep for `recall`, and to tell whose it is."""
        return {"wall_seconds": self.wall_seconds, "diverged": list(self.diverged.values()),
                "skipped": list(self.skipped.values()), "rows": dict(self.writer.rows),
                "settings": learned(self.problem.config)}

    def recall(self, update: int, note: dict[str, Any]) -> None:
        """Goes on from a checkpoint of that update; UserError for a note that is none."""
        check(note, NOTE, f"the note of checkpoint {update}")
        self.update, self._seconds_before = update, note["wall_seconds"]
        self.diverged = {entry["member"]: entry for entry in note["diverged"]}
        self.skipped = {(entry["member"], entry["task"]): entry
                        for entry in note.get("skipped") or ()}
        self.known_rows = note.get("rows") or {}

    def training(self, metrics: dict[str, np.ndarray] | None, count: int) -> None:
        """One row per chunk: metrics [S, chunk, M], averaged over its `count` updates.

        β, which may jump between two of them, is there update by update as well, [S, count].
        """
        if metrics is None:  # another process has them
            self.update += count
            return
        self._note_divergence(_harmful(metrics, count, self._left_out))
        self._note_skipped(_skipped(metrics, count))
        rows = {name: _mean_over_updates(values[:, :count]) for name, values in metrics.items()}
        every = {name: _over_tasks(metrics[name][:, :count], self._left_out)
                 for name in ("beta",) if name in metrics}
        if not self.suite.has_success:
            del rows["success"]
        self.update += count
        self.metrics = rows
        speed = self.env_steps * len(self.seeds) / max(self.wall_seconds, 1e-9)
        row = {"update": self.update, "env_steps": self.env_steps,
               "wall_seconds": self.wall_seconds, "steps_per_second": speed,
               "metrics": rows, "every_update": every}
        self.writer.train(row)
        self._on_row("train", row)
        if (returns := rows["return"][np.isfinite(rows["return"])]).size:
            self._shown["train return"] = returns.mean()
        self.progress.update(self.update, "  ".join(
            f"{name} {value:.4g}" for name, value in self._shown.items()))

    def _note_divergence(self, loss: np.ndarray) -> None:
        """Remembers the first task [S, chunk, M] whose loss was not finite, for each seed."""
        for index in range(loss.shape[0]):
            bad = np.argwhere(~np.isfinite(loss[index]))
            if len(bad) == 0 or index in self.diverged:
                continue
            tasks = ", ".join(self.suite.task_names[m] for u, m in bad if u == bad[0][0])
            first = self.update + int(bad[0][0])
            self.diverged[index] = {"member": index, "seed": self.seeds[index], "task": tasks,
                                    "update": first}
            where = _configuration(self.problem.config, index)
            warn(f"seed {self.seeds[index]}{where} diverged (loss not finite) at update {first}, "
                 f"task {tasks}; other seeds go on")

    def _note_skipped(self, steps: np.ndarray) -> None:
        """Counts the gradient steps [S, chunk, M] that tasks of sound seeds sat out."""
        names = self.suite.task_names
        for member in set(np.argwhere(steps.sum((1, 2)) > 0)[:, 0].tolist()) - set(self.diverged):
            tasks = [m for m in range(len(names)) if steps[member, :, m].sum() > 0]
            first = self.update + int(np.argmax(steps[member].sum(1) > 0))
            if new := [names[m] for m in tasks if (member, names[m]) not in self.skipped]:
                where = _configuration(self.problem.config, member)
                which = "all tasks" if len(new) == len(names) else ", ".join(new)
                warn(f"seed {self.seeds[member]}{where}: gradients that are not finite at update "
                     f"{first}; such steps are left out and counted for {which}")
            for m in tasks:
                entry = self.skipped.setdefault((member, names[m]), {
                    "member": member, "seed": self.seeds[member], "task": names[m],
                    "update": first, "steps": 0})
                entry["steps"] += round(float(steps[member, :, m].sum()))

    def evaluation(self, scores: dict[str, np.ndarray]) -> None:
        """One row per evaluation: scores [S, M]; those of diverged seeds become NaN in place.

        So do those of a task that is left out, which stand apart: `left_out`, [S] each.
        """
        for values in scores.values():
            values[list(self.diverged)] = np.nan
        apart = _set_apart(scores, self._left_out)
        row = {"update": self.update, "wall_seconds": self.wall_seconds,
               "env_steps": self.env_steps, **scores, **apart}
        self.writer.evaluation(row)
        self._on_row("eval", row)
        if np.isfinite(scores["return"]).any():
            self._shown["eval"] = np.nanmean(scores["return"])

    def tell_end(self, summary: dict[str, Any]) -> None:
        """The last line: what the run scores, and where it is."""
        self.progress.say(_last_line(summary, self.problem.config.run_dir))

    def summary(self, variables: Variables, scores: dict[str, np.ndarray],
                compile_seconds: float, devices: int) -> dict[str, Any]:
        """Everything that a comparison needs of a complete run on so many devices, for JSON.

        `variables` are the final ones [S, ...], `scores` those of the last evaluation [S, M].
        """
        config, suite, network = self.problem.config, self.suite, self.problem.network
        seconds, one_seed = self.wall_seconds, jax.eval_shape(_first_seed, variables)
        return plain({
            "suite": config.suite, "method": config.method, "algorithm": config.algorithm,
            "num_seeds": config.num_seeds, "total_steps": config.total_steps,
            "env_steps": self.env_steps, "updates": self.update,
            "wall_seconds": seconds, "compile_seconds": compile_seconds,
            "steps_per_second": self.env_steps * len(self.seeds) / seconds,
            "parameters": network.num_parameters(one_seed) | _offered(config, one_seed),
            "hidden": network.method.config.network.hidden,
            "eval": scores, "task_names": suite.task_names, "suite_version": suite.version,
            "diverged": list(self.diverged.values()), "skipped": list(self.skipped.values()),
            "score_range": suite.score_range and suite.score_range._asdict(),
            "task_parameters": dict(suite.task_parameters),
            "versions": provenance.versions(), "device": provenance.device(devices),
            "git": provenance.git_state()})


def _configuration(config: Any, member: int) -> str:
    """Which configuration of a sweep a member belongs to, for messages."""
    return f" of {config.labels()[member // config.num_seeds]}" if config.varies else ""


def _last_line(summary: dict[str, Any], run_dir: str) -> str:
    returns = np.array(summary["eval"]["return"], float)
    score = (f"eval {np.nanmean(returns):.1f}" if np.isfinite(returns).any()
             else "every seed diverged")
    seeds, tasks = returns.shape
    return (f"done: {score} ({_count(seeds, 'seed')} × {_count(tasks, 'task')}), "
            f"{summary['wall_seconds']:.1f} s" + (f"; {run_dir}" if run_dir else ""))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _set_apart(scores: dict[str, np.ndarray], left_out: np.ndarray) -> dict[str, Any]:
    """Takes the scores of tasks `left_out` [S, M] out of `scores` [S, M], in their place NaN."""
    apart = {name: values[left_out] for name, values in scores.items()}
    for values in scores.values():
        values[left_out] = np.nan
    return {"left_out": apart} if left_out.any() else {}


def _over_tasks(values: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Means over the tasks that are not `left_out` [S, M]: [S, count, M] -> [S, count]."""
    return values.mean(-1, where=~left_out[:, None]) if left_out.any() else values.mean(-1)


def _first_seed(variables: Variables) -> Variables:
    return jax.tree.map(lambda x: x[0], variables)


def _offered(config: Config, variables: Variables) -> dict[str, int]:
    """In adaptation: how many of a task's parameters are what its method offers a new one."""
    if not config.adapt.regime:
        return {}
    own = jax.tree.leaves(variables["task"]["own"])
    return {"offered": sum(x.size // x.shape[0] for x in own)}


def _left_out_mask(config: Config, task_names: tuple[str, ...]) -> np.ndarray:
    """Which tasks the members leave out, [S, M]: one each, or none at all."""
    return np.array([[name == member.leave_out for name in task_names]
                     for member in config.members()])


def _share_skipped(metrics: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The share of gradient steps that tasks sat out, [S, count, M]; 0 where none is measured."""
    loss = metrics["loss"][:, :count]
    return np.nan_to_num(metrics.get("skipped", np.zeros_like(loss))[:, :count])


def _skipped(metrics: dict[str, np.ndarray], count: int) -> np.ndarray:
    """How many these are."""
    steps = metrics.get("gradient_steps", np.ones_like(metrics["loss"]))[:, :count]
    return _share_skipped(metrics, count) * np.nan_to_num(steps)


def _harmful(metrics: dict[str, np.ndarray], count: int, left_out: np.ndarray) -> np.ndarray:
    """Losses [S, count, M], 0 where one that is not finite has done no harm.

    It has not in some of an update's steps alone, nor of a task that is `left_out` [S, M].
    """
    share = _share_skipped(metrics, count)
    harmless = (share > 0) & (share < 1) | left_out[:, None]
    return np.where(harmless, 0.0, metrics["loss"][:, :count])


def _mean_over_updates(values: np.ndarray) -> np.ndarray:
    """[S, chunk, M] -> [S, M], over the finite ones (a rollout may end no episode)."""
    finite = np.isfinite(values)
    count = finite.sum(1)
    total = np.where(finite, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
