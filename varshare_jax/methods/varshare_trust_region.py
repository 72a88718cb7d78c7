"""VarShare whose posteriors move a bounded way per update.

Each task also pays η KL(q ‖ q_old) / n, with q_old its posterior at the start of the PPO iteration,
and η follows what it is for: the adaptive KL penalty of Schulman et al. 2017, arXiv 1707.06347,
section 4, for posteriors of weights in place of policies.
"""

import jax
import jax.numpy as jnp

from varshare_jax.errors import UserError
from varshare_jax.methods.settings import TrustRegionConfig
from varshare_jax.methods.varshare import VarShare
from varshare_jax.variational.gaussian import is_gaussian, kl_divergence

_FACTOR = 1.5
_LEAST, _MOST = 1e-3, 1e3


class VarShareTrustRegion(VarShare):
    """η of each task grows by half where its KL exceeds 1.5 ε, and shrinks so below ε / 1.5."""

    settings = (*VarShare.settings, TrustRegionConfig)
    gaussian_prior = False

    def init_memory(self, task, scalars):
        prior, memory = super().init_memory(task, scalars)
        eta = jnp.full(self.num_tasks, scalars["trust_region.eta"])
        return prior, memory | {"eta": eta, "task": task}

    def terms(self, variables, memory, scalars):
        old = {"eta": memory["eta"], "old": memory["task"]}
        return super().terms(variables, memory, scalars) | old

    def penalty(self, task, terms, scalars, samples):
        """Adds η KL(q ‖ q_old) / n; metrics: η, and that KL in nats per parameter."""
        cost, metrics = super().penalty(task, terms, scalars, samples)
        moved = jax.tree.map(lambda q, old: jnp.sum(kl_divergence(q, old.std, old.mean)),
                             self._learned(task), terms["old"], is_leaf=is_gaussian)
        total = sum(jax.tree.leaves(moved))
        size = sum(q.mean.size for q in jax.tree.leaves(task, is_leaf=is_gaussian))
        cost += terms["eta"] * total / samples
        return cost, metrics | {"trust_kl": total / size, "eta": terms["eta"]}

    def steer(self, memory, variables, measured, scalars):
        after, metrics = super().steer(memory, variables, measured, scalars)
        excess = measured.metrics["trust_kl"] / scalars["trust_region.target"]
        factor = jnp.where(excess > _FACTOR, _FACTOR,
                           jnp.where(excess < 1 / _FACTOR, 1 / _FACTOR, 1.0))
        eta = jnp.clip(memory["eta"] * factor, _LEAST, _MOST)
        return after | {"eta": eta, "task": variables["task"]}, metrics

    def validate(self):
        super().validate()
        if self.config.varshare.recenter != "none":
            raise UserError(f"--varshare.recenter={self.config.varshare.recenter}: would move the "
                            f"posteriors that {self.name} holds back; use --method=varshare")
