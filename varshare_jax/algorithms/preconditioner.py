"""What a gradient is divided by before it is a step: Adam's second moments, and whose they are.

Adam (Kingma & Ba 2015, arXiv 1412.6980) divides each parameter's gradient by its own second moment,
so θ and a residual μ_m move by about the learning rate each, however many tasks pull at θ. With one
second moment for both, of Σ_m |g_m|, a step splits between them as the gradients do: θ moves by
Σ_m g_m and μ_m by g_m over the same number, M times as far where M tasks agree, not at all where
they cancel.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from varshare_jax.algorithms.base import Problem
from varshare_jax.errors import UserError
from varshare_jax.methods.gradients import side_of
from varshare_jax.types import Variables
from varshare_jax.variational.gaussian import is_gaussian
from varshare_jax.variational.residuals import mean_of, mirrors

_FIRST_DECAY, _SECOND_DECAY = 0.9, 0.999


class Moments(NamedTuple):
    """Running moments of gradients: Adam's first (`mu`) and second (`nu`), leaves as variables'.

    `curvature`: of the loss by each weight that is drawn, under `task` as its variables are, where
    a method's posteriors follow it; else {}.
    """

    count: jax.Array  # type: ignore[assignment]  # as in base.Draws
    mu: Variables
    nu: Variables
    curvature: Variables


def init_moments(variables: Variables, curvature: Any = None) -> Moments:
    """Before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, variables)
    return Moments(jnp.zeros((), jnp.int32), zeros, zeros,
                   {"task": curvature} if curvature else {})


def precondition(problem: Problem, grads: Variables, moments: Moments, names: tuple[str, ...],
                 num_tasks: Any = None) -> tuple[Variables, Moments]:
    """Steps of the collections `names`, to be scaled by their learning rates, and the next moments.

    `grads` may hold more collections, where the second moment of those named depends on them. The
    gradient of `shared` is a mean over `num_tasks` of them, all by default.
    """
    sizes = grads
    if problem.settings.preconditioner == "shared" and "task" in grads:
        grads = _summed(grads, problem.suite.num_tasks if num_tasks is None else num_tasks)
        sizes = _sizes(grads)

    def chosen(tree):
        return {name: tree[name] for name in names}

    count = optax.safe_increment(moments.count)
    mu = optax.tree.update_moment(chosen(grads), chosen(moments.mu), _FIRST_DECAY, 1)
    nu = optax.tree.update_moment_per_elem_norm(chosen(sizes), chosen(moments.nu), _SECOND_DECAY, 2)
    steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + problem.settings.adam_epsilon),
                         _corrected(problem, mu, _FIRST_DECAY, count),
                         _corrected(problem, nu, _SECOND_DECAY, count))
    return steps, moments._replace(count=count, mu=moments.mu | mu, nu=moments.nu | nu)


def _corrected(problem: Problem, moments: Variables, decay: float, count: jax.Array) -> Variables:
    """Without the bias towards 0 that is left after `count` steps, of which a delayed side took
    fewer."""
    delays = problem.algorithm.delays(problem.settings)
    if not delays:
        return optax.tree.bias_correction(moments, decay, count)

    def steps(branch: str) -> jax.Array:
        return jnp.maximum(count // delays.get(side_of(branch), 1), 1)

    return {name: {branch: optax.tree.bias_correction(x, decay, steps(branch))
                   for branch, x in tree.items()} for name, tree in moments.items()}


def needed(problem: Problem, names: tuple[str, ...]) -> tuple[str, ...]:
    """The collections whose gradients a step of those named takes."""
    tied = problem.settings.preconditioner == "shared" and "shared" in names
    return (*names, "task") if tied and "task" not in names else names


def check(problem: Problem) -> None:
    """Raises UserError where there are no residuals for θ to share a second moment with."""
    if problem.settings.preconditioner == "own":
        return
    variables = jax.eval_shape(problem.network.init, jax.random.key(0))
    if not mirrors(variables):
        raise UserError(
            f"--{problem.algorithm.name}.preconditioner=shared: tasks of {problem.config.method} "
            "own no residual for every shared parameter, so no step is split between the two; use "
            "own, or a method that has them (varshare, varshare_trust_region, l2_soft)")


def _summed(grads: Variables, num_tasks: Any) -> Variables:
    """`grads` with the sum over tasks in the place of their mean: θ's is Σ_m g_m."""
    if "shared" not in grads:
        return grads
    return grads | {"shared": jax.tree.map(lambda g: g * num_tasks, grads["shared"])}


def _sizes(grads: Variables) -> Variables:
    """What second moments are of: Σ_m |g_m| for θ and every μ_m; each other parameter's gradient.

    Where penalties hold residuals against the loss the g_m vanish while θ's gradient, that of the
    loss alone, does not. So the size is never less than θ's gradient: no step exceeds Adam's bound.
    """
    total = jax.tree.map(lambda g: jnp.abs(mean_of(g)).sum(0), grads["task"], is_leaf=is_gaussian)
    if "shared" in grads:
        total = jax.tree.map(lambda size, g: jnp.maximum(size, jnp.abs(g)), total, grads["shared"])

    def of(g: Any, size: jax.Array) -> Any:
        size = jnp.broadcast_to(size, mean_of(g).shape)
        return g.replace(mean=size) if is_gaussian(g) else size

    task = jax.tree.map(of, grads["task"], total, is_leaf=is_gaussian)
    return grads | {"shared": total, "task": task}
