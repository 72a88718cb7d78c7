"""Estimators of a layer's output under random weights: same mean, same marginal variance.

`shared` draws one weight for the whole batch, so it needs nothing here: the draw replaces the
posterior before the forward pass (`sample_tree`). The two below decorrelate the examples.
"""

import jax
import jax.numpy as jnp

from varshare_jax.variational.gaussian import Gaussian


def flipout(x: jax.Array, kernel: Gaussian, bias: Gaussian, key: jax.Array) -> jax.Array:
    """x W + b with one draw per batch and random signs per example; [..., I] -> [..., O].

    Wen et al. 2018, "Flipout", arXiv 1803.04386, equation 4: Δy = ((x∘s) ΔW) ∘ r. The bias is
    the weight of a constant input, so it carries the sign r alone.
    """
    kernel_key, bias_key, in_key, out_key = jax.random.split(key, 4)
    y = x @ kernel.mean + bias.mean
    signs_in, signs_out = _signs(in_key, x.shape), _signs(out_key, y.shape)
    kernel_noise = kernel.std * jax.random.normal(kernel_key, kernel.mean.shape)
    bias_noise = bias.std * jax.random.normal(bias_key, bias.mean.shape)
    return y + ((x * signs_in) @ kernel_noise + bias_noise) * signs_out


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent fair ±1: 32 to a random word, where `jax.random.rademacher` spends one each."""
    *leading, size = shape
    words = jax.random.bits(key, (*leading, -(-size // 32)))
    bits = (words[..., None] >> jnp.arange(32, dtype=words.dtype)) & 1
    return 2.0 * bits.reshape(*leading, -1)[..., :size] - 1.0


def local(x: jax.Array, kernel: Gaussian, bias: Gaussian, key: jax.Array) -> jax.Array:
    """x W + b drawn from its exact marginal, independent per example; [..., I] -> [..., O].

    Kingma et al. 2015, "Variational Dropout and the Local Reparameterization Trick",
    arXiv 1506.02557, equation 6: y ~ N(x μ, x² σ²).
    """
    mean = x @ kernel.mean + bias.mean
    variance = jnp.square(x) @ jnp.square(kernel.std) + jnp.square(bias.std)
    return mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape)


ESTIMATORS = {"flipout": flipout, "local": local}
