"""Torsos: observations to features. Each starts with a Dense layer named `0`."""

import flax.linen as nn
import jax

from varshare_jax.networks.layers import Dense, LayerNorm
from varshare_jax.networks.settings import NetworkConfig

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu, "gelu": nn.gelu,
               "sigmoid": nn.sigmoid}


class MLP(nn.Module):
    """Dense layers of the widths `hidden`, each followed by an optional LayerNorm."""

    settings: NetworkConfig
    estimator: str = "flipout"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., hidden[-1]]."""
        settings = self.settings
        names = [settings.activation] * len(settings.hidden)
        if settings.last_activation != "same":
            names[-1] = settings.last_activation
        for index, (width, name) in enumerate(zip(settings.hidden, names, strict=True)):
            x = Dense(width, estimator=self.estimator, name=str(index))(x)
            if settings.layer_norm:
                x = LayerNorm(name=f"{index}_norm")(x)
            x = ACTIVATIONS[name](x)
        return x


class BroNet(nn.Module):
    """Residual blocks with LayerNorm (Nauman et al. 2024, "Bigger, Regularized, Optimistic").

    Dense -> LN -> activation, then a block Dense -> LN -> activation -> Dense -> LN with a skip
    connection for every further entry of `hidden`, whose entries are all the same width.
    """

    settings: NetworkConfig
    estimator: str = "flipout"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., hidden[0]]."""
        activation = ACTIVATIONS[self.settings.activation]
        width = self.settings.hidden[0]

        def layer(name, x):
            return LayerNorm(name=f"{name}_norm")(Dense(width, estimator=self.estimator,
                                                        name=name)(x))

        x = activation(layer("0", x))
        for index in range(1, len(self.settings.hidden)):
            x = x + layer(f"{index}_out", activation(layer(f"{index}_in", x)))
        return x


TORSOS = {"mlp": MLP, "bronet": BroNet}
