"""A torso of modules mixed by a router (Yang et al. 2020, arXiv 2003.13661, section 4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.networks.layers import Dense, parameter
from varshare_jax.networks.torsos import ACTIVATIONS


class SoftModules(nn.Module):
    """L layers of n Dense modules on the features of `base`; [..., D] -> [..., width].

    The router sees e = f(obs) ∘ z with z the task's embedding, and weighs the n modules of a
    layer for each module of the next, by a softmax over sources. The activation follows the
    mixing, and the last layer is mixed into one vector.
    """

    base: nn.Module
    layers: int
    modules: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        features = self.base(x)
        width = features.shape[-1]
        embedding = parameter(self, "task_embedding", nn.initializers.normal(1.0), (width,))
        inputs = [features] * self.modules
        for layer, route in enumerate(self._routes(features * embedding)):
            outputs = [Dense(width, name=f"module_{layer}_{n}")(h) for n, h in enumerate(inputs)]
            # Sums of products, not a product of matrices per example: those are slow on CPUs.
            inputs = [activation(sum(weight[..., None] * y for weight, y in
                                     zip(jnp.moveaxis(weights, -1, 0), outputs, strict=True)))
                      for weights in jnp.moveaxis(route, -2, 0)]
        return inputs[0]

    def _routes(self, e: jax.Array) -> list[jax.Array]:
        """Weights of sources for targets of each layer, [..., targets, n]; one target at last."""
        activation = ACTIVATIONS[self.activation]
        n, width = self.modules, e.shape[-1]
        g = Dense(width, name="router")(activation(e))
        routes: list[jax.Array] = []
        hidden = g
        for index in range(self.layers):
            targets = 1 if index == self.layers - 1 else n
            if routes:
                so_far = jnp.concatenate([r.reshape(*r.shape[:-2], -1) for r in routes], -1)
                hidden = Dense(width, name=f"router_{index}_up")(so_far) * g
            logits = Dense(targets * n, name=f"router_{index}")(activation(hidden))
            routes.append(jax.nn.softmax(logits.reshape(*logits.shape[:-1], targets, n)))
        return routes
