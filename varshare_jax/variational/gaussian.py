"""Diagonal Gaussian posteriors q = N(μ, softplus(ρ)²) over the leaves of a pytree.

Blundell et al. 2015, "Weight Uncertainty in Neural Networks", arXiv 1505.05424, section 3.2.
"""

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

_CHUNKS = 4


class Gaussian(struct.PyTreeNode):
    """A random tensor N(mean, softplus(rho)²) with independent entries; a pytree node."""

    mean: jax.Array
    rho: jax.Array

    @property
    def std(self) -> jax.Array:
        return jax.nn.softplus(self.rho)


class Scale(Gaussian):
    """Posterior of the logarithm of a scale, which moves at a rate of its own."""


def is_gaussian(leaf: Any) -> TypeGuard[Gaussian]:
    return isinstance(leaf, Gaussian)


def rho_of(std: jax.Array | float) -> jax.Array:
    """The ρ with softplus(ρ) = std."""
    return std + jnp.log(-jnp.expm1(-jnp.asarray(std)))


def kl_divergence(q: Gaussian, prior_std: jax.Array | float,
                  prior_mean: jax.Array | float = 0.0) -> jax.Array:
    """Entry-wise KL(N(μ, σ²) ‖ N(prior_mean, prior_std²)) in nats, same shape as `q.mean`."""
    return (jnp.log(prior_std / q.std) + (jnp.square(q.std) + jnp.square(q.mean - prior_mean))
            / (2 * jnp.square(prior_std)) - 0.5)


def kl_whose_prior_follows_means(q: Gaussian, prior_std: jax.Array | float) -> jax.Array:
    """`kl_divergence` in value and in the gradient of q; prior_std's gradient leaves σ out.

    Descending it alone leads to prior_std² = mean μ² rather than mean (μ² + σ²).
    """
    hold = jax.lax.stop_gradient
    seen = jnp.log(prior_std) + jnp.square(hold(q.mean)) / (2 * jnp.square(prior_std))
    return kl_divergence(q, hold(prior_std)) + seen - hold(seen)


def sample_tree(tree: Any, key: jax.Array) -> Any:
    """Replaces each Gaussian of a pytree by an independent draw; other leaves stay.

    All noise comes from one loop over equal chunks: a generator per leaf costs seconds of
    compiling, and without the loop XLA's CPU backend fuses the draw into each of its readers
    and makes it again for every one of them (a quarter of training time).
    """
    gaussians = [n for n in jax.tree.leaves(tree, is_leaf=is_gaussian) if is_gaussian(n)]
    ends = np.cumsum([q.mean.size for q in gaussians])
    chunk = -(-int(ends[-1]) // _CHUNKS)
    noise = jax.lax.map(lambda k: jax.random.normal(k, (chunk,)), jax.random.split(key, _CHUNKS))
    noise = iter(jnp.split(noise.reshape(-1)[:ends[-1]], ends[:-1]))

    def draw(node):
        if not is_gaussian(node):
            return node
        return node.mean + node.std * next(noise).reshape(node.mean.shape)

    return jax.tree.map(draw, tree, is_leaf=is_gaussian)
