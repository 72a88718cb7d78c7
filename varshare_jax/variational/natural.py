"""Posteriors whose σ follows the curvature of the loss, at the cost of Adam.

For q = N(μ, σ²) under the prior N(0, σ_prior²) the expected loss plus β KL / n is least where

    1 / σ² = n h / β + 1 / σ_prior²,    h = E_q[∂²loss/∂w²] = E_q[∂loss/∂w · ε / σ],

the last by Stein's identity, for w = μ + σ ε. What the gradient of ρ already holds,
∂loss/∂ρ = E[∂loss/∂w · ε] softplus'(ρ), is thus an unbiased estimate of h, whatever estimator or
number of draws made it; a running mean of it gives σ. How far σ moves depends on the loss and on
the rate of that mean, never on the optimiser's learning rate.

Khan & Rue 2023, "The Bayesian Learning Rule", arXiv 2107.04562, section 4; Shen et al. 2024,
"Variational Learning is Effective for Large Deep Networks" (IVON), arXiv 2402.17641. IVON keeps h
above −β / (n σ_prior²) by a term of second order in the noise of its estimate. That suits an n of
millions; here, where noise may exceed h, it would push h up without end. So the mean stays unbiased
and counts as 0 where it is negative: σ never exceeds σ_prior.
"""

from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.variational.gaussian import Gaussian, is_gaussian, rho_of
from varshare_jax.variational.tree import layers

_NARROWEST = 1e-3  # of σ_prior: a β of 0 asks for σ = 0, at which no curvature can be seen


def estimates(posteriors: Any, slopes: Any) -> Any:
    """h of each entry, from the loss's gradients `slopes` (Gaussians) by the posteriors' ρ.

    None in the place of what is not drawn.
    """
    def of(q: Any, g: Any) -> jax.Array | None:
        return g.rho / (jax.nn.sigmoid(q.rho) * q.std) if is_gaussian(q) else None

    return jax.tree.map(of, posteriors, slopes, is_leaf=is_gaussian)


def implied(q: Gaussian, prior_std: jax.Array, weight: jax.Array) -> jax.Array:
    """The h at which q stays as it is; `weight` is β / n."""
    return weight * (1 / jnp.square(q.std) - 1 / jnp.square(prior_std))


def settled(q: Gaussian, curvature: jax.Array, prior_std: jax.Array,
            weight: jax.Array) -> Gaussian:
    """q with the σ that is best at this curvature h; `weight` is β / n."""
    prior_precision = 1 / jnp.square(prior_std)
    seen = jnp.maximum(curvature, 0.0) / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    precision = prior_precision + jnp.minimum(seen, prior_precision / _NARROWEST**2)
    return q.replace(rho=rho_of(jax.lax.rsqrt(precision)))


def without_rho(tree: Any) -> Any:
    """Gradients by posteriors with those by ρ set to zero."""
    return jax.tree.map(lambda g: g.replace(rho=jnp.zeros_like(g.rho)) if is_gaussian(g) else g,
                        tree, is_leaf=is_gaussian)


def hold_rho(tree: Any) -> Any:
    """Posteriors through which no gradient reaches ρ."""
    return jax.tree.map(
        lambda q: q.replace(rho=jax.lax.stop_gradient(q.rho)) if is_gaussian(q) else q, tree,
        is_leaf=is_gaussian)


def layer_means(curvature: Any) -> dict[str, jax.Array]:
    """Mean h of each layer as `curvature/<layer>`, [M], of leaves [M, ...]."""
    def mean(leaves):
        flat = [h.reshape(h.shape[0], -1) for h in leaves]
        return jnp.concatenate(flat, axis=1).mean(1)

    return {f"curvature/{layer}": mean(leaves) for layer, leaves in layers(curvature).items()}
