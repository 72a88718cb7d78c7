"""What the posteriors look like after an update: their scales, and how noisy they make weights."""

from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.medians import medians
from varshare_jax.variational.tree import layers

_EPSILON = 1e-8


def diagnose(residuals: Any, shared: Any) -> dict[str, jax.Array]:
    """Statistics of residuals (Gaussians [M, ...]) beside the weights they add to; each [M].

    `sigma_median`, `abs_mu_median` and `log_sigma` (a mean) are a task's own; with `/<layer>`
    they are medians over all tasks, as is the noise-to-weight ratio
    `ratio` = median σ / (median |θ| + ε).
    """
    posteriors = layers(residuals, is_gaussian)
    tasks = jax.tree.leaves(residuals)[0].shape[0]
    sigma = {name: _joined([q.std for q in qs], tasks) for name, qs in posteriors.items()}
    size = {name: _joined([jnp.abs(q.mean) for q in qs], tasks) for name, qs in posteriors.items()}
    weight = {name: _joined([jnp.abs(p) for p in ps], 1) for name, ps in layers(shared).items()}
    all_sigma, all_sizes = _joined(sigma.values(), tasks), _joined(size.values(), tasks)
    middle = medians({
        "sigma": all_sigma, "size": all_sizes, "all": all_sigma.reshape(-1),
        "theta": _joined(weight.values(), 1)[0],
        "layer": [jax.tree.map(jnp.ravel, kind) for kind in (sigma, size, weight)]})
    ratios = {"ratio": middle["all"] / (middle["theta"] + _EPSILON)}
    metrics = {"sigma_median": middle["sigma"], "abs_mu_median": middle["size"],
               "log_sigma": jnp.log(all_sigma).mean(1)}
    for name in posteriors:
        scale, shift, theta = (kind[name] for kind in middle["layer"])
        metrics |= {f"sigma_median/{name}": scale, f"abs_mu_median/{name}": shift}
        ratios[f"ratio/{name}"] = scale / (theta + _EPSILON)
    return {name: jnp.broadcast_to(m, (tasks,)) for name, m in (metrics | ratios).items()}


def _joined(arrays: Any, rows: int) -> jax.Array:
    """All entries side by side, [rows, n]."""
    return jnp.concatenate([x.reshape(rows, -1) for x in arrays], axis=1)
