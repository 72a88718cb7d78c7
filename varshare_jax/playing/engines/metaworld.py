"""Meta-World itself (original scenes, CPU MuJoCo), for the suites mt10, mt3 and mt1:<task>."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.playing.engines import Act
from varshare_jax.suites.base import Suite

_EPISODES_PER_LINE = 5


def evaluate(suite: Suite, act: Act, num_episodes: int, rng: np.random.Generator,
             progress: Callable[[str], None]) -> dict[str, np.ndarray]:
    """E = `num_episodes` whole episodes of every task; see the package for the interface.

    Each has a goal and an object position of its own, drawn with `rng` from Meta-World's ranges.
    Success means at any step, as in Meta-World's own evaluation (which then stops; returns here
    are those of the whole horizon). Raises UserError for suites of other families.
    """
    from varshare_jax.suites.metaworld.original import Original

    check(suite)
    port: Any = suite
    scores = {"return": np.zeros((suite.num_tasks, num_episodes)),
              "length": np.full((suite.num_tasks, num_episodes), suite.horizon),
              "success": np.zeros((suite.num_tasks, num_episodes), bool)}
    for m, env in enumerate(port.envs):
        original = Original(env.task, port.options.reward, port.options.observe_goal)
        for e in range(num_episodes):
            rewards, successes = _play(original, functools.partial(act, m),
                                       port.one_hot(m), original.draw(rng), suite.horizon)
            scores["return"][m, e], scores["success"][m, e] = rewards.sum(), successes.any()
            if (e + 1) % _EPISODES_PER_LINE == 0 or e + 1 == num_episodes:
                rate = scores["success"][m, :e + 1].mean()
                progress(f"{env.task.name}: {e + 1} of {num_episodes} episodes, "
                         f"success {rate:.2f}")
    return scores


def check(suite: Suite) -> None:
    """Raises UserError for suites of other families."""
    from varshare_jax.suites.metaworld.suite import MetaWorldSuite

    if not isinstance(suite, MetaWorldSuite):
        raise UserError(f"--engine=metaworld: plays mt10, mt3 and mt1:<task>, not {suite.name}")


def _play(original, act, code: np.ndarray, vector: np.ndarray,
          horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """One episode: rewards [T] and success flags [T]."""
    obs, outcomes = original.reset(vector), []
    for _ in range(horizon):
        action = np.asarray(act(np.concatenate([obs, code])[None].astype(np.float32)))[0]
        obs, *outcome = original.step(np.clip(action, -1, 1))
        outcomes.append(outcome)
    rewards, successes = zip(*outcomes, strict=True)
    return np.array(rewards), np.array(successes)
