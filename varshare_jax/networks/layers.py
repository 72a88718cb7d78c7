"""A dense layer whose parameters a method composes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from varshare_jax.variational.estimators import ESTIMATORS
from varshare_jax.variational.gaussian import Gaussian

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Parametrization:
    """How one parameter tensor of one task's network is made: a method's whole difference.

    Subclasses are frozen dataclasses (Flax compares module fields by value).
    """

    estimator: str = "shared"

    def __call__(self, module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...],
                 head: bool) -> jax.Array | Gaussian:
        """The effective tensor, from variables that this call creates in `module`.

        `head` tells output layers (and log standard deviations) from trunks.
        """
        raise NotImplementedError


def variable(module: nn.Module, collection: str, name: str, init: Callable[[], Any]) -> Any:
    """Creates or reads a variable; `init` takes no arguments."""
    return module.variable(collection, name, init).value


def from_initializer(module: nn.Module, collection: str, name: str, init: Initializer,
                     shape: tuple[int, ...]) -> jax.Array:
    """Creates or reads a variable initialised by `init(key, shape)`."""
    return variable(module, collection, name, lambda: init(module.make_rng("params"), shape))


class Dense(nn.Module):
    """y = x W + b, [..., B, I] -> [..., B, features], orthogonal W of gain `scale`, zero b.

    Where the method returns random tensors, their means act unless the caller supplies a
    `noise` key, in which case the method's estimator draws per example.
    """

    features: int
    parametrize: Parametrization
    scale: float = 2**0.5
    head: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_init = nn.initializers.orthogonal(self.scale)
        shape = (x.shape[-1], self.features)
        kernel = self.parametrize(self, "kernel", kernel_init, shape, self.head)
        bias = self.parametrize(self, "bias", nn.initializers.zeros, shape[1:], self.head)
        if not isinstance(kernel, Gaussian):
            return x @ kernel + bias
        if not self.has_rng("noise"):
            return x @ kernel.mean + bias.mean
        return ESTIMATORS[self.parametrize.estimator](x, kernel, bias, self.make_rng("noise"))
