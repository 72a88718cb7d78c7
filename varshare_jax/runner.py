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
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.playing import zero_shot
from varshare_jax.playing.evaluation import Scores, evaluate_training, evaluation_key
from varshare_jax.runs import (
    checkpoint,
    processes,
    provenance,
    sweeps,
    task_parameters,
)
from varshare_jax.runs.devices import Layout, use_cpu_cores
from varshare_jax.runs.files import read_json, write_json
from varshare_jax.runs.folder import begin, check_note, claimed
from varshare_jax.runs.monitoring import RunWriter, warn
from varshare_jax.runs.processes import Processes
from varshare_jax.runs.record import Record
from varshare_jax.runs.settings import DistributedConfig
from varshare_jax.runs.signals import Stop, Stopped
from varshare_jax.types import TrainState


@dataclasses.dataclass
class Result:
    """What `train` returns: the summary (None if interrupted) and the final state [S, ...].

    The state is None where a finished run's last checkpoint is gone, and of several processes each
    has that of its own members.
    """

    summary: dict[str, Any] | None
    state: TrainState | None
    learner: Learner


def train(config: Config, *, resume: bool = False, presets: tuple[str, ...] = (),
          quiet: bool = False, on_row: Callable[[str, dict[str, Any]], None] | None = None,
          leave: Callable[[], None] | None = None,
          distributed: DistributedConfig | None = None) -> Result:
    """Trains S seeds of one method on one suite, and leaves a run folder if one is named.

    With `resume` an unfinished run continues bit for bit, a finished one is returned, a new one
    starts. `on_row("train" | "eval", row)` hears every row as its file gets it. `leave` ends the
    process: it is called on a signal that comes before there is anything to save. `distributed`
    says where other processes are that train the same run; the first of them alone writes, prints
    and calls `on_row`. Raises UserError for settings that cannot work, for a folder that holds
    another run or has another writer, and where another process fails.
    """
    distributed = distributed or DistributedConfig()
    place = processes.find(distributed)
    if place.count > 1 and config.adapt.regime:
        raise UserError(f"--distributed.processes={place.count}: adaptation is of one process")
    use_cpu_cores(config.run.devices)
    provenance.use_compile_cache(config.run.compile_cache)
    config = suites.settle(config)
    learner = Learner.make(config, place.share(len(config.members()))[place.index])
    try:
        with (processes.joined(place, learner.problem.config, distributed.timeout) as together,
              _claim(learner.problem.config, together, resume) as finished):
            run = _Run(learner, presets, quiet, together.tell(finished), on_row, together)
            return run.execute(leave)
    except Stopped as stop:
        warn(f"stopped by a signal to {stop}, before there was anything to save")
        return Result(None, None, learner)


def _claim(config: Config, together: Processes,
           resume: bool) -> contextlib.AbstractContextManager[bool]:
    if config.run_dir and together.first:
        return claimed(Path(config.run_dir), config, resume)
    return contextlib.nullcontext(False)


