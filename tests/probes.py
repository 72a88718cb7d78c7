"""Environments whose values are known, and training on them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from conftest import network_of

from varshare_jax import config as C
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.algorithms.base import Problem
from varshare_jax.learner import Learner
from varshare_jax.suites.base import Suite
from varshare_jax.types import Continuous, Discrete, Step


class ProbeState(NamedTuple):
    time: jax.Array
    cue: jax.Array


class Probe(Suite):
    """One-feature episodes whose values are known; M = 2 tasks, the second with doubled reward.

    kind "cue": one step, reward ±1 shown by the observation. "delay": two steps, reward 1 at the
    end, so V(first) = γ. "truncate": reward 1 for ever, cut every 4 steps: V = 1/(1−γ) only if
    truncation bootstraps. "terminate": the same but ended: V falls towards the end. "action":
    reward 1 for the action that the cue names. "reach": one step, reward -(a - cue / 2)² of a
    continuous action a. Actions are two, or one number where `size` is 1.
    """

    name, version, task_names = "probe", "1", ("plain", "double")
    observation_size, action_space, horizon, reference = 1, Discrete(2), 4, "none"

    def __init__(self, kind: str, size: int = 0):
        self.kind = kind
        self.length = {"delay": 2, "truncate": 4, "terminate": 4}.get(kind, 1)
        if size:
            self.action_space = Continuous(size)

    def reset(self, keys):
        cue = jax.vmap(jax.vmap(lambda k: jax.random.rademacher(k, (), jnp.float32)))(keys)
        state = ProbeState(jnp.zeros(keys.shape), cue)
        return state, self._observe(state)

    def _observe(self, state):
        shown = {"delay": state.time, "truncate": jnp.zeros_like(state.time),
                 "terminate": state.time}.get(self.kind, state.cue)
        return shown[..., None]

    def step(self, keys, state, action):
        end = state.time + 1 >= self.length
        if self.kind == "action":
            reward = jnp.float32((action == 1) == (state.cue > 0))
        elif self.kind == "reach":
            reward = -jnp.square(action[..., 0] - state.cue / 2)
        else:
            reward = {"cue": state.cue, "delay": end.astype(jnp.float32)}.get(
                self.kind, jnp.ones_like(state.cue))
        reward = reward * jnp.array([1.0, 2.0])[:, None]
        after = ProbeState(state.time + 1, state.cue)
        first, _ = self.reset(keys)
        state = jax.tree.map(lambda a, b: jnp.where(end, a, b), first, after)
        truncated = end & (self.kind == "truncate")
        return state, Step(self._observe(state), reward, end & ~truncated, truncated,
                           self._observe(after))


def problem_of(kind: str, config: C.Config, size: int = 0) -> Problem:
    """The probe of that kind with a config's algorithm and method."""
    suite = Probe(kind, size)
    network = network_of(config, suite.num_tasks, suite.observation_size, suite.action_space)
    return Problem(config, suite, network, ALGORITHMS[config.algorithm])


def train(kind: str, config: C.Config, updates: int, size: int = 0):
    """(problem, state, metrics [updates, M]) after so many updates of one seed."""
    config = dataclasses.replace(config, total_steps=2 * config.steps_per_task * updates)
    learner = Learner(problem_of(kind, config, size))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.update(s), s, None, updates))
    state, metrics = run(learner.init(jax.random.key(0)))
    return learner.problem, state, metrics
