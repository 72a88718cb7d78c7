"""Proximal policy optimisation for M tasks at once (Schulman et al. 2017, arXiv 1707.06347)."""

import functools

import jax
import jax.numpy as jnp

from varshare_jax.algorithms import descent, on_policy
from varshare_jax.algorithms.base import Problem, per_task
from varshare_jax.algorithms.on_policy import Batch, OnPolicy
from varshare_jax.algorithms.rollout import collect, episode_metrics
from varshare_jax.algorithms.settings import PPOConfig
from varshare_jax.methods.base import Metrics, Scalars
from varshare_jax.networks.critics import make_critic
from varshare_jax.types import Agent, TrainState


class PPO(OnPolicy):
    """A rollout, then epochs of minibatches on the clipped surrogate."""

    settings = PPOConfig

    def update(self, problem: Problem, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key, method_key, cosine_key = jax.random.split(state.key, 5)
        world, trajectory = collect(problem, state, rollout_key)
        batch, state = on_policy.prepare(problem, state.replace(world=world), trajectory)
        loss = functools.partial(ppo_loss, problem, state.scalars)
        agreement = descent.cosines(problem, state.agent, loss, on_policy.one_minibatch(
            problem, batch), cosine_key, state.scalars)
        agent, metrics = _learn(problem, state, batch, loss, learn_key)
        gap = functools.partial(on_policy.critic_error, problem, batch)
        agent, metrics = descent.finish(problem, state, agent, metrics, method_key, gap)
        state = state.replace(agent=agent, key=key, update=state.update + 1)
        return state, episode_metrics(trajectory) | metrics | agreement


def _learn(problem: Problem, state: TrainState, batch: Batch, loss: descent.Loss,
           key: jax.Array) -> tuple[Agent, Metrics]:
    """Epochs of minibatches until the policy has moved far enough."""
    rate, target_kl = problem.learning_rate(state), problem.settings.target_kl

    def step(carry, minibatch, key):
        agent, going = carry
        new, metrics = descent.step(problem, agent, loss, minibatch, key, state.scalars, rate)
        if target_kl > 0:
            moved = metrics["approx_kl"]  # a task whose gradient is skipped has no say
            going &= moved.mean(where=jnp.isfinite(moved)) <= target_kl
            new = jax.tree.map(lambda new, old: jnp.where(going, new, old), new, agent)
        return (new, going), metrics

    (agent, _), metrics = on_policy.passes(problem, batch, key,
                                           (state.agent, jnp.ones((), bool)), step)
    first = {"first_ratio_std": metrics.pop("ratio_std")[0, 0],
             "first_approx_kl": metrics["approx_kl"][0, 0]}
    return agent, {name: m.mean((0, 1)) for name, m in metrics.items()} | first


def ppo_loss(problem: Problem, scalars: Scalars, forward: descent.Forward,
             batch: Batch) -> tuple[jax.Array, Metrics]:
    """PPO's loss per task [M] of a minibatch [M, G, L]; metrics [M]."""
    settings, scalar = problem.settings, functools.partial(problem.scalar, scalars)
    outputs, clip = forward(batch.obs, "actor", "critic"), scalar("clip")
    policy = outputs["actor"]

    advantage = on_policy.advantage_of(problem, batch)
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    policy_loss = -per_task(jnp.minimum(
        ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage))
    value_loss = per_task(make_critic(problem.config.network).error(
        on_policy.rescaled(problem, forward.variables, outputs["critic"]), batch.target,
        batch.value, clip if settings.clip_value else None))
    entropy = per_task(policy.entropy())
    loss = (policy_loss + scalar("value_coefficient") * value_loss
            - scalar("entropy_coefficient") * entropy)
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": per_task(ratio - 1 - log_ratio),
        "clip_fraction": per_task((jnp.abs(ratio - 1) > clip).astype(jnp.float32)),
        "ratio_std": jnp.std(ratio, axis=(1, 2)),
    }
