"""Moving what tasks have in common from their residuals into the shared weights, after an update.

In the manner of Reptile (Nichol et al. 2018, arXiv 1803.02999): θ follows the adapted weights
θ + μ_m. No data are needed, and the optimiser's moments stay as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.types import Variables, lead
from varshare_jax.variational.gaussian import Gaussian, is_gaussian


def recenter(variables: Variables, rate: jax.Array, how: str,
             learns: jax.Array | None = None) -> Variables:
    """θ takes on the share `rate` of the tasks' residuals; `task` leaves are Gaussians [M, …].

    "shift": δ = rate · mean_m μ_m moves from every μ_m to θ, so each θ + μ_m stays what it was.
    "literal": task after task moves its own rate · μ_m to θ, so that θ receives the sum of these.
    Each shift preserves the weights of the task that it is made for; those of task m move by all
    others', rate · Σ_{k≠m} μ_k. With `learns` [M] the mean is over
    the tasks that do; of others μ is 0.
    """
    def mean(q: Gaussian) -> jax.Array:
        if learns is None:
            return q.mean.mean(0)
        return jnp.mean(q.mean, 0, where=lead(learns, q.mean))

    def left(q: Gaussian) -> Gaussian:
        moved = rate * (mean(q) if how == "shift" else q.mean)
        return q.replace(mean=q.mean - moved)

    def received(theta: jax.Array, q: Gaussian) -> jax.Array:
        return theta + rate * (mean(q) if how == "shift" else q.mean.sum(0))

    task: Any = variables["task"]
    return variables | {"shared": jax.tree.map(received, variables["shared"], task),
                        "task": jax.tree.map(left, task, is_leaf=is_gaussian)}
