"""Collecting rollouts: T steps of every env, and what is told of the episodes in them."""

import jax
import jax.numpy as jnp

from varshare_jax.algorithms.acting import Acting
from varshare_jax.algorithms.base import Problem
from varshare_jax.methods.base import Metrics
from varshare_jax.types import Episode, Step, TrainState, Transition, World


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


def initial_world(problem: Problem, env_key: jax.Array, acting_key: jax.Array) -> World:
    """Every env where the suite lets training begin."""
    shape = problem.shape
    env, obs = problem.suite.begin(jax.random.split(env_key, shape))
    return World(env, obs, initial_episode(*shape), jnp.zeros(shape), jnp.ones(shape, bool),
                 jax.random.split(acting_key, shape))


def collect(problem: Problem, state: TrainState, key: jax.Array) -> tuple[World, Transition]:
    """Steps every env T times. Returns the world after and transitions [T, M, N, ...]."""
    acting, player = Acting(problem), problem.player(state)
    start_key, step_key, env_key = jax.random.split(key, 3)
    held, acting_keys = acting.start(player.variables, state.world.acting_keys, start_key)
    discount = problem.scalar(state.scalars, "discount")
    exploration = problem.algorithm.exploration(problem, state)

    def step(carry, x):
        world, held = carry
        (weights_key, action_key, renew_key), env_keys = x
        policy = acting.policy(player.replace(variables=held), world.obs, weights_key, exploration)
        action, log_prob = policy.sample_and_log_prob(seed=action_key)
        env, out = problem.suite.step(env_keys, world.env, action)
        episode = advance_episode(world.episode, out, world.done)
        discounted = jnp.where(world.done, 0.0, world.discounted_return) * discount + out.reward
        done = out.terminated | out.truncated
        held, keys = acting.renew(player.variables, held, world.acting_keys, done, renew_key)
        transition = Transition(world.obs, action, log_prob, out.reward, out.terminated,
                                out.truncated, out.final_obs, discounted, episode)
        return (World(env, out.obs, episode, discounted, done, keys), held), transition

    length = problem.settings.rollout_length
    # All at once: the generator is a loop on CPUs, too slow to run within every step.
    keys = (tuple(jax.random.split(step_key, (3, length))),
            jax.random.split(env_key, (length, *problem.shape)))
    start = state.world.replace(acting_keys=acting_keys)
    (world, _), trajectory = jax.lax.scan(step, (start, held), keys)
    return world, trajectory


def episode_metrics(trajectory: Transition) -> Metrics:
    """Mean return and length of the episodes that ended in a rollout, [M]; NaN where none did."""
    done = trajectory.terminated | trajectory.truncated
    count = done.sum((0, 2))

    def mean(x):
        return jnp.where(count > 0, jnp.sum(x * done, (0, 2)) / jnp.maximum(count, 1), jnp.nan)

    episode = trajectory.episode
    return {"return": mean(episode.total), "length": mean(episode.length),
            "success": mean(episode.success), "episodes": count.astype(jnp.float32)}
