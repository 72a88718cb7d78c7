"""Soft actor-critic for M tasks at once (Haarnoja et al. 2018, arXiv 1801.01290 and 1812.05905),
and for discrete actions (Christodoulou 2019, arXiv 1910.07207).

Policy, both critics and temperature step at once, each on what the others were before. Each task
has a temperature of its own.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.algorithms import objectives
from varshare_jax.algorithms.base import Problem, per_task
from varshare_jax.algorithms.duals import dual_moments, step_duals
from varshare_jax.algorithms.off_policy import (
    TWINS,
    OffPolicy,
    Start,
    critics,
    stochastic_actor,
    taken,
    with_noise,
)
from varshare_jax.algorithms.settings import SACConfig
from varshare_jax.types import Discrete, lead


class SAC(OffPolicy):
    """Two critics and a policy that is drawn to their lower value and to entropy."""

    settings = SACConfig

    def heads(self, space, config):
        return *stochastic_actor(space, config), *critics(space, config, TWINS)

    def init(self, problem, key):
        """Beside the replay log α and Adam's moments of it, [M]."""
        log_temperature = jnp.full(problem.suite.num_tasks,
                                   math.log(problem.settings.initial_temperature))
        return super().init(problem, key) | {"log_temperature": log_temperature,
                                             "moments": dual_moments(log_temperature)}

    def draw(self, problem, state, key):
        batch_key, noise_key = jax.random.split(key)
        return with_noise(problem, super().draw(problem, state, batch_key), noise_key)

    def loss(self, problem, start, forward, batch):
        """The critics' squared errors and the policy's, which climbs the critics of `start`.

        Random weights of the critics are drawn in their own errors, those of the policy in its
        loss; targets and the critics that the policy climbs have mean weights.
        """
        batch, noise_after, noise = batch
        temperature = jnp.exp(start.own["log_temperature"])
        mean, slow = (functools.partial(problem.network.apply, variables)
                      for variables in (start.agent.variables, start.agent.target))
        after = mean(batch.final_obs, "actor")["actor"]
        future, _ = _judge(after, slow, batch.final_obs, temperature, noise_after)
        goal = batch.reward + batch.discount * future
        values = taken(forward, batch, TWINS)
        value_loss = per_task(functools.reduce(jnp.add, (jnp.square(q - goal) / 2 for q in values)))
        policy = forward(batch.obs, "actor")["actor"]
        worth, entropy = _judge(policy, mean, batch.obs, temperature, noise)
        policy_loss = -per_task(worth)
        return value_loss + policy_loss, {
            "value_loss": value_loss, "policy_loss": policy_loss, "q": per_task(values[0]),
            "entropy": per_task(entropy), "temperature": temperature}

    def follow(self, problem, start, metrics):
        """A step of log α by Adam."""
        slope = objectives.temperature_slope(metrics["entropy"], target_entropy(problem, start))
        log_temperature, moments = step_duals(
            start.own["log_temperature"], slope, start.own["moments"],
            problem.scalar(start.scalars, "temperature_rate"))
        return {"log_temperature": log_temperature, "moments": moments}


def target_entropy(problem: Problem, start: Start) -> jax.Array:
    """The entropy H̄ that temperatures keep policies at, in nats; [M] where actions are unlike."""
    space, scalar = problem.suite.action_space, functools.partial(problem.scalar, start.scalars)
    if isinstance(space, Discrete):
        sizes = problem.network.action_sizes
        most = jnp.log(jnp.float32(sizes)) if sizes else math.log(space.n)
        return scalar("target_entropy_share") * most
    return scalar("target_entropy") * space.size


def _judge(policy: Any, apply: Any, obs: jax.Array, temperature: jax.Array,
           noise: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(value, entropy) of a policy at observations [M, B, D] by the lower critic, each [M, B].

    Exact over discrete actions, for continuous ones those of the action that the noise draws.
    """
    if noise is None:
        q = _lower(apply(obs, *TWINS))
        log_probs = jax.nn.log_softmax(policy.logits)
        return (objectives.soft_value(policy.probs, log_probs, q, temperature), policy.entropy())
    action, log_prob = policy.squash(noise)
    q = _lower(apply(obs, *TWINS, action=action))
    return q - lead(temperature, q) * log_prob, -log_prob


def _lower(outputs: dict[str, jax.Array]) -> jax.Array:
    return functools.reduce(jnp.minimum, (outputs[name] for name in TWINS))
