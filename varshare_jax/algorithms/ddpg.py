"""Deep deterministic policy gradients for M tasks at once (Lillicrap et al. 2016, arXiv
1509.02971), with what TD3 adds to them as options (Fujimoto et al. 2018, arXiv 1802.09477).
"""

import functools
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms import objectives
from varshare_jax.algorithms.base import per_task
from varshare_jax.algorithms.off_policy import TWINS, OffPolicy, critics
from varshare_jax.algorithms.replay import Batch
from varshare_jax.algorithms.settings import DDPGConfig
from varshare_jax.errors import UserError
from varshare_jax.networks.heads import DeterministicPolicyHead
from varshare_jax.types import Continuous


class Sample(NamedTuple):
    """A batch, and standard normal noise [M, B, A] on the target's actions."""

    batch: Batch
    noise: jax.Array


class Exploration(NamedTuple):
    """`std` of the noise on actions; `random` is 1 while these are uniformly random, else 0."""

    std: jax.Array
    random: jax.Array


class DDPG(OffPolicy):
    """A policy that climbs its critic, and acts with noise."""

    settings = DDPGConfig

    def heads(self, space, config):
        names = TWINS if config.ddpg.twin else TWINS[:1]
        return (("actor", DeterministicPolicyHead(space.size)), *critics(space, config, names))

    def delays(self, settings):
        return {"actor": settings.policy_delay} if settings.policy_delay > 1 else {}

    def exploration(self, problem, state):
        """Uniform until gradient steps begin."""
        settings = problem.settings
        stored = state.update * settings.rollout_length * settings.num_envs
        return Exploration(problem.scalar(state.scalars, "exploration_noise"),
                           jnp.float32(stored < settings.learning_starts))

    def distribution(self, outputs, exploration):
        """Gaussian around the policy's action, clipped to [-1, 1]; the action itself in
        evaluations."""
        action = outputs["actor"]
        if exploration is None:
            return distrax.Independent(distrax.Deterministic(action), 1)
        low, high = -jnp.ones_like(action), jnp.ones_like(action)
        # distrax divides by the deviation; actions are float32's next to exact with this one.
        std = jnp.broadcast_to(jnp.maximum(exploration.std, 1e-6), action.shape)
        return distrax.Independent(distrax.MixtureOfTwo(
            exploration.random, distrax.Uniform(low, high),
            distrax.ClippedNormal(action, std, low, high)), 1)

    def check_suite(self, suite):
        if not isinstance(suite.action_space, Continuous):
            raise UserError(f"--algorithm=ddpg: needs continuous actions, and those of "
                            f"{suite.name} are discrete; use --algorithm=ppo, vmpo, dqn, sac or "
                            "mpo")

    def draw(self, problem, state, key):
        batch_key, noise_key = jax.random.split(key)
        batch = super().draw(problem, state, batch_key)
        return Sample(batch, jax.random.normal(noise_key, batch.action.shape))

    def loss(self, problem, start, forward, batch):
        """The critics' squared errors, and that the policy is to climb the first critic of `start`.

        Random weights of the critics are drawn in their own errors, those of the policy in its
        loss; targets and the critic that the policy climbs have mean weights.
        """
        batch, noise = batch
        scalar = functools.partial(problem.scalar, start.scalars)
        names = TWINS if problem.settings.twin else TWINS[:1]
        mean, slow = (functools.partial(problem.network.apply, variables)
                      for variables in (start.agent.variables, start.agent.target))
        action = objectives.smoothed(slow(batch.final_obs, "actor")["actor"], noise,
                                     scalar("target_noise"), scalar("target_noise_clip"))
        future = functools.reduce(jnp.minimum, slow(batch.final_obs, *names,
                                                    action=action).values())
        goal = batch.reward + batch.discount * future
        values = forward(batch.obs, *names, action=batch.action)
        errors = (jnp.square(q - goal) / 2 for q in values.values())
        value_loss = per_task(functools.reduce(jnp.add, errors))
        metrics = {"value_loss": value_loss, "q": per_task(values["critic"])}
        if "actor" in start.held:
            return value_loss, metrics
        action = forward(batch.obs, "actor")["actor"]
        policy_loss = -per_task(mean(batch.obs, "critic", action=action)["critic"])
        return value_loss + policy_loss, metrics | {"policy_loss": policy_loss}
