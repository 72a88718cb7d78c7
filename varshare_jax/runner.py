"""The only impure loop: a compiled chunk of updates, then logging, evaluation, checkpoints."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import suites
from varshare_jax.config import Config
from varshare_jax.learner import Learner
from varshare_jax.playing.evaluation import evaluate_training, evaluation_key
from varshare_jax.runs import checkpoint, provenance, sweeps, task_parameters, transfer
from varshare_jax.runs.devices import Layout, use_cpu_cores
from varshare_jax.runs.files import read_json, write_json
from varshare_jax.runs.folder import begin, check_note, claimed
from varshare_jax.runs.monitoring import RunWriter, warn
from varshare_jax.runs.record import Record
from varshare_jax.runs.signals import Stop
from varshare_jax.types import TrainState


@dataclasses.dataclass
class Result:
    """What `train` returns: the summary (None if interrupted) and the final state [S, ...].

    The state is None where a finished run's last checkpoint is gone.
    """

    summary: dict[str, Any] | None
    state: TrainState | None
    learner: Learner


def train(config: Config, *, resume: bool = False, presets: tuple[str, ...] = (),
          quiet: bool = False, on_row: Callable[[str, dict[str, Any]], None] | None = None,
          leave: Callable[[], None] | None = None) -> Result:
    """Trains S seeds of one method on one suite, and leaves a run folder if one is named.

    With `resume` an unfinished run continues bit for bit, a finished one is returned, a new one
    starts. `on_row("train" | "eval", row)` hears every row as its file gets it. `leave` ends the
    process: it is called on a signal that comes before there is anything to save. Raises UserError
    for settings that cannot work, and for a folder that holds another run or has another writer.
    """
    use_cpu_cores(config.run.devices)
    provenance.use_compile_cache(config.run.compile_cache)
    learner = Learner.make(suites.settle(config))
    claim: contextlib.AbstractContextManager[bool] = contextlib.nullcontext(False)
    if config.run_dir:
        claim = claimed(Path(config.run_dir), learner.problem.config, resume)
    with claim as finished:
        return _Run(learner, presets, quiet, finished, on_row).execute(leave)


class _Run:
    """One call of `train`: the state between chunks, and where it goes."""

    def __init__(self, learner: Learner, presets: tuple[str, ...], quiet: bool, finished: bool,
                 on_row: Callable[[str, dict[str, Any]], None] | None):
        self.learner, self.config = learner, learner.problem.config
        self.suite, self.total = learner.problem.suite, learner.problem.num_updates
        self.folder = Path(self.config.run_dir) if self.config.run_dir else None
        self.record = Record(learner.problem, quiet, on_row)
        self.progress = self.record.progress
        self.suite.tracing = self.progress.say
        self.layout = Layout.choose(len(self.record.seeds),
                                    self.suite.num_tasks if self.suite.splits else 1)
        self.compile_seconds, self.presets, self.finished = 0.0, presets, finished

    def execute(self, leave: Callable[[], None] | None) -> Result:
        with Stop(self.progress.say, leave).listening() as stop:
            state = self._restore()
            if self.finished:
                file = Path(self.config.run_dir) / "summary.json"
                self.progress.say(f"already finished; see {file}")
                return Result(read_json(file), state if self.record.update == self.total else None,
                              self.learner)
            state = self.layout.place(state or self._init())
            try:
                state, completed = self._loop(state, stop)
                summary = self._finish(state) if completed else None
            finally:
                self.record.writer.close()
        return Result(summary, state, self.learner)

    def _restore(self) -> TrainState | None:
        """The newest sound checkpoint, if there is one, and what was known when it was made."""
        if not self.folder or not checkpoint.checkpoints(self.folder / "checkpoints"):
            return None
        folder = self.folder / "checkpoints"
        like = jax.eval_shape(self.learner.init_seeds)
        found = checkpoint.restore_newest(folder, like, warn)
        if found is None:
            if not self.finished:
                warn(f"every checkpoint in {folder} is damaged; starting from the beginning")
            return None
        state, update = found
        note = checkpoint.read_note(folder, update)
        check_note("--run_dir", self.folder, note, self.config)
        self.record.recall(update, note)
        if not self.finished:
            self.progress.say(f"resuming at update {update} of {self.total}")
        return state

    def _init(self) -> TrainState:
        with self.progress.working(f"initialising {len(self.record.seeds)} seeds"):
            state = transfer.begin(self.learner.problem, self.learner.init_seeds())
            return jax.block_until_ready(state)

    def _begin(self) -> None:
        """All that could keep the run from beginning is done: its folder becomes that of a run."""
        if self.folder:
            begin(self.folder, self.learner.problem, self.presets)
            self.record.writer = RunWriter(
                self.folder, self.suite.task_names, self.record.update, self.record.env_steps,
                self.config.run.tensorboard, self.total, self.record.known_rows)
            self.record.writer.describe(self.config, self.presets)
        self.record.start()

    def _loop(self, state: TrainState, stop: Stop):
        """Chunks until the end or a signal. Returns (state, whether training is complete)."""
        run, record, problem = self.config.run, self.record, self.learner.problem
        self.evaluate = self._compile(
            "evaluation", functools.partial(evaluate_training, problem), state,
            self._evaluation_keys(0))
        advance = self._compile("training step", self.learner.update_many, state, jnp.int32(1),
                                returns_state=True)
        if stop.asked:  # while compiling, in a process that is not the run's alone
            return self._stopped(state)
        stop.working = True
        self._begin()
        if self.config.adapt.regime and not (record.update or record.writer.rows.get("eval")):
            self._evaluate(state, repeats=1)  # where adaptation begins is half of what it tells
        while record.update < self.total:
            count = min(run.log_every, self.total - record.update)
            with self.progress.working(f"after update {record.update}", announce=False):
                state, metrics = advance(state, jnp.int32(count))
                metrics = jax.device_get(metrics)
            record.training(metrics, count)
            last = record.update == self.total
            if not last and self._crossed(run.eval_every, count):
                self._evaluate(state, repeats=1)
            if last or stop.asked or self._crossed(run.checkpoint_every, count):
                self._save(state)
            if stop.asked and not last:
                return self._stopped(state)
        return state, True

    def _stopped(self, state: TrainState) -> tuple[TrainState, bool]:
        how = "; continue with --resume" if self.folder else ""
        self.progress.say(f"stopped by a signal at update {self.record.update}{how}")
        return state, False

    def _compile(self, what: str, function: Any, state: TrainState, argument: Any,
                 returns_state: bool = False) -> Any:
        with self.progress.working(f"compiling the {what}"):
            started = time.monotonic()
            compiled = self.layout.compile(function, state, argument, returns_state,
                                           self.suite.compiler_options)
            self.compile_seconds += time.monotonic() - started
        return compiled

    def _crossed(self, every: int, count: int) -> bool:
        return self.record.update // every > (self.record.update - count) // every

    def _evaluation_keys(self, index: int) -> jax.Array:
        """Keys [S]; `index` tells evaluations apart."""
        return jnp.stack([evaluation_key(seed, index) for seed in self.record.seeds])

    def _evaluate(self, state: TrainState, repeats: int) -> dict[str, np.ndarray]:
        """Plays the policies `repeats` times with the compiled evaluation; scores [S, M]."""
        update = self.record.update
        with self.progress.working(f"evaluating after update {update}", announce=False):
            played = [jax.device_get(self.evaluate(state, self._evaluation_keys(
                update * 1000 + i))) for i in range(repeats)]
        scores = {"return": np.concatenate([p.total for p in played], -1).mean(-1)}
        if self.suite.has_success:
            scores["success"] = np.concatenate([p.success for p in played], -1).mean(-1)
        self.record.evaluation(scores)
        if self.folder and self.config.run.tensorboard:
            _draw_maps(self.record)
        return scores

    def _save(self, state: TrainState) -> None:
        if not self.folder:
            return
        update = self.record.update
        with self.progress.working(f"saving update {update}", announce=False):
            checkpoint.save(self.folder / "checkpoints", update, state,
                            self.config.run.keep_checkpoints, self.record.note())

    def _finish(self, state: TrainState) -> dict[str, Any]:
        """The last evaluation, and what a complete run leaves behind."""
        run, problem = self.config.run, self.learner.problem
        scores = self._evaluate(state, -(-run.final_eval_episodes // run.eval_episodes))
        variables = state.agent.variables
        summary = self.record.summary(variables, scores, self.compile_seconds)
        if self.folder:
            if self.config.varies:
                sweeps.split(problem, state, self.total, summary)
            task_parameters.write(self.folder, problem.network, variables)
            write_json(self.folder / "summary.json", summary)
        self.record.tell_end(summary)
        return summary


def _draw_maps(record: Record) -> None:
    """Pictures of where tasks have departed from the shared network by now."""
    from varshare_jax.report.specialization_figures import tensorboard_maps

    with record.progress.working("drawing maps", announce=False):
        for name, png in tensorboard_maps(record.metrics, record.suite.task_names):
            record.writer.image(f"specialization/{name}", png, record.env_steps)
