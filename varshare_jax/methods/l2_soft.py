"""L2-soft sharing: W_m = θ + φ_m, with λ‖φ_m‖² (Evgeniou & Pontil 2004)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from varshare_jax.methods.base import Method
from varshare_jax.networks.layers import Parametrization, from_initializer
from varshare_jax.tree import by_layer


@dataclasses.dataclass(frozen=True)
class Residual(Parametrization):
    """Every tensor is a shared one plus a task's residual, which starts at zero."""

    def __call__(self, module, name, init, shape, head):
        shared = from_initializer(module, "shared", name, init, shape)
        return shared + from_initializer(module, "task", name, nn.initializers.zeros, shape)


class L2Soft(Method):
    """Deterministic residuals tied to zero by a fixed spring."""

    name = "l2_soft"

    def parametrization(self) -> Residual:
        return Residual()

    def penalty(self, task, scalars):
        """λ‖φ_m‖²; metrics: the squared norm in all and of each layer."""
        norms = by_layer(task, lambda phi: jnp.sum(jnp.square(phi)))
        total = sum(norms.values())
        metrics = {"l2": total} | {f"l2/{layer}": norm for layer, norm in norms.items()}
        return scalars["l2_soft.penalty"] * total, metrics
