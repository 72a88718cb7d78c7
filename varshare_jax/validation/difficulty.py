"""Checks that a suite's tasks are neither all alike nor too hard.

    python -m varshare_jax.validation.difficulty --suite=cartpole10 --nominal=cartpole

The single-task oracle (`independent`) must solve every task, and a policy trained on the nominal
task alone must fail on several others: sharing is then neither free nor impossible. Random
returns are what a suite's table states.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import varshare_jax as vs
from varshare_jax.config import with_presets
from varshare_jax.playing.evaluation import compiled, evaluation_key
from varshare_jax.suites.random_play import random_returns
from varshare_jax.types import Player

_SUITE = flags.DEFINE_string("suite", "cartpole10", "the suite to check")
_PRESETS = flags.DEFINE_list("preset", ["large_batch"], "presets of PPO's settings")
_NOMINAL = flags.DEFINE_string("nominal", "cartpole", "the suite of its nominal task alone")
_STEPS = flags.DEFINE_integer("steps_per_task", 500_000, "environment steps per task and seed")
_SEEDS = flags.DEFINE_integer("num_seeds", 3, "seeds of each training")
_RANDOM_EPISODES = 4096


def train(suite: str, tasks: int) -> vs.Result:
    """Independent networks on a suite."""
    config = vs.Config(suite=suite, method="independent", num_seeds=_SEEDS.value,
                       total_steps=_STEPS.value * tasks)
    return vs.train(with_presets(config, _PRESETS.value))


def play_elsewhere(trained: vs.Result, suite: str, episodes: int = 20) -> np.ndarray:
    """Returns [S, M] of a one-task policy on every task of another suite."""
    problem = vs.Learner.make(vs.Config(suite=suite, method="independent")).problem

    def spread(x):
        return jnp.broadcast_to(x, (x.shape[0], problem.suite.num_tasks, *x.shape[2:]))

    keys = jnp.stack([evaluation_key(s, 0) for s in range(_SEEDS.value)])
    state = jax.device_put(jax.device_get(trained.state), jax.devices()[0])
    task, stats = jax.tree.map(spread, (state.agent.variables["task"], state.stats))
    nominal = Player({"shared": {}, "task": task}, stats)
    played = compiled(problem, episodes=episodes)(nominal, keys)
    return np.asarray(played.total.mean(-1))


def main(argv: list[str]) -> None:
    del argv
    problem = vs.Learner.make(vs.Config(suite=_SUITE.value, method="independent")).problem
    names = problem.suite.task_names
    summary = train(_SUITE.value, len(names)).summary
    assert summary  # nothing interrupts it
    oracle = np.asarray(summary["eval"]["return"])
    elsewhere = play_elsewhere(train(_NOMINAL.value, 1), _SUITE.value)
    random = random_returns(problem.suite, jax.random.key(0), _RANDOM_EPISODES)
    width = max(map(len, names)) + 2
    print(f"\n{'task':<{width}}{'random':>8}{'oracle':>10}{'(worst seed)':>14}"
          f"{'nominal policy':>16}")
    for m, name in enumerate(names):
        print(f"{name:<{width}}{random[m]:>8.1f}{oracle[:, m].mean():>10.1f}"
              f"{oracle[:, m].min():>14.1f}{elsewhere[:, m].mean():>16.1f}")


if __name__ == "__main__":
    app.run(main)
