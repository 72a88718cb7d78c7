"""Functions on gradients of the two collections: clipping, and combining tasks' gradients.

A combiner turns the M tasks' gradients of the shared parameters into one. The two here need
only the Gram matrix K = G Gᵀ of those gradients (G is [M, P]), in which they are M × M problems;
the result is Gᵀ c for coefficients c.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.methods.settings import GradientsConfig
from varshare_jax.networks.heads import LOG_STD
from varshare_jax.types import SHARED, Variables, lead, num_present, present

Combiner = Callable[[jax.Array, jax.Array, dict[str, jax.Array]], jax.Array]
"""(Gram matrix [M, M], key, scalars) -> coefficients [M]; the mean gradient is 1/M.

A task that is left out has zeros in its row and column, and takes no part: the coefficients of the
others are those that they have without it.
"""

_EPSILON = 1e-12
_SOLVER_STEPS = 40


def pcgrad(settings: GradientsConfig, gram: jax.Array, key: jax.Array,
           scalars: dict[str, jax.Array]) -> jax.Array:
    """Each task's gradient is projected off every other that it conflicts with, in random order.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782, algorithm 1.
    """
    tasks = gram.shape[0]
    scores = jax.random.uniform(key, (tasks, tasks))
    order = jnp.argsort(scores, axis=1)

    def project(coefficients, others):
        """One step for all tasks: row i meets task others[i]."""
        dots = jnp.einsum("ij,ji->i", coefficients, gram[:, others])
        norms = gram[others, others] + _EPSILON
        # A task never conflicts with itself at first; projected, it must not meet itself.
        conflict = (dots < 0) & (others != jnp.arange(tasks))
        step = jnp.where(conflict, dots / norms, 0.0)
        return replicated(coefficients.at[jnp.arange(tasks), others].add(-step)), None

    coefficients, _ = jax.lax.scan(project, jnp.eye(tasks), order.T)
    return coefficients.sum(0) / num_present(scalars, tasks)


def cagrad(settings: GradientsConfig, gram: jax.Array, key: jax.Array,
           scalars: dict[str, jax.Array]) -> jax.Array:
    """The update within c‖g₀‖ of the mean gradient g₀ that serves the worst-off task best.

    Liu et al. 2021, "Conflict-Averse Gradient Descent", arXiv 2110.14048, algorithm 1: with
    w the minimiser over the simplex of g_wᵀg₀ + c‖g₀‖‖g_w‖, the update is
    g₀ + (c‖g₀‖/‖g_w‖) g_w, over 1 + c² where `cagrad_rescale` is set.
    """
    learns, tasks = present(scalars, gram.shape[0]), num_present(scalars, gram.shape[0])
    c = scalars["gradients.cagrad_c"]
    gram = gram / (jnp.trace(gram) / tasks + _EPSILON)
    mean = jnp.full(gram.shape[0], 1 / tasks)
    radius = c * _length(mean, gram)
    w = worst_case_weights(gram, radius, learns)
    coefficients = mean + radius / _length(w, gram) * w
    return coefficients / (1 + c**2) if settings.cagrad_rescale else coefficients


def worst_case_weights(gram: jax.Array, radius: jax.Array,
                       learns: jax.Array | None = None) -> jax.Array:
    """argmin over the simplex of wᵀK1/M + radius √(wᵀKw), [M].

    With `learns` [M] the simplex is that of the tasks that do, and M their number.

    Projected gradients with momentum, restarted where it points uphill, after scaling every
    task's gradient to norm 1: their norms differ by orders of magnitude, and unscaled the problem
    is too ill-conditioned for a fixed number of steps.
    """
    tasks = gram.shape[0] if learns is None else learns.sum()
    norms = replicated(jnp.sqrt(jnp.diag(gram) + _EPSILON))
    cosines = replicated(gram / norms[:, None] / norms)
    slope = replicated(gram.sum(1) / tasks / norms)
    bound = jnp.maximum(jnp.abs(cosines).sum(1).max(), 1.0)

    def among(x, other):
        """`x` [M] for those that learn; −∞ is never part of a projection."""
        return x if learns is None else jnp.where(learns, x, other)

    def step(carry, _):
        u, ahead, momentum = carry
        length = _length(ahead, cosines)
        rate = length / (radius * bound)
        gradient = slope + radius / length * (cosines @ ahead)
        new = replicated(_project(among(ahead - rate * gradient, -jnp.inf), 1 / norms))
        uphill = jnp.vdot(ahead - new, new - u) > 0
        next_momentum = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2)
        speed = jnp.where(uphill, 0.0, (momentum - 1) / next_momentum)
        return (new, replicated(new + speed * (new - u)), next_momentum), None

    start = replicated(among(norms / tasks, 0.0))
    (u, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones(())), None, length=_SOLVER_STEPS)
    return u / norms


def _length(w: jax.Array, gram: jax.Array) -> jax.Array:
    """√(wᵀKw), which rounding must not make the root of a negative number."""
    return jnp.sqrt(jnp.maximum(w @ gram @ w, _EPSILON))


def _project(x: jax.Array, a: jax.Array) -> jax.Array:
    """The point nearest to x with entries ≥ 0 and a·u = 1 (Held et al. 1974 for a = 1)."""
    order = jnp.argsort(-x / a)
    x_sorted, a_sorted = x[order], a[order]
    threshold = (jnp.cumsum(a_sorted * x_sorted) - 1) / jnp.cumsum(jnp.square(a_sorted))
    last = jnp.sum(x_sorted / a_sorted > threshold) - 1
    return jnp.maximum(x - threshold[last] * a, 0.0)


COMBINERS: dict[str, Callable[..., jax.Array]] = {"pcgrad": pcgrad, "cagrad": cagrad}


def combine(combiner: Combiner, grads: dict[str, Any], key: jax.Array,
            scalars: dict[str, jax.Array], separately: bool) -> tuple[dict[str, Any], dict]:
    """One gradient of the shared parameters from M tasks': leaves [M, ...] -> [...].

    `separately`: each side (`sides_of`) has a Gram matrix and coefficients of its own. A task whose
    gradient is not finite counts as one of zero. Metrics [M]:
    the share of other tasks whose gradient points against a task's, averaged over sides.
    """
    sides = sides_of(grads) if separately else {"all": grads}
    grams = replicated(jnp.stack([gram_matrix(branches) for branches in sides.values()]))
    sound = jnp.isfinite(jnp.diagonal(grams, axis1=1, axis2=2)).all(0)
    learns = present(scalars, grams.shape[1])
    if learns is not None:
        sound &= learns
    grams = jnp.where(sound & sound[:, None], grams, 0.0)
    keys = jax.random.split(key, len(sides))
    coefficients = replicated(jax.vmap(combiner, (0, 0, None))(grams, keys, scalars))
    combined: dict[str, Any] = {}

    def kept(g: jax.Array) -> jax.Array:  # 0 · NaN would be NaN
        return jnp.where(lead(sound, g), g, 0.0)

    for branches, c in zip(sides.values(), coefficients, strict=True):
        combined |= jax.tree.map(lambda g, c=c: jnp.tensordot(c, kept(g), 1), branches)
    others = num_present(scalars, grams.shape[1]) - 1
    at_least = max if learns is None else jnp.maximum
    conflicts = (grams < 0).sum(2) / at_least(1, others)
    return combined, {"conflict": conflicts.mean(0)}


def sides_of(grads: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The top-level branches of each side: actor, critic, or the trunk that they share."""
    sides: dict[str, dict[str, Any]] = {}
    for name, branch in grads.items():
        sides.setdefault(side_of(name), {})[name] = branch
    return sides


