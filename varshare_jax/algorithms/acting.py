"""From observations to actions: the one place where they are standardised and weights act."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms.base import Problem
from varshare_jax.algorithms.normalization import normalize
from varshare_jax.types import Player, Variables


def observe(problem: Problem, stats: dict[str, Any], obs: jax.Array) -> jax.Array:
    """What the networks see of raw observations [M, ..., D]."""
    return normalize(stats["obs"], obs) if problem.settings.normalize_observations else obs


def policy(problem: Problem, player: Player, obs: jax.Array,
           exploration: Any = None) -> distrax.Distribution:
    """Distributions over actions: raw observations [M, ..., D] -> batch shape [M, ...]."""
    return policy_of(problem, player.variables, observe(problem, player.stats, obs), exploration)


def policy_of(problem: Problem, variables: Variables, seen: jax.Array,
              exploration: Any = None) -> distrax.Distribution:
    """The same for observations that `observe` has seen already."""
    algorithm = problem.algorithm
    outputs = problem.network.apply(variables, seen, *algorithm.acts_by)
    return algorithm.distribution(outputs, exploration)


def policy_per_env(problem: Problem, player: Player, obs: jax.Array,
                   exploration: Any = None) -> distrax.Distribution:
    """`policy` where every env has its own weights: `task` leaves [M, N, ...], obs [M, N, D]."""
    seen = observe(problem, player.stats, obs)
    act = jax.vmap(lambda variables, x: policy_of(problem, variables, x, exploration),
                   in_axes=({"shared": None, "task": 1}, 1), out_axes=1)
    return act({name: player.variables[name] for name in ("shared", "task")}, seen)


def sample_per_env(problem: Problem, variables: Variables, keys: jax.Array) -> Variables:
    """One draw of the weights per env: keys [M, N] -> `task` leaves [M, N, ...]."""
    draw = jax.vmap(jax.vmap(problem.network.method.sample, in_axes=(None, 0)))
    return variables | {"task": draw(variables["task"], keys)}


def select_per_env(mask: jax.Array, new: Any, old: Any) -> Any:
    """Where mask [M, N], `new` (leaves [M, ...], one per task), else `old` ([M, N, ...])."""
    def select(n, o):
        return jnp.where(mask.reshape(mask.shape + (1,) * (o.ndim - 2)), n[:, None], o)

    return jax.tree.map(select, new, old)


class Acting:
    """The weights that act in rollouts: the posterior mean, or a sample held for a while.

    A sample held for a `rollout` or `step` is one per task. Held for an `episode` it is one per
    env: envs of a task whose episodes end together share the next draw. What is held is the
    draw's key, so the weights follow the posterior when it moves between rollouts.
    """

    def __init__(self, problem: Problem):
        self.problem, self.network = problem, problem.network
        draws = problem.network.method.draws
        self.hold = draws.hold if draws.act else "mean"

    def start(self, variables: Variables, keys: jax.Array, key: jax.Array):
        """What the first step of a rollout acts with: (held variables, keys [M, N])."""
        if self.hold == "rollout":
            return self.network.sample(variables, key), keys
        if self.hold == "episode":
            return sample_per_env(self.problem, variables, keys), keys
        return variables, keys

    def policy(self, player: Player, obs: jax.Array, key: jax.Array,
               exploration: Any) -> distrax.Distribution:
        """Action distributions for raw obs [M, N, D]; the player's variables are those held."""
        if self.hold == "episode":
            return policy_per_env(self.problem, player, obs, exploration)
        if self.hold == "step":
            player = player.replace(variables=self.network.sample(player.variables, key))
        return policy(self.problem, player, obs, exploration)

    def renew(self, variables: Variables, held: Variables, keys: jax.Array, done: jax.Array,
              key: jax.Array):
        """After a step: new draws where an episode ended, if draws are held for episodes."""
        if self.hold != "episode":
            return held, keys
        fresh_keys = jax.random.split(key, done.shape[0])
        fresh = jax.vmap(self.network.method.sample)(variables["task"], fresh_keys)
        task = select_per_env(done, fresh, held["task"])
        return held | {"task": task}, jnp.where(done, fresh_keys[:, None], keys)
