"""Meta-World itself: its environments on CPU MuJoCo, for parity checks and for transfer."""

import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from varshare_jax.suites.metaworld import requirements, snapshots
from varshare_jax.suites.metaworld.tasks import Snapshot, Task


class Original:
    """One environment of the package `metaworld`, with its random vector in our hands.

    `reward` is `v1` or `v2`. Raises UserError where the package is missing.
    """

    def __init__(self, task: Task, reward: str = "v2", observe_goal: bool = True):
        requirements.check()
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.task, self.observe_goal = task, observe_goal
        self._class = ALL_V3_ENVIRONMENTS[f"{task.name}-v3"]
        self.env: Any = self._class(reward_function_version=reward)
        self.probe = snapshots.probe(task, self.env.model)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random vector [K] from the ranges of Meta-World's own class, as it draws them."""
        space = self.env._random_reset_space
        while True:
            vector = rng.uniform(space.low, space.high)
            if len(vector) == 3 or np.linalg.norm(vector[:2] - vector[3:5]) >= self.task.apart:
                return vector

    def reset(self, vector: np.ndarray) -> np.ndarray:
        """Starts an episode with this random vector; returns the observation [39]."""
        from metaworld.types import Task as Encoded

        content = {"rand_vec": vector, "env_cls": self._class,
                   "partially_observable": not self.observe_goal}
        self.env.set_task(Encoded(env_name=f"{self.task.name}-v3", data=pickle.dumps(content)))
        return self.env.reset()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """(observation [39], reward, success)."""
        obs, reward, _, _, info = self.env.step(action)
        return obs, float(reward), bool(info["success"])

    def snapshot(self) -> Snapshot:
        """What the task looks at now."""
        data = self.env.data
        return self.probe.read(data.xpos.copy(), data.xquat.copy(), data.qpos.copy())

    @cached_property
    def scripted(self) -> Callable[[np.ndarray], np.ndarray]:
        """Meta-World's scripted policy: observation [39] -> action [4] in [-1, 1]."""
        from metaworld.policies import ENV_POLICY_MAP

        policies: Mapping[str, Callable[[], Any]] = ENV_POLICY_MAP
        policy = policies[f"{self.task.name}-v3"]()

        def act(observation: np.ndarray) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of actions that will be clipped
                return np.clip(policy.get_action(np.array(observation, float)), -1, 1)

        return act
