"""What the tests share: two CPU devices, a cache of compiled programs, real command lines."""

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks.processes import QUICK
from varshare_jax import config, experiments, methods, runner
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.learner import Learner
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.runs import checkpoint, files, lock, provenance
from varshare_jax.runs.devices import use_cpu_cores
from varshare_jax.types import Continuous, Discrete

CACHE = str(Path(__file__).resolve().parent.parent / ".cache" / "tests")
TIMEOUT = 300  # s; nothing takes a tenth of it, unless the machine is busy or the program hangs
TINY = {
    **{f"{algorithm}.{name}": value for algorithm in ("ppo", "vmpo") for name, value in
       {"num_envs": 2, "rollout_length": 8, "minibatches": 2, "epochs": 1}.items()},
    **{f"{algorithm}.{name}": value for algorithm in ("dqn", "sac", "ddpg", "mpo")
       for name, value in {"num_envs": 2, "rollout_length": 8, "gradient_steps": 2, "batch_size": 4,
                           "replay_size": 64, "learning_starts": 32}.items()},
    "ddpg.twin": True, "ddpg.policy_delay": 2, "ddpg.target_noise": 0.2, "mpo.action_samples": 3,
    "mpo.target_every": 3,
    "network.hidden": (8,), "run.log_every": 1, "run.eval_episodes": 1,
    "run.final_eval_episodes": 1, "run.compile_cache": CACHE, "run.devices": 2,
}
PLAN = """
title = "Small"
suite = "cartpole"
num_seeds = 2
ppo.num_envs = 2
ppo.rollout_length = 8
ppo.minibatches = 2
ppo.epochs = 1
network.hidden = [8]
run.eval_episodes = 1
"""
# The tests here compare runs with runs, so how well XLA optimises is all one to them; the demo and
# the benchmarks run what users run.
os.environ["XLA_FLAGS"] = QUICK["XLA_FLAGS"]  # read when JAX starts; processes inherit it

use_cpu_cores(2)  # before any test starts JAX: as many as a laptop has, and as CI has
provenance.use_compile_cache(CACHE)


COMPILING = {f"test_{name}" for name in (
    "adapting", "ddpg", "dqn", "learned_scales", "learner", "methods", "mpo", "natural",
    "nonfinite", "ppo", "preconditioner", "sac", "trust", "unlike", "variants", "vmpo")}
"""Files whose programs take longer to compile than to run: XLA leaves them as they are."""


@pytest.fixture(scope="module", autouse=True)
def programs_freed(request):
    """Compiled programs of a file go with it: Linux lets a process map 65 530 pieces of memory,
    and XLA maps some for each program, until it dies without a word."""
    quick = request.module.__name__ in COMPILING
    with quick_compile() if quick else contextlib.nullcontext():
        yield
    jax.clear_caches()


def load_plan(folder: Path, text: str, *, overrides: Mapping[str, Any] = MappingProxyType({}),
              **options) -> experiments.Plan:
    """The plan of that text, its runs inside folder/out, with what a plan may not set."""
    file = folder / "small.toml"
    file.write_text(text)
    return experiments.load(str(file), folder / "out",
                            overrides={"run.compile_cache": CACHE} | dict(overrides), **options)


@pytest.fixture(scope="session")
def tiny():
    """Settings as small as they come, changed by the dotted names given."""
    return lambda **changes: config.replace(config.Config(), TINY | changes).validate()


def network_of(settings: config.Config, tasks: int, observation_size: int,
               space: Discrete | Continuous) -> MultiTaskNetwork:
    """The networks that a config's algorithm and method make for tasks of any suite."""
    heads = ALGORITHMS[settings.algorithm].heads(space, settings)
    return MultiTaskNetwork(methods.make(settings, tasks), observation_size, heads)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _output(network, variables, obs, name):
    return network.apply(variables, obs, name)[name]


def policy(network: MultiTaskNetwork, variables, obs):
    """Distributions over actions, batch shape [M, ...]."""
    return _output(network, variables, obs, "actor")


