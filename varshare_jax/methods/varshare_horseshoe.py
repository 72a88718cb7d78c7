"""VarShare under a horseshoe prior: most units shrink to the shared network, a few are let go.

Louizos et al. 2017, "Bayesian Compression for Deep Learning", arXiv 1705.08665, section 4.1 (prior:
Carvalho et al. 2010). φ = s φ̃ with φ̃ ~ N(0, 1) and s ~ half-Cauchy(τ), one s for each task, layer
and output unit. s² = s_a s_b with s_a ~ Gamma(½, scale τ²) and s_b ~ inverse Gamma(½, 1), whose
posteriors are log-normal. τ is σ_prior, so that every controller acts on it.
"""

import jax
import jax.numpy as jnp

from varshare_jax.methods.settings import HorseshoeConfig
from varshare_jax.methods.varshare import VarShare
from varshare_jax.variational.gaussian import (
    Gaussian,
    Scale,
    is_gaussian,
    kl_divergence,
    rho_of,
)


class LogGammaScale(Scale):
    """Posterior of log s_a."""


class LogInverseGammaScale(Scale):
    """Posterior of log s_b."""


class VarShareHorseshoe(VarShare):
    """Residuals are kept as φ̃ and log s_a, log s_b, which makes s free to move without φ̃."""

    settings = (*VarShare.settings, HorseshoeConfig)
    one_gaussian_each = False
    gaussian_prior = False

    def split(self, params, key):
        """φ̃ starts at N(0, sigma_init²) and s at 1, so that φ starts as VarShare's does."""
        return params, self._widened(params)

    def _widened(self, node):
        """A dict of parameters as residuals, with scales beside those of each layer."""
        inner = {name: self._widened(x) for name, x in node.items() if isinstance(x, dict)}
        weights = {name: x for name, x in node.items() if name not in inner}
        residuals = {name: self._around(jnp.zeros_like(x)) for name, x in weights.items()}
        units = {x.shape[-1] for x in weights.values()}  # the same for all weights of a layer
        scales = {name: self._scale(kind, size) for size in units for name, kind in _SCALES.items()}
        return inner | residuals | scales

    def _scale(self, kind: type[Gaussian], size: int) -> Gaussian:
        q = self._around(jnp.zeros(size))
        return kind(q.mean, q.rho)

    def compose(self, shared, task, index):
        """Arrays: the mean weights, or drawn ones."""
        def add(residual, theta):
            return theta + (residual.mean if is_gaussian(residual) else residual)

        return jax.tree.map(add, self.residual(task), shared, is_leaf=is_gaussian)

    def residual(self, task):
        """φ = s φ̃ with its exact mean and variance, or as drawn."""
        inner = {name: self.residual(x) for name, x in task.items() if isinstance(x, dict)}
        if not any(name in task for name in _SCALES):
            return inner
        log_a, log_b = (task[name] for name in _SCALES)
        weights = {name: x for name, x in task.items() if name not in (*inner, *_SCALES)}
        if not is_gaussian(log_a):
            scale = jnp.exp((log_a + log_b) / 2)
            return inner | {name: scale * x for name, x in weights.items()}
        spread = jnp.square(log_a.std) + jnp.square(log_b.std)
        mean = jnp.exp((log_a.mean + log_b.mean) / 2 + spread / 8)
        square = jnp.exp(log_a.mean + log_b.mean + spread / 2)
        return inner | {name: _scaled(q, mean, square) for name, q in weights.items()}

    def rates(self, scalars):
        return super().rates(scalars)._replace(scale=scalars["horseshoe.rate"])

    def nats(self, q, prior_std):
        """KL of φ̃ from N(0, 1); of log-normal s_a, s_b from their Gammas, in closed form."""
        if isinstance(q, LogGammaScale):
            return _log_normal_kl(q, 1.0) + jnp.log(prior_std) + jnp.exp(
                q.mean + jnp.square(q.std) / 2) / jnp.square(prior_std)
        if isinstance(q, LogInverseGammaScale):
            return _log_normal_kl(q, -1.0) + jnp.exp(jnp.square(q.std) / 2 - q.mean)
        return kl_divergence(q, 1.0)

    def shift(self, q, prior_std):
        return jnp.square(q.mean) / 2 * (type(q) is Gaussian)


_SCALES = {"scale_a": LogGammaScale, "scale_b": LogInverseGammaScale}


def _scaled(q: Gaussian, mean: jax.Array, square: jax.Array) -> Gaussian:
    """s φ̃ for a scale of the given mean and mean square, independent of φ̃ ~ q."""
    mean_of_square = square * (jnp.square(q.mean) + jnp.square(q.std))
    variance = mean_of_square - jnp.square(mean * q.mean)
    return Gaussian(mean * q.mean, rho_of(jnp.sqrt(jnp.maximum(variance, 1e-16))))


def _log_normal_kl(q: Gaussian, sign: float) -> jax.Array:
    """What the KLs of s_a (sign 1) and s_b (−1) have in common: −entropy, and log s under them."""
    return -(sign * q.mean + jnp.log(jnp.square(q.std)) + 1 + jnp.log(2.0)) / 2
