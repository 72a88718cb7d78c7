"""Playing a policy without learning: own keys, one episode per env."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms.acting import observe, policy, policy_per_env, sample_per_env
from varshare_jax.algorithms.base import Problem
from varshare_jax.algorithms.rollout import advance_episode, initial_episode
from varshare_jax.types import Player, TrainState


class Scores(NamedTuple):
    """Returns and successes of episodes, one entry per task and episode, [M, E]."""

    total: jax.Array
    success: jax.Array


def evaluate(problem: Problem, player: Player, key: jax.Array, *, episodes: int,
             weights: str = "mean", samples: int = 1, actions: str = "mode") -> Scores:
    """E = `episodes` whole episodes of every task, for one seed.

    `weights`: the posterior mean, or `samples` draws of its own for each episode, which act by
    `consensus`. `actions`: the policy's mode, or drawn from it, as where a stochastic policy is
    the better one (a task that is partially observed). The statistics of training stay fixed.
    Success means at any step.
    """
    reset_key, weights_key, step_key = jax.random.split(key, 3)
    action_key = jax.random.fold_in(key, 3)  # apart: episodes are the same whoever acts
    shape = problem.suite.num_tasks, episodes
    if weights == "sample":
        draw = functools.partial(sample_per_env, problem, player.variables)
        draws = jax.lax.map(draw, jax.random.split(weights_key, (samples, *shape)))

    def act(obs, key):
        key = key if actions == "sample" else None
        if weights == "mean":
            played = policy(problem, player, obs)
            return played.mode() if key is None else played.sample(seed=key)
        return consensus(jax.vmap(lambda drawn: policy_per_env(
            problem, player.replace(variables=drawn), obs))(draws), key)

    def unfinished(carry):
        return jnp.any(~carry[3]) & (carry[4] < problem.suite.horizon)

    def step(carry):
        env_state, obs, episode, done, count = carry
        action = act(obs, jax.random.fold_in(action_key, count))
        step_keys = jax.random.split(jax.random.fold_in(step_key, count), shape)
        env_state, out = problem.suite.step(step_keys, env_state, action)
        advanced = advance_episode(episode, out, jnp.zeros_like(done))
        episode = jax.tree.map(lambda old, new: jnp.where(done, old, new), episode, advanced)
        return env_state, out.obs, episode, done | out.terminated | out.truncated, count + 1

    env_state, obs = problem.suite.reset(jax.random.split(reset_key, shape))
    start = env_state, obs, initial_episode(*shape), jnp.zeros(shape, bool), 0
    _, _, episode, _, _ = jax.lax.while_loop(unfinished, step, start)
    return Scores(episode.total, episode.success)


def consensus(policy: distrax.Distribution, key: jax.Array | None = None) -> jax.Array:
    """The action of several policies, batch shape [K, ...], together.

    The most likely under the mean of their probabilities, or the mean of continuous ones; with
    a key a draw from their mixture.
    """
    if key is not None:
        key, which = jax.random.split(key)
        return policy.sample(seed=key)[jax.random.randint(which, (), 0, policy.batch_shape[0])]
    if isinstance(policy, distrax.Categorical):
        return policy.probs.mean(0).argmax(-1)
    return policy.mode().mean(0)


@functools.partial(jax.jit, static_argnums=0)
def act(problem: Problem, player: Player, task: jax.Array, obs: jax.Array) -> jax.Array:
    """The most likely actions of one task under the mean weights.

    `task` is its index, obs [B, D] are raw observations -> actions [B, ...].
    """
    params, stats = jax.tree.map(lambda x: x[task],
                                 (problem.network.merge(player.variables), player.stats))
    seen = observe(problem, jax.tree.map(lambda x: x[None], stats), obs[None])[0]
    outputs = problem.network.apply_alone(params, task, seen, *problem.algorithm.acts_by)
    return problem.algorithm.distribution(outputs, None).mode()


def evaluate_seeds(problem: Problem, player: Player, keys: jax.Array, **options: Any) -> Scores:
    """`evaluate` of S seeds at once, with its options: keys [S] -> leaves [S, M, E]."""
    return jax.vmap(lambda *seed: evaluate(problem, *seed, **options))(player, keys)


def evaluate_training(problem: Problem, state: TrainState, keys: jax.Array) -> Scores:
    """Evaluations of S seeds in training, as the settings of `run` ask for them; leaves [S, M, E].
    """
    run = problem.config.run
    return evaluate_seeds(problem, problem.player(state), keys, episodes=run.eval_episodes,
                          actions=run.eval_actions)


@functools.cache
def compiled(problem: Problem, **options: Any) -> Callable[..., Scores]:
    """(player, keys) -> `evaluate_seeds`, compiled once for each problem."""
    function = functools.partial(evaluate_seeds, problem, **options)
    return jax.jit(function, compiler_options=dict(problem.suite.compiler_options))


def evaluation_key(seed: int, update: int) -> jax.Array:
    """A stream apart from training's: the same episodes for every method at the same update."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x5EED), update)