def critic(network: MultiTaskNetwork, variables, obs):
    """A scalar critic's values, [M, ...]."""
    return _output(network, variables, obs, "critic")[..., 0]


@contextlib.contextmanager
def quick_compile():
    """Context in which this process compiles the very programs that `cli` runs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


class Cli:
    """varshare-train as people run it: a process, its exit code and what it printed."""

    def __call__(self, *arguments, **options) -> subprocess.CompletedProcess:
        return self.end(self.start(*arguments, **options))

    def start(self, *arguments, before: str = "") -> subprocess.Popen:
        """Starts it with flags or Configs; `before` is Python code to run ahead of it."""
        command = ["-m", "varshare_jax.cli.train"]
        if before:
            command = ["-c", f"{before}\nfrom varshare_jax.cli.train import main\nmain()"]
        given = [flag for a in arguments 
                 for flag in ([a] if isinstance(a, str) else config.to_flags(a))]
        return subprocess.Popen(
            [sys.executable, *command, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=os.environ | QUICK)

    def end(self, process: subprocess.Popen) -> subprocess.CompletedProcess:
        """Waits for it; one that hangs is killed and fails the test."""
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{process.args} hangs; it printed {process.communicate()}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def together(self, *calls) -> list[subprocess.CompletedProcess]:
        """Two calls at a time, each a pair (arguments, options): there are two cores."""
        done = []
        for i in range(0, len(calls), 2):
            started = [self.start(*arguments, **options) for arguments, options in calls[i:i + 2]]
            done += [self.end(process) for process in started]
        return done


@pytest.fixture(scope="session")
def cli() -> Cli:
    return Cli()


def error_line(done: subprocess.CompletedProcess) -> str:
    """What the one line on stderr says, once it is certain that there is only one."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert done.returncode == 2
    return lines[0].removeprefix("error: ")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, with the times of writing, but who was its last writer."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
            for p in folder.rglob("*") if p.is_file() and p.name != lock.NAME}


def newest(folder: Path) -> int:
    """Update of a run's newest checkpoint, 0 without one."""
    return next((int(p.name) for p in checkpoint.checkpoints(folder / "checkpoints")), 0)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a run's newest checkpoint, read by orbax alone."""
    path = folder / "checkpoints" / str(newest(folder)) / "arrays"
    return ocp.PyTreeCheckpointer().restore(path.absolute())


