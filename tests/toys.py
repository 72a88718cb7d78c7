"""Losses whose optimum and curvature are known, descended as any loss is."""

import functools
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax import config as C
from varshare_jax import methods
from varshare_jax.algorithms import ALGORITHMS, descent
from varshare_jax.algorithms.base import Problem
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.networks.heads import ActionValueHead
from varshare_jax.types import Agent

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
HADAMARD = functools.reduce(np.kron, [np.array([[1, 1], [1, -1]])] * 3)  # 8 × 8, orthogonal


class Identity(nn.Module):
    """No torso: the head's kernel meets the observation."""

    @nn.compact
    def __call__(self, x):
        return x


class Toy:
    """M linear regressions of A outputs on D features, each weight with a curvature of its own.

    L_m = ½ Σ a_i (W_m,ij − W*_m,ij)², exactly: features are orthogonal in every batch.
    """

    def __init__(self, problem: Problem, curvature: Any):
        self.problem, self.curvature = problem, np.array(curvature)
        self.scalars = {name: jnp.float32(x) for name, x in problem.config.scalars().items()}

    def start(self) -> Agent:
        return descent.init_agent(self.problem, jax.random.key(0), self.scalars)

    def targets(self, agent: Agent, departures: Any) -> jax.Array:
        """Optima W* [M, D, A] at `departures` [M] or [M, 1, 1] from the initial network."""
        theta = agent.variables["shared"]["critic_head"]["kernel"]
        return theta + jnp.asarray(departures, jnp.float32).reshape(-1, 1, 1) * jnp.ones_like(theta)

    @functools.lru_cache  # noqa: B019, a toy lives as long as its tests
    def _run(self, updates: int):
        tasks = self.problem.suite.num_tasks
        features = HADAMARD[:, 1:1 + self.curvature.size] * np.sqrt(self.curvature)
        obs = jnp.broadcast_to(jnp.float32(features), (tasks, *features.shape))

        def fit(forward, target):
            error = forward(obs, "critic")["critic"] - obs @ target
            loss = jnp.square(error).sum(-1).mean(-1) / 2
            return loss, {"error": loss}

        def run(agent, target, key, scalars, rate):
            def step(i, agent):
                return descent.step(self.problem, agent, fit, target, jax.random.fold_in(key, i),
                                    scalars, rate)[0]

            return jax.lax.fori_loop(0, updates, step, agent)

        return jax.jit(run, compiler_options=OPTIONS)

    def train(self, agent: Agent, target: jax.Array, updates: int, rate: float,
              **scalars: float) -> Agent:
        """After so many gradient steps; `scalars` by dotted names with `__` for dots."""
        changed = {name.replace("__", "."): jnp.float32(x) for name, x in scalars.items()}
        return self._run(updates)(agent, target, jax.random.key(1), self.scalars | changed,
                                  jnp.float32(rate))


def toy(method: str = "varshare", tasks: int = 10, curvature: Any = (1.0, 1.0),
        outputs: int = 2, **settings: Any) -> Toy:
    """The regressions by a method with a linear network; settings by dotted names."""
    config = C.replace(C.Config(method=method), {
        name.replace("__", "."): value for name, value in settings.items()}).validate()
    made = methods.make(config, tasks)
    linear = type("Linear", (type(made),), {"torso": lambda self: Identity()})
    network = MultiTaskNetwork(linear(config, tasks, method, made.combiner), len(curvature),
                               (("critic", ActionValueHead(outputs)),))
    suite = SimpleNamespace(num_tasks=tasks)
    return Toy(Problem(config, suite, network, ALGORITHMS["ppo"]), curvature)
