"""Suites of one task each as one suite, whatever their observations and actions."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.base import Suite
from varshare_jax.types import Discrete, Step


class JoinedSuite(Suite):
    """Tasks by name, each a suite of that one task, with discrete actions.

    Observations are padded with zeros to the longest, and actions are as many as any task has. An
    env's state is its own state's numbers side by side in float32, padded to the longest, so it
    may hold floats, flags and integers below 2²⁴.
    """

    def __init__(self, name: str, version: str, reference: str, parts: Mapping[str, Suite]):
        self.name, self.version, self.reference = name, version, reference
        self.task_names, self._parts = tuple(parts), tuple(parts.values())
        self.observation_sizes = tuple(part.observation_size for part in self._parts)
        self.action_sizes = tuple(part.action_space.outputs for part in self._parts)
        self.observation_size = max(self.observation_sizes)
        self.action_space = Discrete(max(self.action_sizes))
        self.horizon = max(part.horizon for part in self._parts)
        states = [jax.eval_shape(part.reset, jax.eval_shape(_one_key))[0] for part in self._parts]
        self._layouts = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), state)
                         for state in states]
        self._width = max(sum(math.prod(x.shape) for x in jax.tree.leaves(layout))
                          for layout in self._layouts)

    def divisible(self, seeds):
        """Not the tasks, which have programs of their own."""
        return seeds, 1

    def choose(self, tasks):
        chosen = super().choose(tasks)
        chosen._parts = tuple(self._parts[m] for m in tasks)
        chosen._layouts = [self._layouts[m] for m in tasks]
        chosen.horizon = max(part.horizon for part in chosen._parts)
        return chosen

    def reset(self, keys):
        states, obs = zip(*(part.reset(keys[m:m + 1]) for m, part in enumerate(self._parts)),
                          strict=True)
        return self._pack(states), jnp.concatenate([_pad(x, self.observation_size) for x in obs])

    def step(self, keys, state, action):
        states, steps = zip(*(
            part.step(keys[m:m + 1], self._state_of(state, m), action[m:m + 1])
            for m, part in enumerate(self._parts)), strict=True)
        padded = (out._replace(obs=_pad(out.obs, self.observation_size),
                               final_obs=_pad(out.final_obs, self.observation_size))
                  for out in steps)
        together: Step = jax.tree.map(lambda *x: jnp.concatenate(x), *padded)
        return self._pack(states), together

    def render(self, state: Any, task: int) -> np.ndarray:
        """As the task's own suite draws it."""
        return self._parts[task].render(self._state_of(state, task), 0)

    def _pack(self, states: tuple[Any, ...]) -> jax.Array:
        """Tasks' states, leaves [1, N, ...], as [M, N, K]."""
        def flat(state: Any) -> jax.Array:
            numbers = [jnp.float32(x).reshape(*x.shape[:2], -1) for x in jax.tree.leaves(state)]
            return _pad(jnp.concatenate(numbers, -1), self._width)

        return jnp.concatenate([flat(state) for state in states])

    def _state_of(self, packed: Any, m: int) -> Any:
        """The state of task m's own suite, leaves [1, N, ...]."""
        leaves, structure = jax.tree.flatten(self._layouts[m])
        ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
        parts = jnp.split(jnp.asarray(packed)[m:m + 1], ends, axis=-1)  # the last is padding
        return jax.tree.unflatten(structure, [
            x.reshape(*x.shape[:2], *leaf.shape).astype(leaf.dtype)
            for x, leaf in zip(parts, leaves, strict=False)])


def _one_key() -> jax.Array:
    return jax.random.split(jax.random.key(0), (1, 1))


def _pad(x: jax.Array, size: int) -> jax.Array:
    """[..., A] with zeros after it, [..., size]."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])