def side_of(name: str) -> str:
    """The side of a top-level parameter: what its name begins with."""
    return "actor" if name == LOG_STD else name.split("_")[0]


def mean_cosines(grads: dict[str, Any], num_tasks: Any = None) -> dict[str, jax.Array]:
    """Mean cosine of each task's gradient with the others', of each side; leaves [M, ...].

    `cosine/<side>`, [M]: 1 where all agree, −1 / (M − 1) on average where they cancel. `num_tasks`
    of the M have a gradient, all by default.
    """
    def mean(branches):
        tasks = len(jax.tree.leaves(branches)[0]) if num_tasks is None else num_tasks
        gram = gram_matrix(branches)
        norms = jnp.sqrt(jnp.diag(gram)) + _EPSILON
        cosines = gram / norms[:, None] / norms
        return (cosines.sum(1) - jnp.diag(cosines)) / (tasks - 1)

    return {f"cosine/{side}": mean(branches) for side, branches in sides_of(grads).items()}


def replicated(x: jax.Array) -> jax.Array:
    """`x` whole on every device, where XLA splits tasks over devices.

    A loop over a split [M, M] matrix would let the devices wait for each other at every step.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec())


def gram_matrix(grads: Any) -> jax.Array:
    """Inner products between tasks of leaves [M, ...]: [M, M]."""
    flat = [g.reshape(g.shape[0], -1) for g in jax.tree.leaves(grads)]
    return sum(g @ g.T for g in flat)


def clip_by_task_norm(grads: Variables, max_norm: jax.Array, num_tasks: int, *,
                      tied: bool = False,
                      learns: jax.Array | None = None) -> tuple[Variables, dict]:
    """Scales the shared gradient, and each task's own, to a norm of at most `max_norm`.

    One norm over everything would let one task's gradient shrink another's, and M independent
    networks would no longer train as M single-task agents. What is learned of the prior is a few
    numbers and stays as it is. `tied`: the shared gradient is scaled as tasks' own are, by the mean
    of their factors (of those that `learns` [M] names, if given), so that clipping does not change
    how a step is split between the two.
    A gradient whose norm is not finite becomes zero: a task's own, and the shared one, which a
    single task's NaN would enter. `skipped` is 1 for whom a gradient was lost so.
    Metrics: norms before, [M].
    """
    own = {name: branch for name, branch in grads.items() if name not in SHARED}
    squares = (jnp.sum(jnp.square(g), tuple(range(1, g.ndim))) for g in jax.tree.leaves(own))
    task_norm = jnp.sqrt(sum(squares, jnp.zeros(num_tasks)))
    shared = grads.get("shared", {})
    shared_norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in jax.tree.leaves(shared)),
                               jnp.zeros(())))
    shared_scale = jnp.minimum(1.0, max_norm / (shared_norm + 1e-6))
    task_scale = jnp.minimum(1.0, max_norm / (task_norm + 1e-6))
    task_sound, shared_sound = jnp.isfinite(task_norm), jnp.isfinite(shared_norm)
    if tied:
        shared_scale = task_scale.mean(
            where=task_sound if learns is None else task_sound & learns)

    def scale_task(g):
        return jnp.where(lead(task_sound, g), g * lead(task_scale, g), 0.0)

    clipped = jax.tree.map(scale_task, own)
    if "shared" in grads:
        clipped |= {"shared": jax.tree.map(
            lambda g: jnp.where(shared_sound, g * shared_scale, 0.0), shared)}
    return grads | clipped, {"grad_norm_task": task_norm,
                             "grad_norm_shared": jnp.broadcast_to(shared_norm, task_norm.shape),
                             "skipped": 1.0 - (task_sound & shared_sound)}
