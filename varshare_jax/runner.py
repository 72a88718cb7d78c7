"""The only impure loop: a compiled chunk of updates, then logging, evaluation, checkpoints."""

import contextlib
import dataclasses
import functools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import (
    checkpoint,
    engines,
    environment,
    policies,
    posteriors,
    suites,
    sweeps,
)
from varshare_jax.config import Config, flag_value, leaves, to_dict
from varshare_jax.devices import Layout, use_cpu_cores
from varshare_jax.errors import UserError
from varshare_jax.evaluation import act, evaluate_seeds, evaluation_key, player
from varshare_jax.learner import Learner
from varshare_jax.monitoring import NullWriter, Progress, RunWriter, plain, warn, write_json
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
          quiet: bool = False) -> Result:
    """Trains S seeds of one method on one suite, and leaves a run folder if one is named.

    With `resume` an unfinished run continues bit for bit, a finished one is returned, a new one
    starts. Raises UserError for settings that cannot work or a folder that holds another run.
    """
    use_cpu_cores(config.run.devices)
    environment.use_compile_cache(config.run.compile_cache)
    learner = Learner.make(suites.settle(config))
    return _Run(learner, resume, presets, quiet).execute()


class _Run:
    """One call of `train`: the state between chunks, and where it goes."""

    def __init__(self, learner: Learner, resume: bool, presets: tuple[str, ...], quiet: bool):
        self.learner, self.config = learner, learner.problem.config
        self.suite, self.total = learner.problem.suite, learner.problem.num_updates
        self.folder = Path(self.config.run_dir) if self.config.run_dir else None
        self.steps_per_update = self.suite.num_tasks * self.config.samples_per_task
        self.seeds = [member.seed for member in self.config.members()]
        self.progress = Progress(f"{self.config.suite}/{self.config.method}", self.total,
                                 self.steps_per_update, len(self.seeds), quiet)
        self.suite.tracing = self.progress.say
        self.layout = Layout.choose(len(self.seeds),
                                    self.suite.num_tasks if self.suite.splits else 1)
        self.update, self.seconds_before, self.compile_seconds = 0, 0.0, 0.0
        self.scores: dict[str, Any] = {}
        self.metrics: dict[str, np.ndarray] = {}
        self.diverged: dict[int, dict[str, Any]] = {}
        self.finished = self._open_folder(resume, presets)

    def execute(self) -> Result:
        state = self._restore()
        if self.finished:
            self.progress.say(f"already finished; see {self.folder / 'summary.json'}")
            return Result(json.loads((self.folder / "summary.json").read_text()),
                          state if self.update == self.total else None, self.learner)
        state = self.layout.place(state or self._init())
        writer = self._writer()
        try:
            with _stop_signals() as stopped:
                state, completed = self._loop(state, writer, stopped)
                summary = self._finish(state, writer) if completed else None
        finally:
            writer.close()
        return Result(summary, state, self.learner)

    def _open_folder(self, resume: bool, presets: tuple[str, ...]) -> bool:
        """Claims the folder for this config; returns whether it holds a finished run."""
        if not self.folder:
            return False
        path = self.folder / "config.json"
        if path.exists():
            check_same(self.folder, self.config)
            finished = (self.folder / "summary.json").exists()
            if not resume:
                state = "a finished" if finished else "an unfinished"
                raise UserError(f"--run_dir={self.folder}: holds {state} run of these settings; "
                                f"add --resume to continue it or name another folder")
            return finished
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "environment.json", {
            "presets": list(presets), "versions": environment.versions(),
            "device": environment.device(), "git": environment.git_state(),
            "task_names": self.suite.task_names, "suite_version": self.suite.version})
        write_json(path, to_dict(self.config))
        return False

    def _restore(self) -> TrainState | None:
        """The newest sound checkpoint, if there is one, and what was known when it was made."""
        folder = self.folder / "checkpoints" if self.folder else None
        if not folder or not checkpoint.checkpoints(folder):
            return None
        like = jax.eval_shape(self.learner.init_seeds)
        found = checkpoint.restore_newest(folder, like, warn)
        if found is None:
            if not self.finished:
                warn(f"every checkpoint in {folder} is damaged; starting from the beginning")
            return None
        state, self.update = found
        note = checkpoint.read_note(folder, self.update)
        self.seconds_before = note["wall_seconds"]
        self.diverged = {d["member"]: d for d in note["diverged"]}
        if not self.finished:
            self.progress.say(f"resuming at update {self.update} of {self.total}")
        return state

    def _init(self) -> TrainState:
        with self.progress.working(f"initialising {len(self.seeds)} seeds"):
            return jax.block_until_ready(self.learner.init_seeds())

    def _writer(self) -> NullWriter:
        if not self.folder:
            return NullWriter()
        return RunWriter(self.folder, self.suite.task_names, self.update,
                         self.update * self.steps_per_update, self.config.run.tensorboard,
                         self.total)

    def _loop(self, state: TrainState, writer: NullWriter, stopped: threading.Event):
        """Chunks until the end or a signal. Returns (state, whether training is complete)."""
        run = self.config.run
        self.evaluate = self._compile(
            "evaluation", functools.partial(_evaluate_seeds, self.learner), state,
            self._evaluation_keys(0))
        advance = self._compile("training step", self.learner.update_many, state, jnp.int32(1),
                                returns_state=True)
        self.started = time.monotonic()
        self.progress.start(self.update)
        while self.update < self.total:
            count = min(run.log_every, self.total - self.update)
            with self.progress.working(f"after update {self.update}", announce=False):
                state, metrics = advance(state, jnp.int32(count))
                metrics = jax.device_get(metrics)
            self._log(writer, metrics, count)
            last = self.update == self.total
            if not last and self._crossed(run.eval_every, count):
                self._evaluate(writer, state, repeats=1)
            if last or stopped.is_set() or self._crossed(run.checkpoint_every, count):
                self._save(state)
            if stopped.is_set() and not last:
                how = "; continue with --resume" if self.folder else ""
                self.progress.say(f"stopped by a signal at update {self.update}{how}")
                return state, False
        return state, True

    def _compile(self, what: str, function: Any, state: TrainState, argument: Any,
                 returns_state: bool = False) -> Any:
        with self.progress.working(f"compiling the {what}"):
            started = time.monotonic()
            compiled = self.layout.compile(function, state, argument, returns_state,
                                           self.suite.compiler_options)
            self.compile_seconds += time.monotonic() - started
        return compiled

    def _crossed(self, every: int, count: int) -> bool:
        return self.update // every > (self.update - count) // every

    @property
    def wall_seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _log(self, writer: NullWriter, metrics: dict[str, np.ndarray], count: int) -> None:
        """One row per chunk: metrics [S, M], averaged over its updates."""
        self._note_divergence(metrics["loss"][:, :count])
        rows = {name: _mean_over_updates(values[:, :count]) for name, values in metrics.items()}
        if not self.suite.has_success:
            del rows["success"]
        self.update += count
        self.metrics = rows
        speed = (self.update * self.steps_per_update * len(self.seeds)
                 / max(self.wall_seconds, 1e-9))
        writer.train({"update": self.update, "env_steps": self.update * self.steps_per_update,
                      "wall_seconds": self.wall_seconds, "steps_per_second": speed,
                      "metrics": rows})
        returns = rows["return"][np.isfinite(rows["return"])]
        if returns.size:
            self.scores["return"] = returns.mean()
        self.progress.update(self.update, "  ".join(
            f"{name} {value:.4g}" for name, value in self.scores.items()))

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
            warn(f"seed {self.seeds[index]} diverged (loss not finite) at update {first}, "
                 f"task {tasks}; other seeds go on")

    def _evaluation_keys(self, index: int) -> jax.Array:
        """Keys [S]; `index` tells evaluations apart."""
        return jnp.stack([evaluation_key(seed, index) for seed in self.seeds])

    def _evaluate(self, writer: NullWriter, state: TrainState,
                  repeats: int) -> dict[str, np.ndarray]:
        """Plays the policies `repeats` times with the compiled evaluation; scores [S, M]."""
        with self.progress.working(f"evaluating after update {self.update}", announce=False):
            played = [jax.device_get(self.evaluate(state, self._evaluation_keys(
                self.update * 1000 + i))) for i in range(repeats)]
        scores = {"return": np.concatenate([p.total for p in played], -1).mean(-1)}
        if self.suite.has_success:
            scores["success"] = np.concatenate([p.success for p in played], -1).mean(-1)
        for values in scores.values():
            values[list(self.diverged)] = np.nan
        writer.evaluation({"update": self.update, "wall_seconds": self.wall_seconds,
                           "env_steps": self.update * self.steps_per_update, **scores})
        self._draw_maps(writer)
        if np.isfinite(scores["return"]).any():
            self.scores["eval"] = np.nanmean(scores["return"])
        return scores

    def _draw_maps(self, writer: NullWriter) -> None:
        """Pictures of where tasks have departed from the shared network by now."""
        if not (self.folder and self.config.run.tensorboard):
            return
        from varshare_jax.report.specialization_figures import tensorboard_maps

        with self.progress.working("drawing maps", announce=False):
            for name, png in tensorboard_maps(self.metrics, self.suite.task_names):
                writer.image(f"specialization/{name}", png, self.update * self.steps_per_update)

    def _save(self, state: TrainState) -> None:
        if not self.folder:
            return
        note = {"wall_seconds": self.wall_seconds, "diverged": list(self.diverged.values())}
        with self.progress.working(f"saving update {self.update}", announce=False):
            checkpoint.save(self.folder / "checkpoints", self.update, state,
                            self.config.run.keep_checkpoints, note)

    def _finish(self, state: TrainState, writer: NullWriter) -> dict[str, Any]:
        """The last evaluation and everything that a comparison needs, as summary.json."""
        run = self.config.run
        scores = self._evaluate(writer, state, -(-run.final_eval_episodes // run.eval_episodes))
        seconds, env_steps = self.wall_seconds, self.total * self.steps_per_update
        one_seed = jax.tree.map(lambda x: x[0], state.variables)
        summary = plain({
            "suite": self.config.suite, "method": self.config.method,
            "num_seeds": self.config.num_seeds, "total_steps": self.config.total_steps,
            "env_steps": env_steps, "updates": self.total,
            "wall_seconds": seconds, "compile_seconds": self.compile_seconds,
            "steps_per_second": env_steps * len(self.seeds) / seconds,
            "parameters": self.learner.problem.network.num_parameters(one_seed),
            "hidden": self.learner.problem.network.method.config.network.hidden,
            "eval": scores, "task_names": self.suite.task_names,
            "suite_version": self.suite.version, "diverged": list(self.diverged.values()),
            "score_range": self.suite.score_range and self.suite.score_range._asdict(),
            "task_parameters": dict(self.suite.task_parameters),
            "versions": environment.versions(), "device": environment.device(),
            "git": environment.git_state()})
        if self.config.sweep and self.folder:
            sweeps.split(self.learner.problem, state, self.total, summary)
        if self.folder:
            posteriors.write(self.folder, self.learner.problem.network, state.variables)
            write_json(self.folder / "summary.json", summary)
        return summary


def _evaluate_seeds(learner: Learner, state: TrainState, keys: jax.Array):
    """Evaluations of all seeds, leaves [S, M, E]."""
    return evaluate_seeds(learner.problem, state.variables, state.obs_stats, keys,
                          episodes=learner.problem.config.run.eval_episodes)


def _mean_over_updates(values: np.ndarray) -> np.ndarray:
    """[S, chunk, M] -> [S, M], over the finite ones (a rollout may end no episode)."""
    finite = np.isfinite(values)
    count = finite.sum(1)
    total = np.where(finite, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def check_same(folder: Path, config: Config) -> None:
    """Raises UserError naming the first field in which a folder's run differs from `config`."""
    stored = policies.read_config("--run_dir", folder)
    for here, there in zip(leaves(config), leaves(stored), strict=True):
        if here.name != "run_dir" and here.value != there.value:
            raise UserError(
                f"--run_dir={folder}: holds a run with --{here.name}={flag_value(there.value)}, "
                f"now {flag_value(here.value)}; name another folder or repeat its settings")


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM ask for a stop after the current chunk; a second one is not caught."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def ask(number, frame):
        stopped.set()
        signal.signal(number, previous[number])

    previous = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def evaluate_run(path: Path, *, episodes: int = 50, weights: str = "mean",
                 samples: int = 1, seed: int = 1, engine: str = "jax") -> dict[str, Any]:
    """Plays a run's newest checkpoint or a pruned file: scores [S][M], and of what.

    Another `engine` plays it as well: its scores are those that its name precedes.
    Raises UserError where `path` holds neither, or not the `weights` asked for.
    """
    if engine != "jax":
        if weights != "mean":
            raise UserError(f"--weights={weights}: --engine={engine} plays the mean weights only")
        evaluate_elsewhere = engines.make(engine)
    policy = policies.load(path, weights)
    suite = policy.problem.suite
    play = player(policy.problem, episodes=episodes, weights=weights, samples=samples)
    with Progress(suite.name, 1, 1, policy.num_seeds).working("compiling and playing",
                                                              announce=False):
        played = jax.device_get(play(policy.variables, policy.obs_stats,
                                     policy.evaluation_keys(seed)))
    scores = {"run": str(path), "update": policy.update, "weights": weights,
              "samples": samples, "episodes": episodes, "task_names": suite.task_names,
              "return": played.total.mean(-1)}
    if suite.has_success:
        scores["success"] = played.success.mean(-1)
    if engine != "jax":
        played = _play_elsewhere(evaluate_elsewhere, engine, policy, episodes, seed)
        scores |= {f"{engine}_{name}": values.mean(-1) for name, values in played.items()}
    return plain(scores)


def _play_elsewhere(evaluate_elsewhere: engines.Evaluate, engine: str, policy: policies.Policy,
                    episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Episodes of every seed in another engine, [S, M, E]."""
    progress = Progress(engine, 1, 1, policy.num_seeds)
    played = []
    for s in range(policy.num_seeds):
        with progress.working(f"playing seed {s + 1} of {policy.num_seeds}"):
            played.append(evaluate_elsewhere(
                policy.problem.suite, functools.partial(act, policy.problem, *policy.of_seed(s)),
                episodes, np.random.default_rng((seed, s)), progress.say))
    return {name: np.stack([scores[name] for scores in played]) for name in played[0]}
