"""What the posteriors look like after an update: their scales, and how noisy they make weights."""

from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.medians import medians, stride
from varshare_jax.variational.tree import layers

_EPSILON = 1e-8


def diagnose(residuals: Any, shared: Any,
             learns: jax.Array | None = None) -> dict[str, jax.Array]:
    """Statistics of residuals (Gaussians [M, ...]) beside the weights they add to; each [M].

    `sigma_median`, `abs_mu_median` and `log_sigma` (a mean) are a task's own; with `/<layer>`
    they are medians over all tasks, as is the noise-to-weight ratio
    `ratio` = median σ / (median |θ| + ε). With `learns` [M] all tasks are those that do.
    """
    posteriors, weights = layers(residuals, is_gaussian), layers(shared)
    tasks = jax.tree.leaves(residuals)[0].shape[0]
    step = stride(sum(q.mean.size for qs in posteriors.values() for q in qs))
    by_layer = [jnp.stack([_joined([q.std for q in qs], tasks),
                           _joined([jnp.abs(q.mean) for q in qs], tasks),
                           _joined([jnp.broadcast_to(jnp.abs(p), (tasks, *p.shape))
                                    for p in weights[name]], tasks)])[..., ::step]
                for name, qs in posteriors.items()]
    every = jnp.concatenate(by_layer, -1)
    sizes = [x.shape[-1] for x in by_layer]
    # Layer by layer, then all of them once more as one.
    pooled = medians(jnp.concatenate([every, every], -1), (*sizes, sum(sizes)), learns)
    sigma, size = medians(every[:2, :, None])[..., 0]
    metrics = {"sigma_median": sigma, "abs_mu_median": size,
               "log_sigma": jnp.log(every[0]).mean(1)}
    for place, name in enumerate(posteriors):
        metrics |= {f"sigma_median/{name}": pooled[0, place],
                    f"abs_mu_median/{name}": pooled[1, place]}
    ratios = pooled[0] / (pooled[2] + _EPSILON)
    metrics |= {name: ratios[place] for place, name in enumerate(
        [*(f"ratio/{layer}" for layer in posteriors), "ratio"])}
    return {name: jnp.broadcast_to(m, (tasks,)) for name, m in metrics.items()}


def mean_squares(residuals: Any) -> dict[str, jax.Array]:
    """Mean μ² of each layer of residuals (Gaussians [M, ...]), [M]."""
    return {name: jnp.square(_joined([q.mean for q in qs], qs[0].mean.shape[0])).mean(1)
            for name, qs in layers(residuals, is_gaussian).items()}


def _joined(arrays: Any, rows: int) -> jax.Array:
    """All entries side by side, [rows, n]."""
    return jnp.concatenate([x.reshape(rows, -1) for x in arrays], axis=1)
