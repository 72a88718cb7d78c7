"""VarShare with low-rank residuals: φ_m = B_m A_m, both factors random.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, with a
Gaussian posterior and prior for every entry of both factors; the KL is the sum of both.

`up` [r, O] has the prior N(0, σ_prior²). `down` [I, r] starts at D ~ N(0, 1/2r) and has the prior
N(D, 1/2r), so that it pays for what it learned alone. Each entry of their product then has the
prior's variance r (1/2r + 1/2r) σ_prior² = σ_prior², like a residual of full rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.methods.settings import LoRAConfig
from varshare_jax.methods.varshare import VarShare
from varshare_jax.variational.gaussian import Gaussian, is_gaussian, rho_of


class LowRank(struct.PyTreeNode):
    """The residual of a kernel [I, O] as `down` [I, r] times `up` [r, O]; Gaussians or draws."""

    down: Any
    up: Any


class Down(Gaussian):
    """Posterior of a factor whose prior is centred where it starts."""


class VarShareLoRA(VarShare):
    """Rank r for every kernel that it makes smaller; biases and small kernels keep one Gaussian
    for each entry."""

    settings = (*VarShare.settings, LoRAConfig)
    offers = "a residual of low rank"
    one_gaussian_each = False

    def split(self, params, key):
        """`up` starts around 0, so every task begins as the shared network; `down` must not, or
        neither factor would ever have a gradient. Every task has a D of its own."""
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        return params, jax.tree.unflatten(structure, map(self._residual_of, leaves, keys))

    def _residual_of(self, weight: jax.Array, key: jax.Array) -> LowRank | Gaussian:
        rank = self.config.lora.rank
        if weight.ndim < 2 or rank * sum(weight.shape) >= weight.size:
            return self._around(jnp.zeros_like(weight))
        rows, columns = weight.shape
        down = self._around(jax.random.normal(key, (rows, rank)) * _down_std(rank))
        return LowRank(Down(down.mean, down.rho), self._around(jnp.zeros((rank, columns))))

    def init_memory(self, task, scalars):
        """Remembers where each task's factors start: `down` pays for leaving that."""
        prior, memory = super().init_memory(task, scalars)
        return prior, memory | {"start": jax.tree.map(_mean, task, is_leaf=is_gaussian)}

    def terms(self, variables, memory, scalars):
        return super().terms(variables, memory, scalars) | {"start": memory["start"]}

    def prior_std(self, q, sigma_prior):
        return _down_std(q.mean.shape[-1]) if isinstance(q, Down) else sigma_prior

    def _priced(self, task, terms):
        return jax.tree.map(lambda q, start: q.replace(mean=q.mean - start),
                            super()._priced(task, terms), terms["start"], is_leaf=is_gaussian)

    def compose(self, shared, task, index):
        """Arrays: the mean weights, or drawn ones."""
        def add(residual, theta):
            if is_gaussian(residual):
                return theta + residual.mean
            if isinstance(residual, LowRank):
                return theta + _mean(residual.down) @ _mean(residual.up)
            return theta + residual

        return jax.tree.map(add, task, shared, is_leaf=_is_residual)

    def residual(self, task):
        return jax.tree.map(lambda leaf: _product(leaf) if isinstance(leaf, LowRank) else leaf,
                            task, is_leaf=_is_residual)


def _down_std(rank: int) -> float:
    return (2 * rank) ** -0.5


def _is_residual(leaf: Any) -> bool:
    return is_gaussian(leaf) or isinstance(leaf, LowRank)


def _mean(factor: Gaussian | jax.Array) -> jax.Array:
    return factor.mean if isinstance(factor, Gaussian) else factor


def _product(factors: LowRank) -> Gaussian:
    """Mean and variance of the entries of B A; its factors' entries are independent."""
    down, up = factors.down, factors.up
    down_variance, up_variance = jnp.square(down.std), jnp.square(up.std)
    variance = (jnp.square(down.mean) + down_variance) @ up_variance
    variance += down_variance @ jnp.square(up.mean)
    return Gaussian(down.mean @ up.mean, rho_of(jnp.sqrt(variance)))
