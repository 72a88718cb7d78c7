"""Many seeds as one program: init one after another, updates vmapped and scanned in chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from varshare_jax import capacity, methods, suites
from varshare_jax.algorithms import ppo
from varshare_jax.algorithms.problem import Problem
from varshare_jax.config import Config
from varshare_jax.methods.base import Metrics, MultiTaskNetwork
from varshare_jax.types import TrainState

_ENVS_IN_STEP = 64


def make_problem(config: Config) -> Problem:
    """Looks up the suite and method that a config names; raises UserError for unknown ones."""
    config.validate()
    suite = suites.make(config.suite, config.metaworld)
    # The config itself stays as given: what a run stores must lead to the same widths again.
    sized = capacity.match(config, suite) if config.capacity == "matched" else config
    method = methods.make(sized, suite.num_tasks)
    network = MultiTaskNetwork(method, suite.observation_size, suite.action_space)
    return Problem(config, suite, network)


@dataclasses.dataclass(frozen=True)
class Learner:
    """The pure functions of training. `init` and `update` are for one seed.

    `update` may be jitted, vmapped over seeds and scanned by whoever writes their own loop;
    `init_seeds` and `update_many` are how the runner does it.
    """

    problem: Problem

    @classmethod
    def make(cls, config: Config) -> "Learner":
        return cls(make_problem(config))

    def init(self, key: jax.Array, scalars: dict[str, jax.Array] | None = None) -> TrainState:
        """State of one seed; `scalars` replaces some of the config's traced values."""
        values = self.problem.config.scalars() | (scalars or {})
        return ppo.init(self.problem, key, {k: jnp.float32(v) for k, v in values.items()})

    def update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One PPO iteration of one seed; metrics [M]."""
        return ppo.update(self.problem, state)

    def init_seeds(self, scalars: dict[str, jax.Array] | None = None) -> TrainState:
        """States of all S members of the program, leaves [S, ...]; `scalars` holds vectors [S].

        Sequential on purpose: a QR batched over seeds deadlocks XLA's CPU thread pool.
        """
        members = self.problem.config.members()
        keys = jnp.stack([jax.random.key(member.seed) for member in members])
        vectors = {name: jnp.float32([member.scalars()[name] for member in members])
                   for name in members[0].scalars()} | (scalars or {})
        return jax.jit(functools.partial(jax.lax.map, lambda x: self.init(*x)))((keys, vectors))

    def update_many(self, state: TrainState, count: jax.Array) -> tuple[TrainState, Metrics]:
        """`count` ≤ chunk updates of all seeds; metrics [S, chunk, M], NaN past `count`.

        The count is traced: a shorter last chunk runs the same compiled program. Small problems
        run all seeds in step; large ones (on a CPU) a few at a time, which stay in its caches.
        """
        run = functools.partial(self._run_chunk, count)
        return jax.lax.map(run, state, batch_size=self.seeds_at_once(state.update.shape[0]))

    def seeds_at_once(self, seeds: int) -> int:
        """How many of the `seeds` on one device are vmapped together.

        All on an accelerator; else a divisor, so that no remainder is compiled as a second program.
        """
        if jax.default_backend() != "cpu":
            return seeds
        envs = self.problem.suite.num_tasks * self.problem.config.ppo.num_envs
        fit = max(1, _ENVS_IN_STEP // envs)
        return max(d for d in range(1, seeds + 1) if seeds % d == 0 and d <= fit)

    def _run_chunk(self, count: jax.Array, state: TrainState) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(self.update, state)[1]
        chunk = self.problem.config.run.log_every
        metrics = jax.tree.map(lambda m: jnp.full((chunk, *m.shape), jnp.nan, m.dtype), shapes)

        def body(i, carry):
            state, metrics = carry
            state, new = self.update(state)
            return state, jax.tree.map(lambda buffer, m: buffer.at[i].set(m), metrics, new)

        return jax.lax.fori_loop(0, count, body, (state, metrics))
