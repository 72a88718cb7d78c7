"""Deep Q-learning for M tasks at once (Mnih et al. 2015, "Human-level control through deep
reinforcement learning"), double (van Hasselt et al. 2016, arXiv 1509.06461), from n steps.
"""

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms import objectives
from varshare_jax.algorithms.base import per_task
from varshare_jax.algorithms.off_policy import OffPolicy, critics
from varshare_jax.algorithms.settings import DQNConfig
from varshare_jax.errors import UserError
from varshare_jax.networks.heads import ALLOWED
from varshare_jax.types import Discrete


class DQN(OffPolicy):
    """A critic of actions alone."""

    settings = DQNConfig
    acts_by = ("critic",)

    def heads(self, space, config):
        return critics(space, config, ("critic",))

    def exploration(self, problem, state):
        """ε of the current update, falling linearly."""
        start, end, fraction = (problem.scalar(state.scalars, f"epsilon_{name}")
                                for name in ("start", "end", "fraction"))
        done = jnp.minimum(state.update / problem.num_updates / fraction, 1.0)
        return start + done * (end - start)

    def distribution(self, outputs, exploration):
        """ε-greedy; the best action alone in evaluations."""
        epsilon, q = 0.0 if exploration is None else exploration, outputs["critic"]
        best = jax.nn.one_hot(q.argmax(-1), q.shape[-1])
        if (allowed := outputs.get(ALLOWED)) is None:
            return distrax.Categorical(probs=(1 - epsilon) * best + epsilon / q.shape[-1])
        share = epsilon * allowed / allowed.sum(-1, keepdims=True)
        return distrax.Categorical(probs=(1 - epsilon) * best + share)

    def check_suite(self, suite):
        if not isinstance(suite.action_space, Discrete):
            raise UserError(f"--algorithm=dqn: needs discrete actions, and those of {suite.name} "
                            "are continuous; use --algorithm=ppo, vmpo, sac, ddpg or mpo")

    def loss(self, problem, start, forward, batch):
        """Mean Huber loss of the TD errors."""
        q = forward(batch.obs, "critic")["critic"]
        after = problem.network.apply(start.agent.target, batch.final_obs, "critic")["critic"]
        chosen = forward(batch.final_obs, "critic")["critic"] if problem.settings.double else None
        goal = objectives.q_target(batch.reward, batch.discount, after, chosen)
        loss = per_task(objectives.q_loss(q, batch.action, goal))
        return loss, {"value_loss": loss, "q": per_task(objectives.action_value(q, batch.action))}
