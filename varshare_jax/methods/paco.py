"""PaCo: W_m = Σ_k w_mk V_k, a combination of K shared networks.

Sun et al. 2022, "PaCo: Parameter-Compositional Multi-Task Reinforcement Learning",
arXiv 2210.11653. As in the authors' code the K bases start equal, w_m ~ N(0, 1) without a softmax
breaks the symmetry, and no layer is told the task. One w_m serves actor and critic.
"""

import jax
import jax.numpy as jnp

from varshare_jax.methods.base import Method
from varshare_jax.methods.settings import PaCoConfig


class PaCo(Method):
    """K bases of every parameter are shared; a task owns its K coefficients w_m."""

    settings = (PaCoConfig,)
    offers = "coefficients of the bases"

    def split(self, params, key):
        bases = self.config.paco.bases
        shared = jax.tree.map(lambda p: jnp.broadcast_to(p, (bases, *p.shape)), params)
        return shared, {"coefficients": jax.random.normal(key, (bases,))}

    def compose(self, shared, task, index):
        return jax.tree.map(lambda v: jnp.tensordot(task["coefficients"], v, 1), shared)

    def weigh(self, losses, scalars):
        """An extreme task sits the update out (section 3.4 of the paper).

        Its loss of zero does not do so where its gradient is not finite; `descent` sees to those.
        """
        return jnp.where(extreme(losses, scalars), 0.0, losses)

    def after_update(self, variables, losses, scalars, key):
        """Extreme tasks start again from a random convex combination of the others' w.

        Where every task is extreme there are no others, and all keep their own. The loss of a task
        that is left out is not a number, which keeps its w out of every combination.
        """
        mask, old = extreme(losses, scalars), variables["task"]["coefficients"]
        mixture = jax.random.exponential(key, (mask.size, mask.size)) * ~mask
        mixture /= jnp.maximum(mixture.sum(-1, keepdims=True), 1e-6)
        others = jnp.where(mask[:, None], 0.0, old)  # 0 · NaN would be NaN
        new = jnp.where((mask & ~mask.all())[:, None], mixture @ others, old)
        return variables | {"task": {"coefficients": new}}


def extreme(losses: jax.Array, scalars: dict[str, jax.Array]) -> jax.Array:
    """Tasks [M] whose loss is beyond the threshold, or not a number."""
    return ~(losses < scalars["paco.loss_threshold"])
