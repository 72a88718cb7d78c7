"""Maximum a posteriori policy optimisation for M tasks at once (Abdolmaleki et al. 2018, arXiv
1806.06920 and, for the M-step of Gaussians, 1812.02256).

An E-step weighs actions of the target policy by a softmax of their values, an M-step makes them
likelier within a trust region around the target. Temperature and trust region are Lagrange
multipliers of each task's own. Critic, policy and multipliers step at once, each on what the others
were before.

The critic learns from the value that the target policy expects after `n_step` rewards, uncorrected,
where the paper has Retrace: that one needs whole stretches of steps and how likely each action was
when it was taken, and the replay keeps neither.
"""

import functools
import math
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms import objectives
from varshare_jax.algorithms.base import Problem, per_task
from varshare_jax.algorithms.duals import initial_duals, step_duals, trust, trust_dual
from varshare_jax.algorithms.off_policy import (
    OffPolicy,
    critics,
    stochastic_actor,
    taken,
    with_noise,
)
from varshare_jax.algorithms.settings import MPOConfig
from varshare_jax.methods.base import Metrics, Scalars


class Candidates(NamedTuple):
    """K actions of the target policy at observations, leaves [M, B, K]: all discrete ones, or drawn
    ones.

    `raw` [M, B, K, A] are the drawn ones before tanh, None for discrete actions. `log_prior` is the
    log of what each counts in an expectation, `q` what the target critic says of it.
    """

    policy: Any
    raw: jax.Array | None
    log_prior: jax.Array
    q: jax.Array


class MPO(OffPolicy):
    """A critic of the target policy, and a policy that is fitted to the better of its actions."""

    settings = MPOConfig

    def heads(self, space, config):
        return *stochastic_actor(space, config), *critics(space, config, ("critic",))

    def init(self, problem, key):
        """Beside the replay the duals' parameters and Adam's moments of them, each [M]."""
        return super().init(problem, key) | initial_duals(problem)

    def draw(self, problem, state, key):
        batch_key, noise_key = jax.random.split(key)
        return with_noise(problem, super().draw(problem, state, batch_key), noise_key,
                          problem.settings.action_samples)

    def loss(self, problem, start, forward, batch):
        """The critic's squared error, the policy's weighted likelihood and its trust region.

        Random weights of the critic are drawn in its own error, those of the policy in its loss;
        the targets, which weigh the actions, have mean weights.
        """
        batch, noise_after, noise = batch
        multiplier = jax.tree.map(objectives.dual, start.own["duals"])
        slow = functools.partial(problem.network.apply, start.agent.target)
        after = candidates(slow, batch.final_obs, noise_after)
        goal = batch.reward + batch.discount * (jnp.exp(after.log_prior) * after.q).sum(-1)
        values, = taken(forward, batch, ("critic",))
        value_loss = per_task(jnp.square(values - goal) / 2)
        here = candidates(slow, batch.obs, noise)
        weights, kl = objectives.mpo_weights(here.q, here.log_prior, multiplier["temperature"])
        policy = forward(batch.obs, "actor")["actor"]
        policy_loss = -per_task((weights * log_likelihood(policy, here)).sum(-1))
        distance, kls = trust(multiplier, here.policy, policy)
        return value_loss + policy_loss + distance, {
            "value_loss": value_loss, "policy_loss": policy_loss, "q": per_task(values),
            "kl_weights": per_task(kl), **kls,
            **{f"dual_{name}": x for name, x in multiplier.items()}}

    def follow(self, problem, start, metrics):
        """A step of the duals by Adam."""
        duals = start.own["duals"]
        grads = jax.grad(lambda duals: dual_loss(problem, start.scalars, duals, metrics).sum())(
            duals)
        duals, moments = step_duals(duals, grads, start.own["moments"],
                                    problem.scalar(start.scalars, "dual_rate"))
        return {"duals": duals, "moments": moments}


def dual_loss(problem: Problem, scalars: Scalars, duals: dict[str, jax.Array],
              metrics: Metrics) -> jax.Array:
    """What the duals descend, [M]: a multiplier times (ε − KL) for each KL, that of the E-step's
    weights included, where it has the slope of the temperature's dual."""
    multiplier = jax.tree.map(objectives.dual, duals)
    of_weights = objectives.kl_penalty(metrics["kl_weights"], multiplier["temperature"],
                                       problem.scalar(scalars, "epsilon"))
    return of_weights + trust_dual(problem, scalars, multiplier, metrics)


def candidates(apply: Any, obs: jax.Array, noise: jax.Array | None) -> Candidates:
    """By networks `apply`, at observations [M, B, D]; `noise` [M, B, K, A] draws continuous
    actions."""
    if noise is None:
        outputs = apply(obs, "actor", "critic")
        policy = outputs["actor"]
        return Candidates(policy, None, jax.nn.log_softmax(policy.logits), outputs["critic"])
    policy = apply(obs, "actor")["actor"]
    raw = policy.loc[:, :, None] + policy.scale[:, :, None] * noise
    repeated = jnp.broadcast_to(obs[:, :, None], (*raw.shape[:3], obs.shape[-1]))
    q = apply(repeated, "critic", action=jnp.tanh(raw))["critic"]
    return Candidates(policy, raw, jnp.full(q.shape, -math.log(q.shape[-1])), q)


def log_likelihood(policy: Any, candidates: Candidates) -> jax.Array:
    """What an M-step makes of the candidates under a policy, [M, B, K], but for a constant.

    For Gaussians the sum of two: of its mean with the target's deviation, and of its deviation
    around the target's mean (arXiv 1812.02256), so that neither makes up for the other.
    """
    if candidates.raw is None:
        return jax.nn.log_softmax(policy.logits)
    old, new = (jax.tree.map(lambda x: x[:, :, None], each.distribution)
                for each in (candidates.policy, policy))
    return (distrax.Normal(new.loc, old.scale).log_prob(candidates.raw)
            + distrax.Normal(old.loc, new.scale).log_prob(candidates.raw)).sum(-1)
