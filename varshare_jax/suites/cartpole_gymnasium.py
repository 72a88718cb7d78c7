"""Gymnasium's CartPole under a `Disturbance`; apart, because importing it needs Gymnasium."""

from collections import deque

import gymnasium
import numpy as np

from varshare_jax.suites.cartpole_disturbed import Disturbance


class Disturbed(gymnasium.Wrapper):
    """Late actions, noise and hidden quantities by the rules of `DisturbedCartPole`."""

    def __init__(self, env: gymnasium.Env, disturbance: Disturbance):
        super().__init__(env)
        self._disturbance, self._force = disturbance, env.unwrapped.force_mag
        self._pending = deque()
        shown, whole = list(disturbance.observed), env.observation_space
        self.observation_space = gymnasium.spaces.Box(whole.low[shown], whole.high[shown])

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self._pending = deque([None] * self._disturbance.delay)
        return self._seen(obs), info

    def step(self, action):
        self._pending.append(action)
        due = self._pending.popleft()
        self.unwrapped.force_mag = 0.0 if due is None else self._force
        obs, *rest = self.env.step(0 if due is None else due)
        return self._seen(obs), *rest

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        noise = self.np_random.normal(0.0, self._disturbance.noise)
        return (obs + noise).astype(obs.dtype)[list(self._disturbance.observed)]
