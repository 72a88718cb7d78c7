"""L2-soft sharing: W_m = θ + φ_m, with λ‖φ_m‖² (Evgeniou & Pontil 2004)."""

import jax
import jax.numpy as jnp

from varshare_jax.methods.base import Method
from varshare_jax.methods.settings import L2SoftConfig
from varshare_jax.variational.tree import by_layer


class L2Soft(Method):
    """Deterministic residuals, zero at the start, tied to zero by a fixed spring."""

    settings = (L2SoftConfig,)
    offers = "a residual"

    def split(self, params, key):
        return params, jax.tree.map(jnp.zeros_like, params)

    def compose(self, shared, task, index):
        return jax.tree.map(jnp.add, shared, task)

    def penalty(self, task, terms, scalars, samples):
        """λ‖φ_m‖²; metrics: the squared norm in all and of each layer."""
        norms = by_layer(task, lambda phi: jnp.sum(jnp.square(phi)))
        total = sum(norms.values())
        metrics = {"l2": total} | {f"l2/{layer}": norm for layer, norm in norms.items()}
        return scalars["l2_soft.penalty"] * total, metrics
