"""Compares the Meta-World port with Meta-World itself.

    python -m varshare_jax.validation.metaworld --tasks=push --check=states,replay \
        --physics=mujoco,mjx

`states`: observation, reward (V1, V2) and success recomputed from states of the original.
`resets`: first observations of the same random vectors, and the distribution of random ones.
`replay`: actions recorded in the original, of its scripted policy and of a random walk, replayed.
`free`: the same with uniform actions, which stay away from everything.
`policies`: success of Meta-World's scripted policies, closed loop, in both.
The first two do not step; the others do so with each engine of --physics. Without --tasks it takes
all ten. Results go to --out as they come, one JSON line each.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from varshare_jax.runs import provenance
from varshare_jax.suites.metaworld import tasks
from varshare_jax.suites.metaworld.original import Original
from varshare_jax.suites.metaworld.scenes import Settings
from varshare_jax.suites.metaworld.suite import MetaWorldSuite, stack
from varshare_jax.suites.metaworld.tasks import Task
from varshare_jax.suites.settings import MetaWorldConfig
from varshare_jax.types import Step

_TASKS = flags.DEFINE_list("tasks", list(tasks.TASKS), "tasks to compare")
_CHECKS = flags.DEFINE_list("check", ["states", "resets", "replay", "free", "policies"],
                            "what to compare")
_GOALS = flags.DEFINE_integer("goals", 50, "goals per task of `policies`")
_PHYSICS = flags.DEFINE_list("physics", ["mujoco", "mjx"], "engines to compare")
_REPLAY_GOALS = flags.DEFINE_integer("replay_goals", 20, "goals per task of `replay`")
_REPLAY_STEPS = flags.DEFINE_integer("replay_steps", 200, "steps of an episode of `replay`")
_STEPS = flags.DEFINE_integer("steps", 500, "steps of an episode of `policies`")
_STATES = flags.DEFINE_integer("states", 2000, "states per task and reward version of `states`")
_SETTINGS = flags.DEFINE_string("settings", "{}", "changes to MJX's settings, as JSON")
_OUT = flags.DEFINE_string("out", "", "file that results are appended to")

Row = dict[str, Any]
_SAME_REWARD = 0.5  # of 10, the greatest of V2


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
    return float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)))


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
    """Tasks of one scene, [M, N] envs, driven from outside one step at a time."""

    def __init__(self, chosen: tuple[Task, ...], num_envs: int, physics: str = "auto"):
        self.suite = suite_of(chosen, MetaWorldConfig(horizon=10**6, physics=physics))
        keys = jax.random.split(jax.random.key(0), (len(chosen), num_envs))
        self._step = jax.jit(functools.partial(self.suite.step, keys),
                             compiler_options=dict(self.suite.compiler_options))

    def start(self, vectors: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Starts the episodes of random vectors [M][N, K]; observations [M, N, 39]."""
        started = [jax.vmap(env.start)(jnp.asarray(v, jnp.float32))
                   for env, v in zip(self.suite.envs, vectors, strict=True)]
        self.state = stack([state for state, _ in started])
        return np.stack([obs for _, obs in started])

    def step(self, action: np.ndarray) -> Step:
        """action [M, N, 4] -> what a policy gets, [M, N, ...]."""
        self.state, out = self._step(self.state, jnp.asarray(action, jnp.float32))
        return jax.tree.map(np.asarray, out)


class Recorded(NamedTuple):
    """Episodes of one task in the original: leaves [E, T, ...], vectors [E, K]."""

    vectors: np.ndarray
    actions: np.ndarray
    obs: np.ndarray
    rewards: np.ndarray
    successes: np.ndarray


@functools.cache
def record(task: Task, goals: int, steps: int, kind: str) -> Recorded:
    """Episodes of `scripted` actions, of a random `walk` or of `uniform` ones, on fresh goals."""
    original, rng = Original(task), np.random.default_rng(2)
    vectors = np.array([original.draw(rng) for _ in range(goals)], np.float32)
    episodes = []
    for vector in vectors:
        obs, episode = original.reset(vector.astype(float)), []
        wanted = actions(original, kind == "scripted", steps, rng, lambda: obs)  # noqa: B023
        for _ in range(steps):
            action = np.float32(rng.uniform(-1, 1, 4) if kind == "uniform" else next(wanted))
            obs, *outcome = original.step(action.astype(float))
            episode.append((action, obs, *outcome))
        episodes.append([np.array(x) for x in zip(*episode, strict=True)])
    return Recorded(vectors, *(np.stack(x) for x in zip(*episodes, strict=True)))


def compare_motion(task: Task, goals: int, steps: int, kind: str, physics: str) -> Row:
    """Replays recorded actions: the greatest error of each episode, median and maximum.

    Positions in mm, rewards as they are; success flags by the share of steps in which they agree,
    and rewards by the share in which they do within 5 % of their range: they jump at thresholds,
    so one step too early is an error as great as the jump.
    """
    theirs, port = record(task, goals, steps, kind), Port((task,), goals, physics)
    port.start(theirs.vectors[None])
    played = [port.step(theirs.actions[None, :, t]) for t in range(steps)]
    ours = jax.tree.map(lambda *x: np.stack(x, 2)[0], *played)
    gaps = {f"{name}_mm": 1e3 * np.linalg.norm(
        ours.final_obs[..., part] - theirs.obs[..., part], axis=-1)
        for name, part in (("hand", slice(0, 3)), ("object", slice(4, 7)))}
    gaps["reward"] = np.abs(ours.reward - theirs.rewards)
    worst = {name: gap.max(1) for name, gap in gaps.items()}
    return {**{f"{name}_{what}": float(pick(values)) for name, values in worst.items()
               for what, pick in (("median", np.median), ("max", np.max))},
            "same_success": float((ours.success == theirs.successes).mean()),
            "same_reward": float((gaps["reward"] <= _SAME_REWARD).mean())}


def compare_policies(chosen: tuple[Task, ...], goals: int, steps: int, physics: str) -> list[Row]:
    """Success of the scripted policies at any step, in the original and here."""
    originals, rng = [Original(task) for task in chosen], np.random.default_rng(3)
    vectors = [np.array([o.draw(rng) for _ in range(goals)]) for o in originals]
    ours = Port(chosen, goals, physics)
    obs: Any = ours.start(vectors)
    success: Any = np.zeros((len(chosen), goals), bool)
    for _ in range(steps):
        action = np.array([[o.scripted(x) for x in each]
                           for o, each in zip(originals, obs, strict=True)])
        out = ours.step(action)
        obs, success = out.obs, success | out.success
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
        for physics in _PHYSICS.value:
            yield from motions(task, checks, physics)
    if "policies" in checks:
        for scene in dict.fromkeys(task.scene for task in chosen):
            sharing = tuple(task for task in chosen if task.scene == scene)
            for physics in _PHYSICS.value:
                for row in compare_policies(sharing, _GOALS.value, _STEPS.value, physics):
                    yield {"check": "policies", "physics": physics, **row}


def motions(task: Task, checks: list[str], physics: str) -> Iterator[Row]:
    """Replays of one task in one engine."""
    kinds = ["scripted", "walk"] if "replay" in checks else []
    if "free" in checks and task.name == "reach":
        kinds.append("uniform")
    for kind in kinds:
        found = compare_motion(task, _REPLAY_GOALS.value, _REPLAY_STEPS.value, kind, physics)
        yield {"check": "replay", "actions": kind, "task": task.name, "physics": physics, **found}


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
