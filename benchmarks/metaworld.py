"""Speed of the Meta-World port: environment steps per second, scene by scene or all of a suite.

    python -m benchmarks.metaworld --suites=mt1:push,mt1:door-open --num_envs=32,128
    python -m benchmarks.metaworld --suites=mt10 --num_envs=512,1024,2048,4096     # a GPU

Random actions; resets, observations and rewards included. Beside the speed stand the sizes that
it follows from: pairs of geoms that are tested, contacts and rows of constraints that are kept.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from varshare_jax import suites
from varshare_jax.suites.metaworld.physics import Physics
from varshare_jax.suites.metaworld.scenes import Settings
from varshare_jax.suites.metaworld.settings import MetaWorldConfig
from varshare_jax.suites.metaworld.suite import MetaWorldSuite

_SUITES = flags.DEFINE_list("suites", [
    "mt1:push", "mt1:door-open", "mt1:drawer-open", "mt1:button-press-topdown",
    "mt1:peg-insert-side", "mt1:window-open"], "what to step; these are the six scenes")
_NUM_ENVS = flags.DEFINE_list("num_envs", ["32", "128"], "environments per task")
_STEPS = flags.DEFINE_integer("steps", 10, "steps of a timed call")
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed calls; the median counts")
_SETTINGS = flags.DEFINE_string("settings", "{}", "changes to the physics settings, as JSON")
_OUT = flags.DEFINE_string("out", "", "file that results are appended to, one JSON line each")


def sizes(physics: Physics) -> dict[str, int]:
    """What the solver and the collision code of a scene work on."""
    groups = physics.collision_groups()
    return {"pairs": sum(groups.values()), "kinds_of_pairs": len(groups),
            "contacts": physics.num_contacts, "rows": physics.num_rows,
            "iterations": physics.settings.iterations, "bodies": physics.model.nbody}


def measure(suite: MetaWorldSuite, num_envs: int) -> dict[str, Any]:
    """Compile time and steps/s over all tasks of a suite."""
    shape = suite.num_tasks, num_envs
    keys = jax.random.split(jax.random.key(0), shape)
    actions = jax.random.uniform(jax.random.key(1), (_STEPS.value, *shape, 4), minval=-1)
    state, _ = jax.jit(suite.reset)(keys)

    def roll(state, actions):
        return jax.lax.scan(lambda s, a: (suite.step(keys, s, a)[0], None), state, actions)[0]

    rolled = jax.jit(roll, compiler_options=dict(suite.compiler_options))
    started = time.perf_counter()
    lowered = rolled.lower(state, actions)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = [traced - started, time.perf_counter() - traced]
    state = jax.block_until_ready(compiled(state, actions))
    times = []
    for _ in range(_REPEATS.value):
        started = time.perf_counter()
        state = jax.block_until_ready(compiled(state, actions))
        times.append(time.perf_counter() - started)
    steps = _STEPS.value * suite.num_tasks * num_envs
    memory = compiled.memory_analysis()
    return {"trace_s": round(seconds[0], 1), "compile_s": round(seconds[1], 1),
            "steps_per_second": round(steps / statistics.median(times)),
            "best_steps_per_second": round(steps / min(times)),
            "kilobytes_per_env": round(memory.temp_size_in_bytes / np.prod(shape) / 1e3)}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    settings = Settings(**json.loads(_SETTINGS.value))
    for name in _SUITES.value:
        chosen = [env.task for env in suites.make(name).envs]
        for num_envs in map(int, _NUM_ENVS.value):
            suite = MetaWorldSuite(name, chosen, MetaWorldConfig(), settings)
            scenes = {group.physics.scene: sizes(group.physics) for group in suite.groups}
            row = {"suite": name, "num_envs": num_envs, "device": jax.devices()[0].device_kind,
                   "settings": json.loads(_SETTINGS.value), **measure(suite, num_envs),
                   "scenes": scenes}
            print(json.dumps(row), flush=True)
            if _OUT.value:
                with Path(_OUT.value).open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
