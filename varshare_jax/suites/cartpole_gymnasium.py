"""Gymnasium's CartPole under a disturbance; apart, because importing it needs Gymnasium."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np


class Disturbed(gymnasium.Wrapper):
    """Late actions, noise and hidden quantities by the rules of `DisturbedCartPole`."""

    def __init__(self, env: gymnasium.Env, delay: int, noise: tuple[float, ...],
                 observed: tuple[int, ...]):
        super().__init__(env)
        self._delay, self._noise, self._observed = delay, noise, list(observed)
        physics: Any = env.unwrapped
        self._physics, self._force = physics, physics.force_mag
        self._pending: deque[Any] = deque()
        whole: Any = env.observation_space
        self.observation_space = gymnasium.spaces.Box(whole.low[self._observed],
                                                      whole.high[self._observed])

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self._pending = deque([None] * self._delay)
        return self._seen(obs), info

    def step(self, action):
        self._pending.append(action)
        due = self._pending.popleft()
        self._physics.force_mag = 0.0 if due is None else self._force
        obs, *rest = self.env.step(0 if due is None else due)
        return self._seen(obs), *rest

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        noise = self.np_random.normal(0.0, self._noise)
        return (obs + noise).astype(obs.dtype)[self._observed]
