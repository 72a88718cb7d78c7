"""Gaussians squashed into (-1, 1) by tanh (Haarnoja et al. 2018, arXiv 1801.01290, appendix C)."""

import math

import distrax
import jax
import jax.numpy as jnp


class SquashedNormal(distrax.Distribution):
    """tanh(u) with u ~ N(loc, scale²), independent in the last axis: batch [...], event [A].

    The density is computed from u, where it is known: from the action itself, which float32 rounds
    to ±1, tanh cannot be undone.
    """

    def __init__(self, loc: jax.Array, scale: jax.Array):
        super().__init__()
        self.loc, self.scale = loc, scale

    @property
    def distribution(self) -> distrax.Normal:
        """That of u, batch [..., A]."""
        return distrax.Normal(self.loc, self.scale)

    def squash(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Standard normal noise [..., A] -> actions [..., A] and their log densities [...]."""
        raw = self.loc + self.scale * noise
        return jnp.tanh(raw), self._log_prob(raw, noise)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Of actions [..., A]; those beyond float32's reach of ±1 count as the last within it."""
        edge = 1 - jnp.finfo(jnp.float32).epsneg
        raw = jnp.arctanh(jnp.clip(value, -edge, edge))
        return self._log_prob(raw, (raw - self.loc) / self.scale)

    def mode(self) -> jax.Array:
        """The action of the most likely u, which is what acts without noise."""
        return jnp.tanh(self.loc)

    def _log_prob(self, raw: jax.Array, noise: jax.Array) -> jax.Array:
        normal = -jnp.square(noise) / 2 - jnp.log(self.scale) - math.log(2 * math.pi) / 2
        # log(1 - tanh(u)²) without its cancellation
        slope = 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))
        return (normal - slope).sum(-1)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        return self._sample_n_and_log_prob(key, n)[0]

    def _sample_n_and_log_prob(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        return self.squash(jax.random.normal(key, (n, *self.loc.shape)))

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.loc.shape[-1:]
