"""VarShare: W_m = θ + φ_m with a variational residual φ_m ~ q_m = N(μ_m, softplus(ρ_m)²).

The objective is the ELBO: PPO's loss under q_m plus β·KL(q_m ‖ N(0, σ_prior²)) / n, where n is
the number of samples that a task contributes to an update. θ pays nothing, so a task departs
from it only where its reward is worth the nats.
"""

import jax
import jax.numpy as jnp

from varshare_jax.methods.base import Method
from varshare_jax.tree import by_layer
from varshare_jax.variational.gaussian import (
    Gaussian,
    is_gaussian,
    kl_divergence,
    rho_of,
    sample_tree,
)


class VarShare(Method):
    """Variational weight-space residuals under a fixed zero-centred prior."""

    name = "varshare"

    def split(self, params, key):
        """Residuals start at N(0, sigma_init²): every task begins as the shared network."""
        rho = rho_of(self.config.varshare.sigma_init)
        return params, jax.tree.map(
            lambda p: Gaussian(jnp.zeros_like(p), jnp.full_like(p, rho)), params)

    def compose(self, shared, task, index):
        def add(residual, theta):
            if is_gaussian(residual):
                return Gaussian(theta + residual.mean, residual.rho)
            return theta + residual  # `sample` has already drawn it

        return jax.tree.map(add, task, shared, is_leaf=is_gaussian)

    def sample(self, task, key: jax.Array):
        return sample_tree(task, key)

    def penalty(self, task, scalars):
        """β KL(q_m ‖ p) / n; metrics in nats: KL in all and of each layer, and q's scales.

        `shift/<layer>` is the part that μ pays, Σ μ² / (2 σ_prior²): zero until a task departs.
        """
        prior_std = scalars["varshare.sigma_prior"]
        nats = by_layer(task, lambda q: jnp.sum(kl_divergence(q, prior_std)), is_gaussian)
        shift = by_layer(task, lambda q: jnp.sum(jnp.square(q.mean / prior_std)) / 2, is_gaussian)
        total = sum(nats.values())
        posteriors = jax.tree.leaves(task, is_leaf=is_gaussian)
        size = sum(q.mean.size for q in posteriors)
        metrics = {"kl": total, **{f"kl/{layer}": kl for layer, kl in nats.items()},
                   **{f"shift/{layer}": kl for layer, kl in shift.items()},
                   "sigma": sum(jnp.sum(q.std) for q in posteriors) / size,
                   "abs_mu": sum(jnp.sum(jnp.abs(q.mean)) for q in posteriors) / size}
        return scalars["varshare.beta"] * total / self.config.samples_per_task, metrics

    @property
    def acts_with_sample(self) -> bool:
        return self.config.varshare.act_with == "sample"

    @property
    def learns_with_sample(self) -> bool:
        return self.config.varshare.learn_with == "sample"

    @property
    def draws_per_example(self) -> bool:
        return self.learns_with_sample and self.config.varshare.estimator != "shared"
