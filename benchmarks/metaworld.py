"""Speed of Meta-World here: environment steps per second of a suite, engine beside engine.

    python -m benchmarks.metaworld                                     # MT10, 32 envs per task
    python -m benchmarks.metaworld --suites=mt1:push --num_envs=32,128 --contenders=mujoco,mjx
    python -m benchmarks.metaworld --suites=mt10 --num_envs=512,1024,2048,4096 --contenders=mjx

Contenders: `mujoco` and `mjx` are this package's, with resets, observations and rewards; `rollout`
is `mujoco.rollout` alone, on the same scenes, states and threads; `gymnasium` is Meta-World's own
environments in an `AsyncVectorEnv` of a process per core, one env each. All take random actions.
They run in turns, so that what else the machine does meets all of them; the median of the rounds
counts. Ratios are medians of the ratios within a round.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from varshare_jax.suites import metaworld
from varshare_jax.suites.metaworld import physics, scenes
from varshare_jax.suites.settings import MetaWorldConfig

_SUITES = flags.DEFINE_list("suites", ["mt10"], "what to step")
_NUM_ENVS = flags.DEFINE_list("num_envs", ["32"], "environments per task")
_CONTENDERS = flags.DEFINE_list("contenders", ["mujoco", "rollout", "mjx", "gymnasium"],
                                "who steps; the first is what others are compared with")
_STEPS = flags.DEFINE_integer("steps", 20, "steps of a timed call")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed calls of each")
_THREADS = flags.DEFINE_integer("threads", 0, "threads of MuJoCo's; 0: one for each core")
_OUT = flags.DEFINE_string("out", "", "file that results are appended to, one JSON line each")

Run = Callable[[], int]
"""Steps the environments for one timed call; returns how many steps it was."""


def ours(engine: str, name: str, num_envs: int) -> tuple[Run, dict[str, Any]]:
    """This package's suite with one engine, and what compiling it took."""
    suite = metaworld.make(name, MetaWorldConfig(physics=engine, threads=_THREADS.value))
    shape = suite.num_tasks, num_envs
    keys = jax.random.split(jax.random.key(0), shape)
    actions = jax.random.uniform(jax.random.key(1), (_STEPS.value, *shape, 4), minval=-1)
    state = [jax.jit(suite.reset)(keys)[0]]

    def roll(state, actions):
        return jax.lax.scan(lambda s, a: (suite.step(keys, s, a)[0], None), state, actions)[0]

    rolled = jax.jit(roll, compiler_options=dict(suite.compiler_options))
    started = time.perf_counter()
    lowered = rolled.lower(state[0], actions)
    traced = time.perf_counter()
    compiled = lowered.compile()
    sizes = {"trace_s": round(traced - started, 1),
             "compile_s": round(time.perf_counter() - traced, 1),
             "kilobytes_per_env": round(compiled.memory_analysis().temp_size_in_bytes
                                        / np.prod(shape) / 1e3)}

    def run() -> int:
        state[0] = jax.block_until_ready(compiled(state[0], actions))
        return actions[..., 0].size

    return run, sizes


def rollout(name: str, num_envs: int) -> tuple[Run, dict[str, Any]]:
    """`mujoco.rollout` on the scenes as MuJoCo steps them here, from settled states."""
    import mujoco
    from mujoco.rollout import Rollout

    suite = metaworld.make(name, MetaWorldConfig(physics="mujoco"))
    threads = physics.threads(MetaWorldConfig(threads=_THREADS.value))
    pool, rng, moving = Rollout(nthread=threads), np.random.default_rng(0), []
    for group in suite.physics.groups:
        model = scenes.plain(group.scene, group.body, [])
        state, _ = jax.jit(suite.reset)(jax.random.split(jax.random.key(0),
                                                         (suite.num_tasks, num_envs)))
        own = jax.tree.map(lambda x, group=group: np.concatenate(
            [x[m] for m in group.tasks]), state.physics).cut(group.sizes)
        first = np.concatenate([np.zeros((len(own.qpos), 1)), own.qpos, own.qvel], 1)
        places = [own.mocap, own.placed][:model.nmocap]
        moving.append([model, [mujoco.MjData(model) for _ in range(threads)], first, places])
    control = int(mujoco.mjtState.mjSTATE_CTRL) | int(mujoco.mjtState.mjSTATE_MOCAP_POS)

    def run() -> int:
        for _ in range(_STEPS.value):
            for one in moving:
                model, datas, state, places = one
                action = rng.uniform(-1, 1, (len(state), 4))
                places[0] = np.clip(places[0] + 0.01 * action[:, :3], [-.5, .4, .05], [.5, 1, .5])
                held = np.concatenate([action[:, 3:], -action[:, 3:], *places], 1)[:, None]
                path, _ = pool.rollout(
                    model, datas, state, np.repeat(held, scenes.FRAME_SKIP, 1),
                    control_spec=control, nstep=scenes.FRAME_SKIP)
                one[2] = path[:, -1].copy()
        return _STEPS.value * suite.num_tasks * num_envs

    return run, {}


def gymnasium_envs(name: str, num_envs: int) -> tuple[Run, dict[str, Any]]:
    """Meta-World's own environments, a process for each core, which tasks take in turn.

    A process steps one env at a time whatever their number, so `num_envs` plays no part.
    """
    import gymnasium

    del num_envs
    names = metaworld.make(name, MetaWorldConfig(physics="mujoco")).task_names
    processes = len(os.sched_getaffinity(0))
    vectors = [gymnasium.vector.AsyncVectorEnv(
        [functools.partial(_original, task) for _ in range(processes)]) for task in names]
    for vector in vectors:
        vector.reset(seed=0)

    def run() -> int:
        for vector in vectors:
            for _ in range(_STEPS.value):
                vector.step(vector.action_space.sample())
        return _STEPS.value * len(vectors) * processes

    return run, {"close": [vector.close for vector in vectors]}


def _original(task: str) -> Any:
    import gymnasium
    import metaworld  # noqa: F401 (registers its environments)

    return gymnasium.make("Meta-World/MT1", env_name=f"{task}-v3", seed=0)


MAKERS = {"mujoco": functools.partial(ours, "mujoco"), "mjx": functools.partial(ours, "mjx"),
          "rollout": rollout, "gymnasium": gymnasium_envs}


def compare(name: str, num_envs: int) -> Iterator[dict[str, Any]]:
    """Rows of all contenders on one suite."""
    made = {who: MAKERS[who](name, num_envs) for who in _CONTENDERS.value}
    speeds: dict[str, list[float]] = {who: [] for who in made}
    for run, _ in made.values():
        run()
    for _ in range(_ROUNDS.value):
        for who, (run, _) in made.items():
            started = time.perf_counter()
            steps = run()
            speeds[who].append(steps / (time.perf_counter() - started))
    first = _CONTENDERS.value[0]
    for who, (_, about) in made.items():
        for close in about.pop("close", ()):
            close()
        ratios = [a / b for a, b in zip(speeds[first], speeds[who], strict=True)]
        yield {"suite": name, "num_envs": num_envs, "who": who,
               "device": jax.devices()[0].device_kind,
               "steps_per_second": round(statistics.median(speeds[who])),
               "range": [round(min(speeds[who])), round(max(speeds[who]))],
               f"{first}_is_faster_by": round(statistics.median(ratios), 2), **about}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    for name in _SUITES.value:
        for num_envs in map(int, _NUM_ENVS.value):
            for row in compare(name, num_envs):
                print(json.dumps(row), flush=True)
                if _OUT.value:
                    with Path(_OUT.value).open("a") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
