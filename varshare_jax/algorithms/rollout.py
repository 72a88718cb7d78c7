"""Collecting rollouts, and which weights act while doing so."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms.problem import Problem
from varshare_jax.methods.base import MultiTaskNetwork
from varshare_jax.normalization import RunningStats, normalize
from varshare_jax.types import Episode, Step, TrainState, Transition, Variables


def initial_episode(num_tasks: int, num_envs: int) -> Episode:
    """Nothing has happened yet, [M, N]."""
    zeros = jnp.zeros((num_tasks, num_envs))
    return Episode(zeros, zeros, zeros.astype(bool))


def advance_episode(episode: Episode, step: Step, was_done: jax.Array) -> Episode:
    """Adds a step; where the step before ended an episode a new one begins."""
    success = jnp.zeros_like(episode.success) if step.success is None else step.success
    return Episode(jnp.where(was_done, 0.0, episode.total) + step.reward,
                   jnp.where(was_done, 0.0, episode.length) + 1,
                   jnp.where(was_done, False, episode.success) | success)


def policy_per_env(network: MultiTaskNetwork, variables: Variables,
                   obs: jax.Array) -> distrax.Distribution:
    """Action distributions where every env has its own weights.

    `task` leaves [M, N, ...], obs [M, N, D] -> batch shape [M, N].
    """
    act = jax.vmap(network.policy, in_axes=({"shared": None, "task": 1}, 1), out_axes=1)
    return act({name: variables[name] for name in ("shared", "task")}, obs)


def sample_per_env(network: MultiTaskNetwork, variables: Variables, keys: jax.Array) -> Variables:
    """One draw of the weights per env: keys [M, N] -> `task` leaves [M, N, ...]."""
    draw = jax.vmap(jax.vmap(network.method.sample, in_axes=(None, 0)))
    return variables | {"task": draw(variables["task"], keys)}


def select_per_env(mask: jax.Array, new: Any, old: Any) -> Any:
    """Where mask [M, N], `new` (leaves [M, ...], one per task), else `old` ([M, N, ...])."""
    def select(n, o):
        return jnp.where(mask.reshape(mask.shape + (1,) * (o.ndim - 2)), n[:, None], o)

    return jax.tree.map(select, new, old)


class Acting:
    """The weights that act: the posterior mean, or a sample held for a while.

    A sample held for a `rollout` or `step` is one per task. Held for an `episode` it is one per
    env: envs of a task whose episodes end together share the next draw. What is held is the
    draw's key, so the weights follow the posterior when it moves between rollouts.
    """

    def __init__(self, problem: Problem):
        self.network = problem.network
        method = problem.network.method
        self.hold = problem.config.varshare.hold if method.acts_with_sample else "mean"

    def start(self, variables: Variables, keys: jax.Array, key: jax.Array):
        """What the first step of a rollout acts with: (held variables, keys [M, N])."""
        if self.hold == "rollout":
            return self.network.sample(variables, key), keys
        if self.hold == "episode":
            return sample_per_env(self.network, variables, keys), keys
        return variables, keys

    def policy(self, held: Variables, obs: jax.Array, key: jax.Array) -> distrax.Distribution:
        """Action distributions for obs [M, N, D]."""
        if self.hold == "episode":
            return policy_per_env(self.network, held, obs)
        if self.hold == "step":
            held = self.network.sample(held, key)
        return self.network.policy(held, obs)

    def renew(self, variables: Variables, held: Variables, keys: jax.Array, done: jax.Array,
              key: jax.Array):
        """After a step: new draws where an episode ended, if draws are held for episodes."""
        if self.hold != "episode":
            return held, keys
        fresh_keys = jax.random.split(key, done.shape[0])
        fresh = jax.vmap(self.network.method.sample)(variables["task"], fresh_keys)
        task = select_per_env(done, fresh, held["task"])
        return held | {"task": task}, jnp.where(done, fresh_keys[:, None], keys)


def collect(problem: Problem, state: TrainState, key: jax.Array) -> tuple[TrainState, Transition]:
    """Steps every env T times. Returns the state after and transitions [T, M, N, ...]."""
    acting = Acting(problem)
    start_key, step_key, env_key = jax.random.split(key, 3)
    held, acting_keys = acting.start(state.variables, state.acting_keys, start_key)
    discount = state.scalars["ppo.discount"]

    def step(carry, x):
        env_state, obs, episode, discounted, done, held, keys = carry
        (weights_key, action_key, renew_key), env_keys = x
        policy = acting.policy(held, observe(problem, state.obs_stats, obs), weights_key)
        action, log_prob = policy.sample_and_log_prob(seed=action_key)
        env_state, out = problem.suite.step(env_keys, env_state, action)
        episode = advance_episode(episode, out, done)
        discounted = jnp.where(done, 0.0, discounted) * discount + out.reward
        done = out.terminated | out.truncated
        held, keys = acting.renew(state.variables, held, keys, done, renew_key)
        transition = Transition(obs, action, log_prob, out.reward, out.terminated,
                                out.truncated, out.final_obs, discounted, episode)
        return (env_state, out.obs, episode, discounted, done, held, keys), transition

    carry = (state.env_state, state.obs, state.episode, state.discounted_return, state.done,
             held, acting_keys)
    length = problem.config.ppo.rollout_length
    # All at once: the generator is a loop on CPUs, too slow to run within every step.
    keys = (tuple(jax.random.split(step_key, (3, length))),
            jax.random.split(env_key, (length, *state.done.shape)))
    (env_state, obs, episode, discounted, done, _, acting_keys), trajectory = jax.lax.scan(
        step, carry, keys)
    state = state.replace(env_state=env_state, obs=obs, episode=episode, done=done,
                          discounted_return=discounted, acting_keys=acting_keys)
    return state, trajectory


def observe(problem: Problem, stats: RunningStats, obs: jax.Array) -> jax.Array:
    """What the networks see of raw observations [M, ..., D]."""
    return normalize(stats, obs) if problem.config.ppo.normalize_observations else obs
