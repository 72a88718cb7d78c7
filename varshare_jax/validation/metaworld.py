"""Compares the Meta-World port with Meta-World itself.

    python -m varshare_jax.validation.metaworld --tasks=push --check=states,replay

`states`: observation, reward (V1, V2) and success recomputed from states of the original.
`resets`: first observations of the same random vectors, and the distribution of random ones.
`replay`: scripted-policy actions recorded in the original, replayed in MJX.
`free`: the same with random actions, away from everything.
`policies`: success of Meta-World's scripted policies, closed loop, in both.
Without --tasks it takes all ten. Results go to --out as they come, one JSON line each.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from varshare_jax.runs import provenance
from varshare_jax.suites.metaworld import tasks
from varshare_jax.suites.metaworld.original import Original
from varshare_jax.suites.metaworld.scenes import Settings
from varshare_jax.suites.metaworld.settings import MetaWorldConfig
from varshare_jax.suites.metaworld.suite import MetaWorldSuite
from varshare_jax.suites.metaworld.tasks import Task

_TASKS = flags.DEFINE_list("tasks", list(tasks.TASKS), "tasks to compare")
_CHECKS = flags.DEFINE_list("check", ["states", "resets", "replay", "free", "policies"],
                            "what to compare")
_GOALS = flags.DEFINE_integer("goals", 50, "goals per task of `policies`")
_REPLAY_GOALS = flags.DEFINE_integer("replay_goals", 20, "goals per task of `replay`")
_STEPS = flags.DEFINE_integer("steps", 500, "steps of an episode of `policies`")
_STATES = flags.DEFINE_integer("states", 2000, "states per task and reward version of `states`")
_SETTINGS = flags.DEFINE_string("settings", "{}", "changes to the physics settings, as JSON")
_OUT = flags.DEFINE_string("out", "", "file that results are appended to")

Row = dict[str, Any]


# --------------------------------------------------------------------------------------- states


def compare_states(task: Task, version: str, count: int, seed: int = 0) -> Row:
    """Recomputes ≥ `count` recorded states: greatest errors of observation and reward.

    Half of the episodes follow the scripted policy, half a random walk of actions. Errors are
    relative to the larger of the value and 1; arithmetic is that of the session (float64 with
    jax_enable_x64).
    """
    original, rng = Original(task, version), np.random.default_rng(seed)
    env = port(task, MetaWorldConfig(reward=version))
    record: dict[str, list] = {key: [] for key in ("vector", "before", "after", "action", "obs",
                                                   "reward", "success")}
    for episode in range(max(2, -(-count // 250))):
        vector = original.draw(rng)
        obs = original.reset(vector)
        for action in actions(original, episode % 2 == 0, 250, rng, lambda: obs):  # noqa: B023
            before = original.snapshot()
            obs, reward, success = original.step(action)
            for key, value in zip(record, (vector, before, original.snapshot(), action, obs,
                                           reward, success), strict=True):
                record[key].append(value)
    stacked = {key: jax.tree.map(lambda *x: np.stack(x), *values)
               for key, values in record.items()}
    obs, reward, success = jax.vmap(functools.partial(_recompute, env, version))(
        *(stacked[key] for key in ("vector", "before", "after", "action")))
    return {"states": len(reward), "successes": int(stacked["success"].sum()),
            "obs_error": _relative(obs[:, :], stacked["obs"]),
            "reward_error": _relative(reward, stacked["reward"]),
            "success_differs": int((np.asarray(success) != stacked["success"]).sum())}


def _recompute(env, version, vector, before, after, action):
    task, setup = env.task, env.setup(vector)
    frames = task.clip(task.observe(after)), task.clip(task.observe(before))
    return jnp.concatenate([*frames, task.goal(setup)]), *task.judge(version, after, action, setup)


def _relative(ours: jax.Array, theirs: np.ndarray) -> float:
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)).max())


def actions(original: Original, scripted: bool, steps: int, rng: np.random.Generator,
            last_obs: Callable[[], np.ndarray]) -> Iterator[np.ndarray]:
    """Scripted actions, or a random walk that wanders far enough to touch things."""
    action = np.zeros(4)
    for _ in range(steps):
        action = (original.scripted(last_obs()) if scripted
                  else np.clip(0.9 * action + 0.5 * rng.normal(size=4), -1, 1))
        yield action


# --------------------------------------------------------------------------------------- resets


def compare_resets(task: Task, count: int = 2000, exact: int = 10) -> Row:
    """First observations of `exact` random vectors; KS tests of `count` vectors per coordinate.

    An object's and a goal's first positions are fixed functions of the vector, which the first
    part checks; the second compares how vectors are drawn.
    """
    from scipy.stats import ks_2samp

    original, rng = Original(task), np.random.default_rng(1)
    env = port(task, MetaWorldConfig())
    vectors = np.array([original.draw(rng) for _ in range(count)])
    theirs = np.array([original.reset(vector) for vector in vectors[:exact]])
    ours = jax.vmap(lambda v: env.start(v)[1])(jnp.asarray(vectors[:exact]))
    drawn = np.asarray(jax.vmap(env.draw)(jax.random.split(jax.random.key(0), count)))
    space = original.env._random_reset_space
    moving = space.high > space.low
    return {"obs_error_mm": 1e3 * float(np.abs(ours - theirs).max()),
            "same_range": bool(np.allclose(task.low, space.low)
                               and np.allclose(task.high, space.high)),
            "ks_p_min": min(ks_2samp(vectors[:, i], drawn[:, i]).pvalue
                            for i in np.flatnonzero(moving)),
            "fixed_same": bool(np.allclose(drawn[:, ~moving], space.low[~moving]))}


# ------------------------------------------------------------------------------------- stepping


def port(task: Task, options: MetaWorldConfig):
    """The TaskEnv of one task."""
    return suite_of((task,), options).envs[0]


def suite_of(chosen: tuple[Task, ...], options: MetaWorldConfig) -> MetaWorldSuite:
    """The suite of some tasks, with the settings of --settings."""
    settings = json.loads(_SETTINGS.value) if flags.FLAGS.is_parsed() else {}
    return MetaWorldSuite("parity", list(chosen), options, Settings(**settings))


class Port:
    """Tasks of one scene in MJX, [M, N] envs, driven from outside one step at a time."""

    def __init__(self, chosen: tuple[Task, ...], num_envs: int):
        self.suite = suite_of(chosen, MetaWorldConfig(horizon=10**6))
        self.shape = len(chosen), num_envs
        keys = jax.random.split(jax.random.key(0), self.shape)
        self._step = jax.jit(functools.partial(self.suite.step, keys),
                             compiler_options=dict(self.suite.compiler_options))

    def start(self, vectors: np.ndarray) -> np.ndarray:
        """Starts the episodes of random vectors [M][N, K]; observations [M, N, 39]."""
        started = [jax.vmap(env.start)(jnp.asarray(v, jnp.float32))
                   for env, v in zip(self.suite.envs, vectors, strict=True)]
        self.state = self.suite.stack([state for state, _ in started])
        return np.stack([obs for _, obs in started])

    def step(self, action: np.ndarray):
        """action [M, N, 4] -> (observations [M, N, 39], success [M, N])."""
        self.state, out = self._step(self.state, jnp.asarray(action, jnp.float32))
        return np.asarray(out.obs), np.asarray(out.success)


@functools.cache
def stepper(scene: str):
    """Physics of a scene's first task and a compiled (states [N], actions [N, 4]) -> (states,
    hands [N, 3], objects [N, 3]); tasks of one scene share it.
    """
    task = next(task for task in tasks.TASKS.values() if task.scene == scene)
    suite = suite_of((task,), MetaWorldConfig())
    physics, probe = suite.envs[0].physics, suite.envs[0].probe

    def step(state, action):
        state = physics.step(state, action)
        snapshot = physics.read(probe, state)
        return state, snapshot.hand, snapshot.object

    return jax.jit(jax.vmap(step), compiler_options=dict(suite.compiler_options))


def compare_motion(task: Task, goals: int, steps: int, scripted: bool) -> Row:
    """Replays recorded actions: errors in mm, the greatest of an episode; median and maximum."""
    original, rng = Original(task), np.random.default_rng(2)
    vectors = np.array([original.draw(rng) for _ in range(goals)])
    played, hands, objects = [], [], []
    for vector in vectors:
        obs = original.reset(vector)
        policy = actions(original, scripted, steps, rng, lambda: obs)  # noqa: B023
        for _ in range(steps):
            action = next(policy) if scripted else rng.uniform(-1, 1, 4)
            obs, _, _ = original.step(action)
            snapshot = original.snapshot()
            played.append(action)
            hands.append(snapshot.hand)
            objects.append(snapshot.object)
    played, hands, objects = (np.array(x).reshape(goals, steps, -1)
                              for x in (played, hands, objects))
    env, errors = port(task, MetaWorldConfig()), np.zeros((2, goals))
    state = jax.vmap(env.start)(jnp.asarray(vectors, jnp.float32))[0].physics
    for t in range(steps):
        state, *ours = stepper(task.scene)(state, jnp.asarray(played[:, t], jnp.float32))
        for i, (mine, theirs) in enumerate(zip(ours, (hands, objects), strict=True)):
            errors[i] = np.maximum(errors[i], np.linalg.norm(mine - theirs[:, t], axis=-1))
    return {f"{what}_{name}_mm": 1e3 * float(pick(errors[i]))
            for i, what in enumerate(("hand", "object"))
            for name, pick in (("median", np.median), ("max", np.max))}


def compare_policies(chosen: tuple[Task, ...], goals: int, steps: int) -> list[Row]:
    """Success of the scripted policies at any step, in the original and in MJX."""
    originals, rng = [Original(task) for task in chosen], np.random.default_rng(3)
    vectors = [np.array([o.draw(rng) for _ in range(goals)]) for o in originals]
    ours = Port(chosen, goals)
    obs, success = ours.start(vectors), np.zeros((len(chosen), goals), bool)
    for _ in range(steps):
        action = np.array([[o.scripted(x) for x in each]
                           for o, each in zip(originals, obs, strict=True)])
        obs, now = ours.step(action)
        success |= now
    theirs = [[_succeeds(o, vector, steps) for vector in v]
              for o, v in zip(originals, vectors, strict=True)]
    return [{"task": task.name, "goals": goals, "original": float(np.mean(theirs[m])),
             "port": float(success[m].mean())} for m, task in enumerate(chosen)]


def _succeeds(original: Original, vector: np.ndarray, steps: int) -> bool:
    obs = original.reset(vector)
    for _ in range(steps):
        obs, _, success = original.step(original.scripted(obs))
        if success:
            return True
    return False


# ----------------------------------------------------------------------------------------- main


def rows(chosen: list[Task], checks: list[str]) -> Iterator[Row]:
    """Results of the checks, as they come."""
    for task in chosen:
        if "states" in checks:
            for version in ("v2", "v1"):
                with jax.enable_x64(True):
                    yield {"check": "states", "task": task.name, "reward": version,
                           **compare_states(task, version, _STATES.value)}
        if "resets" in checks:
            yield {"check": "resets", "task": task.name, **compare_resets(task)}
        if "replay" in checks and task.name in ("push", "pick-place"):
            yield {"check": "replay", "task": task.name,
                   **compare_motion(task, _REPLAY_GOALS.value, 80, scripted=True)}
        if "free" in checks and task.name == "reach":
            yield {"check": "free", "task": task.name,
                   **compare_motion(task, _REPLAY_GOALS.value, 100, scripted=False)}
    if "policies" in checks:
        for scene in dict.fromkeys(task.scene for task in chosen):
            sharing = tuple(task for task in chosen if task.scene == scene)
            for row in compare_policies(sharing, _GOALS.value, _STEPS.value):
                yield {"check": "policies", **row}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    provenance.use_compile_cache("auto")
    started = time.monotonic()
    for row in rows([tasks.get(name) for name in _TASKS.value], _CHECKS.value):
        line = json.dumps(row | {"settings": json.loads(_SETTINGS.value),
                                 "seconds": round(time.monotonic() - started)})
        print(line, flush=True)
        if _OUT.value:
            with Path(_OUT.value).open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    app.run(main)
