"""Functions on gradients of the two collections."""

import jax
import jax.numpy as jnp

from varshare_jax.types import Variables


def clip_by_task_norm(grads: Variables, max_norm: jax.Array) -> tuple[Variables, dict]:
    """Scales the shared gradient, and each task's own, to a norm of at most `max_norm`.

    One norm over everything would let one task's gradient shrink another's, and M independent
    networks would no longer train as M single-task agents. Metrics: norms before, [M].
    """
    shared_norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads["shared"])))
    task_norm = jnp.sqrt(sum(jnp.sum(jnp.square(g), tuple(range(1, g.ndim)))
                             for g in jax.tree.leaves(grads["task"])))
    shared_scale = jnp.minimum(1.0, max_norm / (shared_norm + 1e-6))
    task_scale = jnp.minimum(1.0, max_norm / (task_norm + 1e-6))

    def scale_task(g):
        return g * task_scale.reshape(-1, *(1,) * (g.ndim - 1))

    clipped = {"shared": jax.tree.map(lambda g: g * shared_scale, grads["shared"]),
               "task": jax.tree.map(scale_task, grads["task"])}
    return clipped, {"grad_norm_task": task_norm,
                     "grad_norm_shared": jnp.broadcast_to(shared_norm, task_norm.shape)}
