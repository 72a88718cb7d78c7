"""Gymnasium's own environments, for suites that implement `gymnasium_env`."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.playing.engines import Act
from varshare_jax.suites.base import Suite


def evaluate(suite: Suite, act: Act, num_episodes: int, rng: np.random.Generator,
             progress: Callable[[str], None]) -> dict[str, np.ndarray]:
    """E = `num_episodes` episodes of every task; see the package for the interface.

    Raises UserError where the suite has no counterpart in Gymnasium or its extra is not installed.
    """
    played = []
    for task, name in enumerate(suite.task_names):
        envs = [_make(suite, task) for _ in range(num_episodes)]
        played.append(_play(envs, functools.partial(act, task),
                            rng.integers(2**31, size=num_episodes)))
        progress(f"{name}: return {played[-1]['return'].mean():.1f}")
        for env in envs:
            env.close()
    names = ("return", "length", "success") if suite.has_success else ("return", "length")
    return {key: np.stack([scores[key] for scores in played]) for key in names}


def check(suite: Suite) -> None:
    """Raises UserError as `evaluate` does."""
    _make(suite, 0).close()


def _make(suite: Suite, task: int) -> Any:
    try:
        from gymnasium.error import DependencyNotInstalled
    except ImportError as error:
        raise _missing() from error
    try:
        return suite.gymnasium_env(task)
    except DependencyNotInstalled as error:
        raise _missing() from error


def _missing() -> UserError:
    return UserError("--engine=gymnasium: needs Gymnasium's environments; "
                     "pip install 'varshare_jax[reference]'")


def _play(envs: list, act: Callable[[np.ndarray], np.ndarray],
          seeds: np.ndarray) -> dict[str, np.ndarray]:
    """One episode in each env; ended ones keep their last observation, so that B never changes."""
    obs = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)])
    total, length = np.zeros(len(envs)), np.zeros(len(envs), int)
    success, playing = np.zeros(len(envs), bool), np.ones(len(envs), bool)
    while playing.any():
        actions = np.asarray(act(obs))
        for e in np.flatnonzero(playing):
            obs[e], reward, terminated, truncated, info = envs[e].step(actions[e])
            total[e] += reward
            length[e] += 1
            success[e] |= bool(info.get("success", False))
            playing[e] = not (terminated or truncated)
    return {"return": total, "length": length, "success": success}