class _Run:
    """One call of `train`: the state between chunks, and where it goes, in the first process."""

    def __init__(self, learner: Learner, presets: tuple[str, ...], quiet: bool, finished: bool,
                 on_row: Callable[[str, dict[str, Any]], None] | None, together: Processes):
        self.learner, self.config = learner, learner.problem.config
        self.suite, self.total = learner.problem.suite, learner.problem.num_updates
        self.together, first = together, together.first
        self.folder = Path(self.config.run_dir) if self.config.run_dir and first else None
        self.record = Record(learner.problem, quiet or not first, on_row)
        self.progress = self.record.progress
        self.suite.tracing = self.progress.say
        self.seeds = self.record.seeds[together.mine]
        self.layout = Layout.choose(*self.suite.divisible(len(self.seeds)))
        self.compile_seconds, self.presets, self.finished = 0.0, presets, finished

    def execute(self, leave: Callable[[], None] | None) -> Result:
        with self.together.stop(self.progress.say, leave).listening() as stop:
            state = self._restore()
            if self.finished:
                file = Path(self.config.run_dir) / "summary.json"
                self.progress.say(f"already finished; see {file}")
                return Result(self.together.tell(read_json(file) if self.folder else None),
                              state if self.record.update == self.total else None, self.learner)
            state = self.layout.place(state or self._init())
            try:
                state, completed = self._loop(state, stop)
                summary = self._finish(state) if completed else None
            finally:
                self.record.writer.close()
        return Result(summary, state, self.learner)

    def _restore(self) -> TrainState | None:
        """The newest sound checkpoint, if there is one, of the members of this process."""
        state = _newest(self.record, self.learner, self.finished) if self.folder else None
        self.record.update, found = self.together.tell([self.record.update, state is not None])
        if not found:
            return None
        return self.together.scatter(state, jax.eval_shape(self.learner.init_seeds))

    def _init(self) -> TrainState:
        with self.progress.working(f"initialising {len(self.record.seeds)} seeds"):
            state = zero_shot.begin(self.learner.problem, self.learner.init_seeds())
            return jax.block_until_ready(state)

    def _begin(self) -> None:
        """All that could keep the run from beginning is done: its folder becomes that of a run."""
        if self.folder:
            begin(self.folder, self.learner.problem, self.presets, self.together.devices)
            self.record.writer = RunWriter(
                self.folder, self.suite.task_names, self.record.update, self.record.env_steps,
                self.config.run.tensorboard, self.total, self.record.known_rows)
            self.record.writer.describe(self.config, self.presets)
        self.record.start()

    def _loop(self, state: TrainState, stop: Stop):
        """Chunks until the end or a signal. Returns (state, whether training is complete)."""
        run, record, problem = self.config.run, self.record, self.learner.problem
        started = time.monotonic()
        with self.progress.working("compiling the training step and the evaluation"):
            advance, self.evaluate = self.layout.compile_both(
                state, (self.learner.update_many, jnp.int32(1)),
                (functools.partial(evaluate_training, problem), self._evaluation_keys(0)),
                self.suite.compiler_options)
        self.compile_seconds = time.monotonic() - started
        if self.together.any(stop.asked):  # while compiling
            return self._stopped(state)
        stop.working = True
        self._begin()
        if self.config.adapt.regime and not (record.update or record.writer.rows.get("eval")):
            self._evaluate(state, repeats=1)  # where adaptation begins is half of what it tells
        while record.update < self.total:
            count = min(run.log_every, self.total - record.update)
            with self.progress.working(f"after update {record.update}", announce=False):
                state, metrics = advance(state, jnp.int32(count))
                metrics = self.together.gather(jax.device_get(metrics))
            record.training(metrics, count)
            last = record.update == self.total
            if not last and self._crossed(run.eval_every, count):
                self._evaluate(state, repeats=1)
            asked = self.together.any(stop.asked)
            if last or asked or self._crossed(run.checkpoint_every, count):
                self._save(state)
                asked = self.together.any(stop.asked)  # by now, which may have taken a while
            if asked and not last:
                return self._stopped(state)
        return state, True

    def _stopped(self, state: TrainState) -> tuple[TrainState, bool]:
        how = "; continue with --resume" if self.config.run_dir else ""
        self.progress.say(f"stopped by a signal at update {self.record.update}{how}")
        return state, False

    def _crossed(self, every: int, count: int) -> bool:
        return self.record.update // every > (self.record.update - count) // every

    def _evaluation_keys(self, index: int) -> jax.Array:
        """Keys [S]; `index` tells evaluations apart."""
        return jnp.stack([evaluation_key(seed, index) for seed in self.seeds])

    def _evaluate(self, state: TrainState, repeats: int) -> dict[str, np.ndarray]:
        """Plays the policies `repeats` times with the compiled evaluation; scores [S, M]."""
        update = self.record.update
        with self.progress.working(f"evaluating after update {update}", announce=False):
            played = [jax.device_get(self.evaluate(state, self._evaluation_keys(
                update * 1000 + i))) for i in range(repeats)]
            played = self.together.gather(played)
        if played is None:
            return {}
        scores = _means(played, self.suite.has_success)
        self.record.evaluation(scores)
        if self.folder and self.config.run.tensorboard:
            _draw_maps(self.record)
        return scores

    def _save(self, state: TrainState) -> None:
        if not self.config.run_dir:
            return
        update, keep = self.record.update, self.config.run.keep_checkpoints
        with self.progress.working(f"saving update {update}", announce=False):
            whole, note = self.together.gather(state), self.record.note()
            if self.folder:
                checkpoint.save(self.folder / "checkpoints", update, whole, keep, note)

    def _finish(self, state: TrainState) -> dict[str, Any]:
        """The last evaluation, and what a complete run leaves behind."""
        run, problem, together = self.config.run, self.learner.problem, self.together
        scores = self._evaluate(state, -(-run.final_eval_episodes // run.eval_episodes))
        variables = together.gather(state.agent.variables)
        split = bool(self.config.run_dir and self.config.varies)
        whole: Any = together.gather(state) if split else None
        if not together.first:
            return together.tell(None)
        summary = self.record.summary(variables, scores, self.compile_seconds, together.devices)
        if self.folder:
            if split:
                sweeps.split(problem, whole, self.total, summary)
            task_parameters.write(self.folder, problem.network, variables)
            write_json(self.folder / "summary.json", summary)
        self.record.tell_end(summary)
        return together.tell(summary)


def _newest(record: Record, learner: Learner, finished: bool) -> TrainState | None:
    """The newest sound checkpoint [S, ...], and in `record` what was known when it was made."""
    config = learner.problem.config
    folder = Path(config.run_dir) / "checkpoints"
    if not checkpoint.checkpoints(folder):
        return None
    like = jax.eval_shape(Learner(learner.problem).init_seeds)
    found = checkpoint.restore_newest(folder, like, warn)
    if found is None:
        if not finished:
            warn(f"every checkpoint in {folder} is damaged; starting from the beginning")
        return None
    state, update = found
    note = checkpoint.read_note(folder, update)
    check_note("--run_dir", Path(config.run_dir), note, config)
    record.recall(update, note)
    if not finished:
        record.progress.say(f"resuming at update {update} of {learner.problem.num_updates}")
    return state


def _means(played: list[Scores], has_success: bool) -> dict[str, np.ndarray]:
    """Over the episodes of all repeats, [S, M]."""
    scores = {"return": np.concatenate([p.total for p in played], -1).mean(-1)}
    if has_success:
        scores["success"] = np.concatenate([p.success for p in played], -1).mean(-1)
    return scores


def _draw_maps(record: Record) -> None:
    """Pictures of where tasks have departed from the shared network by now."""
    from varshare_jax.report.specialization_figures import tensorboard_maps

    with record.progress.working("drawing maps", announce=False):
        for name, png in tensorboard_maps(record.metrics, record.suite.task_names):
            record.writer.image(f"specialization/{name}", png, record.env_steps)
