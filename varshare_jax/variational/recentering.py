"""Moving what tasks have in common from their residuals into the shared weights, after an update.

In the manner of Reptile (Nichol et al. 2018, arXiv 1803.02999): θ follows the adapted weights
θ + μ_m. No data are needed, and the optimiser's moments stay as they are.
"""

from typing import Any

import jax

from varshare_jax.types import Variables
from varshare_jax.variational.gaussian import Gaussian, is_gaussian


def recenter(variables: Variables, rate: jax.Array, how: str) -> Variables:
    """θ takes on the share `rate` of the tasks' mean residual; `task` leaves are Gaussians [M, …].

    "shift": δ = rate · mean_m μ_m moves from every μ_m to θ, so each θ + μ_m stays what it was.
    "literal": every μ_m shrinks by its own rate · μ_m while θ receives the mean of these, so task
    m's weights move by rate · (mean μ − μ_m), towards the others'.
    """
    def left(q: Gaussian) -> Gaussian:
        moved = rate * (q.mean.mean(0) if how == "shift" else q.mean)
        return q.replace(mean=q.mean - moved)

    def received(theta: jax.Array, q: Gaussian) -> jax.Array:
        return theta + rate * q.mean.mean(0)

    task: Any = variables["task"]
    return variables | {"shared": jax.tree.map(received, variables["shared"], task),
                        "task": jax.tree.map(left, task, is_leaf=is_gaussian)}