def rows(folder: Path, name: str = "train") -> list[dict]:
    """Logged rows without what a clock says."""
    clocks = ("wall_seconds", "steps_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks}
            for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: the final checkpoint, every logged number and the final scores."""
    assert newest(one) == newest(other) > 0
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert first[name].tobytes() == second[name].tobytes(), name
    for name in ("train", "eval"):
        assert rows(one, name) == rows(other, name)
    summaries = [json.loads((f / "summary.json").read_text()) for f in (one, other)]
    assert summaries[0]["eval"] == summaries[1]["eval"]
    cosines = [(folder / "similarity.json").read_text() for folder in (one, other)]
    assert cosines[0] == cosines[1]
    assert files.read_rows(one / "train.jsonl")[-1]["update"] == newest(one)


class Run(NamedTuple):
    """A run folder and what it was made with."""

    folder: Path
    settings: config.Config
    process: subprocess.CompletedProcess | None = None


FUZZ = int(os.environ.get("FUZZ", "1"))  # how many times as much is left to chance
UPDATES = 6
SUITES = {"cartpole10": (4, 10), "cartpole": (2, 1), "gymnax:Pendulum-v1": (1, 1)}  # S, M
ALGORITHM = {"l2_soft": "mpo", "hard_sharing": "vmpo", "paco": "dqn",
             "varshare_trust_region": "sac", "varshare_lora": "ddpg"}  # ppo for the others
# Every suite at least once; the first pair is what most tests run.
# Methods whose states differ in kind: none of their own, residuals, posteriors, what changes after
# an update, what steers the penalty, controllers of β and σ_prior.
CONTROLS = {"varshare_trust_region": "sigma_adaptive",
            "varshare_lora": "empirical_bayes", "varshare_horseshoe": "triggered"}
POSTERIORS = {"varshare_lora": "natural"}
RESUMED = ("varshare", "l2_soft", "hard_sharing", "paco", *CONTROLS)
PAIRS = dict(zip(RESUMED, itertools.cycle(SUITES), strict=False))
# The moments of an interruption: 4 has just been saved, or has been trained but not saved.
STOPS = {
    "SIGKILL": """
from varshare_jax.runs import checkpoint
def kill_after(folder, update, *rest, save=checkpoint.save):
    save(folder, update, *rest)
    if update == 4:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = kill_after
""",
    "SIGTERM": """
from varshare_jax.runs.monitoring import RunWriter
def terminate_at(self, row, log=RunWriter.train):
    log(self, row)
    if row["update"] == 4:
        os.kill(os.getpid(), signal.SIGTERM)
RunWriter.train = terminate_at
""",
}


@pytest.fixture(scope="session")
def settings_of(tiny):
    """Settings of a method on its suite; every other one is stopped by a signal it can catch."""
    def make(method: str, folder: Path) -> config.Config:
        suite = PAIRS[method]
        seeds, tasks = SUITES[suite]
        every = 2 if stop_of(method) == "SIGKILL" else 50
        return tiny(suite=suite, method=method, num_seeds=seeds, run_dir=str(folder),
                    algorithm=ALGORITHM.get(method, "ppo"),
                    total_steps=UPDATES * tasks * 16 - 5,
                    **{"run.checkpoint_every": every, "run.eval_every": 2, "controller.every": 3,
                       "varshare.controller": CONTROLS.get(method, "fixed"),
                       "varshare.posterior": POSTERIORS.get(method, "adam")})

    return make


def stop_of(method: str) -> str:
    return list(STOPS)[list(PAIRS).index(method) % 2]


@pytest.fixture(scope="session")
def interrupted(cli, settings_of, tmp_path_factory):
    """A run of a method, through the command line, stopped at update 4; not to be changed."""
    @functools.cache
    def make(method: str) -> Run:
        folder = tmp_path_factory.mktemp("interrupted") / method
        settings = settings_of(method, folder)
        process = cli.start(settings, before="import os, signal" + STOPS[stop_of(method)])
        return Run(folder, settings, cli.end(process))

    return make


@pytest.fixture(scope="session")
def finished(settings_of, tmp_path_factory):
    """A run of a method that was never stopped, made in this process; not to be changed."""
    @functools.cache
    def make(method: str) -> Run:
        settings = settings_of(method, tmp_path_factory.mktemp("finished") / method)
        with quick_compile():
            runner.train(settings, quiet=True)
        return Run(Path(settings.run_dir), settings)

    return make


@pytest.fixture(scope="session")
def untrained(tiny, tmp_path_factory):
    """A run of two seeds on cartpole10 saved as it began, its residuals random; two updates old.

    For whatever plays a policy and does not mind which: no training step is compiled.
    """
    settings = tiny(num_seeds=2, run_dir=str(tmp_path_factory.mktemp("untrained") / "run"))
    with quick_compile():
        state = Learner.make(settings).init_seeds()
        means, structure = jax.tree.flatten(state.agent.variables["task"])
        keys = jax.random.split(jax.random.key(3), len(means))
        noisy = [x + 0.2 * jax.random.normal(key, x.shape)
                 for x, key in zip(means, keys, strict=True)]
    state.agent.variables["task"] = jax.tree.unflatten(structure, noisy)
    folder = Path(settings.run_dir)
    checkpoint.save(folder / "checkpoints", 2, state, 1)
    files.write_json(folder / "config.json", config.to_dict(settings))
    return folder


def copy_of(run: Run, folder: Path) -> Run:
    """A run that may be changed."""
    shutil.copytree(run.folder, folder)
    return Run(folder, config.replace(run.settings, {"run_dir": str(folder)}))
