"""Suites of gymnax environments: one environment with different parameters per task."""

import importlib
import sys
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.errors import UserError, unknown
from varshare_jax.suites.base import Suite
from varshare_jax.types import Continuous, Discrete, Step

_DRAWING = ("seaborn", "matplotlib.pyplot")


class _Later(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what imports ask about
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def library() -> Any:
    """The package gymnax, which imports what it draws with when it draws.

    That is six sevenths of its import, a second or two of every start. Importing it starts JAX,
    see `devices.use_cpu_cores`.
    """
    later = {name: _Later(name) for name in _DRAWING if name not in sys.modules}
    sys.modules.update(later)
    try:
        return importlib.import_module("gymnax")
    finally:
        for name in later:
            del sys.modules[name]


def same_for_all(params: Any, tasks: int) -> Any:
    """EnvParams with leaves [M], the same for every task; by NumPy, since each operation of JAX is
    a program to compile."""
    return jax.tree.map(lambda x: np.full((tasks, *np.shape(x)), x, jnp.result_type(x)), params)


class GymnaxSuite(Suite):
    """M copies of a gymnax environment (Lange 2022), each with its own parameters.

    `params` is gymnax's EnvParams with leaves [M], as `same_for_all` makes them. Observations are
    flattened. Continuous actions in [-1, 1] are mapped to the environment's bounds.
    """

    def __init__(self, name: str, version: str, env: Any, params: Any,
                 task_names: tuple[str, ...], reference: str):
        self.name, self.version, self.task_names = name, version, task_names
        self.reference = reference
        self._env, self._params = env, params
        one = jax.tree.map(lambda x: x[0], params)
        space = env.action_space(one)
        if hasattr(space, "n"):
            self.action_space = Discrete(int(space.n))
        else:
            self._low, self._high = jnp.asarray(space.low), jnp.asarray(space.high)
            self.action_space = Continuous(max(1, int(jnp.prod(jnp.array(space.shape)))))
            self._action_shape = space.shape
        obs = jax.eval_shape(lambda: env.reset_env(jax.random.key(0), one))[0]
        self.observation_size = max(1, obs.size)
        self.horizon = int(np.max(params.max_steps_in_episode))

    def choose(self, tasks):
        chosen = super().choose(tasks)
        chosen._params = jax.tree.map(lambda x: x[np.array(tasks)], self._params)
        return chosen

    def reset(self, keys):
        obs, state = jax.vmap(jax.vmap(self._env.reset_env, (0, None)))(keys, self._params)
        return state, jax.vmap(jax.vmap(_flat))(obs)

    def step(self, keys, state, action):
        over_envs = jax.vmap(self._step_one, (0, 0, 0, None))
        return jax.vmap(over_envs)(keys, state, action, self._params)

    def _step_one(self, key, state, action, params):
        """gymnax's own `step` splits its key for every env; most environments need no key for
        stepping, so the reset takes the key itself and the split costs nothing where unused.
        """
        obs, state, reward, terminated, _ = self._env.step_env(
            jax.random.fold_in(key, 1), state, self._to_env(action), params)
        truncated = self._env.is_truncated(state, params) & ~terminated
        first_obs, first_state = self._env.reset_env(key, params)
        done = terminated | truncated
        state, next_obs = jax.tree.map(lambda first, after: jnp.where(done, first, after),
                                       (first_state, first_obs), (state, obs))
        step = Step(_flat(next_obs), jnp.float32(reward), terminated, truncated, _flat(obs))
        return state, step

    def _to_env(self, action: jax.Array) -> jax.Array:
        if isinstance(self.action_space, Discrete):
            return action
        unit = (jnp.clip(action, -1.0, 1.0) + 1) / 2
        return (self._low + unit.reshape(self._action_shape) * (self._high - self._low))


def _flat(obs: jax.Array) -> jax.Array:
    """Observation of one env as a vector [D]."""
    return obs.reshape(-1).astype(jnp.float32)


def single(env_id: str) -> GymnaxSuite:
    """Any registered gymnax environment as a suite of one task with default parameters.

    Raises UserError where gymnax has no such environment or its spaces are not supported.
    """
    gymnax = library()
    registered = gymnax.registered_envs
    if env_id not in registered:
        raise unknown("--suite", f"gymnax:{env_id}", [f"gymnax:{name}" for name in registered])
    env, params = gymnax.make(env_id)
    space, spaces = env.action_space(params), gymnax.environments.spaces
    if not isinstance(space, spaces.Discrete | spaces.Box):
        raise UserError(f"--suite=gymnax:{env_id}: its action space is {type(space).__name__}; "
                        f"supported: Discrete, Box")
    return GymnaxSuite(f"gymnax:{env_id}", "1", env, same_for_all(params, 1), (env_id,),
                       f"gymnax {env_id}")
