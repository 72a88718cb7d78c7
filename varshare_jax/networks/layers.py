"""Layers whose parameters may be random.

A parameter that a layer reads is an array or a `Gaussian`. The mean of a Gaussian acts, unless
the caller supplies a `noise` key: then it is drawn for each example.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.variational.estimators import ESTIMATORS
from varshare_jax.variational.gaussian import Gaussian

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def parameter(module: nn.Module, name: str, init: Initializer,
              shape: tuple[int, ...]) -> Any:
    """Creates or reads a parameter of `module`, an array or a Gaussian.

    Not `module.param`: that one refuses a Gaussian where it initialised an array.
    """
    return module.variable("params", name, lambda: init(module.make_rng("params"), shape)).value


def per_example(module: nn.Module, value: jax.Array | Gaussian,
                shape: tuple[int, ...]) -> jax.Array:
    """A vector parameter [I] as it meets examples of `shape` [..., I] entry by entry.

    A random one is drawn independently for each, whatever the estimator.
    """
    if not isinstance(value, Gaussian):
        return value
    if not module.has_rng("noise"):
        return value.mean
    return value.mean + value.std * jax.random.normal(module.make_rng("noise"), shape)


class Dense(nn.Module):
    """y = x W + b, [..., B, I] -> [..., B, features], orthogonal W of gain `scale`, zero b.

    `estimator` draws random kernels and biases where a `noise` key is supplied.
    """

    features: int
    scale: float = 2**0.5
    estimator: str = "flipout"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = parameter(self, "kernel", nn.initializers.orthogonal(self.scale), shape)
        bias = parameter(self, "bias", nn.initializers.zeros, shape[1:])
        if not isinstance(kernel, Gaussian):
            return x @ kernel + bias
        if not self.has_rng("noise"):
            return x @ kernel.mean + bias.mean
        return ESTIMATORS[self.estimator](x, kernel, bias, self.make_rng("noise"))


class LayerNorm(nn.Module):
    """Standardises the last axis, then scales and shifts it (Ba et al. 2016, arXiv 1607.06450)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[-1:]
        scale = per_example(self, parameter(self, "scale", nn.initializers.ones, size), x.shape)
        bias = per_example(self, parameter(self, "bias", nn.initializers.zeros, size), x.shape)
        return jax.nn.standardize(x, epsilon=1e-6) * scale + bias


def fold_context(layer: dict[str, jax.Array], context: jax.Array) -> dict[str, jax.Array]:
    """A Dense of inputs [x, context] with a constant context [C] as one of x alone.

    The context's rows of the kernel become a part of the bias: nothing is added to the forward
    pass, and the folded layer is what inference needs to keep.
    """
    rows = layer["kernel"][-context.size:]
    return {"kernel": layer["kernel"][:-context.size],
            "bias": layer["bias"] + jnp.dot(context, rows)}
