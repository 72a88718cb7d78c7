"""The one place where tasks' losses become a step of shared and of tasks' own parameters.

Draws of weights -> loss and penalty -> weighing -> gradients -> combining -> clipping per task ->
preconditioning. Every algorithm learns through `step`, every method by what it answers there.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.algorithms.base import Problem
from varshare_jax.algorithms.preconditioner import init_moments, needed, precondition
from varshare_jax.methods.base import Metrics, Params, Scalars
from varshare_jax.methods.gradients import clip_by_task_norm, combine, mean_cosines, side_of
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.types import Agent, TrainState, Variables, lead, num_present, present
from varshare_jax.variational import natural
from varshare_jax.variational.controllers import Measured
from varshare_jax.variational.gaussian import Scale, is_gaussian
from varshare_jax.variational.medians import medians, stride
from varshare_jax.variational.residuals import relative_size


class Forward(NamedTuple):
    """The network as a loss sees it: weights are drawn where the method draws them."""

    network: MultiTaskNetwork
    variables: Variables
    noise: jax.Array | None

    def __call__(self, obs: jax.Array, *names: str,
                 action: jax.Array | None = None) -> dict[str, Any]:
        """Outputs of the networks named: [M, ..., D] -> [M, ...]; see `MultiTaskNetwork.apply`."""
        return self.network.apply(self.variables, obs, *names, noise=self.noise, action=action)


Loss = Callable[[Forward, Any], tuple[jax.Array, Metrics]]
"""(network, batch [M, ...]) -> losses [M], metrics [M]."""


def init_agent(problem: Problem, key: jax.Array, scalars: Scalars) -> Agent:
    """The agent before its first update.

    Never vmap this over seeds on a CPU (see `MultiTaskNetwork.init`); `jax.lax.map` is safe.
    """
    variables = problem.network.init(key)
    prior, memory = problem.network.method.init_memory(variables["task"], scalars)
    if prior:
        variables["prior"] = prior
    variables |= problem.algorithm.collections(problem)
    target = variables if problem.algorithm.keeps_target else {}
    curvature = problem.network.curvature(variables, memory, scalars, problem.samples)
    return Agent(variables, init_moments(variables, curvature), memory, target)


def step(problem: Problem, agent: Agent, loss: Loss, batch: Any, key: jax.Array, scalars: Scalars,
         rate: jax.Array, *, collections: tuple[str, ...] | None = None,
         held: tuple[str, ...] = ()) -> tuple[Agent, Metrics]:
    """One gradient step on a batch. `rate` is the learning rate, metrics are [M].

    Only the `collections` named move (all by default); the others cost no gradient. Nor do the
    networks of the sides `held`, such as an actor; what serves several sides does. What is not
    finite in one task reaches no other (`without_unsound`; `clip_by_task_norm` drops gradients),
    nor does anything of a task that is left out; its metrics are NaN.
    """
    names, tasks = tuple(collections or agent.variables), problem.suite.num_tasks
    learns = present(scalars, tasks)
    sound, loss, batch = without_unsound(loss, batch, tasks, learns)
    grads, metrics = gradients(problem, agent, loss, batch, key, scalars, needed(problem, names))
    if held:
        grads = _hold(held, grads, jax.tree.map(jnp.zeros_like, grads))
    curvature: Variables = {}
    if "task" in names and agent.optimizer.curvature:
        grads, curvature = _curvature(problem, agent, grads, scalars)
    grads, norms = clip_by_task_norm(
        grads, problem.scalar(scalars, "max_grad_norm"), tasks,
        tied=problem.settings.preconditioner == "shared", learns=learns)
    updates, optimizer = precondition(problem, grads, agent.optimizer, names,
                                      num_present(scalars, tasks))
    chosen = _only(agent.variables, names)
    updates = problem.network.method.hold(chosen, updates)
    variables = agent.variables | _descend(problem, chosen, updates, scalars, rate)
    if curvature:
        optimizer = optimizer._replace(curvature=curvature)
        variables |= {"task": problem.network.settle(variables, curvature["task"], agent.memory,
                                                     scalars, problem.samples)}
    metrics["loss"] = jnp.where(sound, metrics["loss"], jnp.nan)
    norms["skipped"] = jnp.maximum(norms["skipped"], 1.0 - sound)
    if held:
        variables = _hold(held, variables, agent.variables)
        before = agent.optimizer
        optimizer = optimizer._replace(
            mu=_hold(held, optimizer.mu, before.mu), nu=_hold(held, optimizer.nu, before.nu),
            curvature=_hold(held, optimizer.curvature, before.curvature))
    metrics = of_present(learns, metrics | norms)
    return agent.replace(variables=variables, optimizer=optimizer), metrics


def _hold(sides: tuple[str, ...], new: Variables, old: Variables) -> Variables:
    """`new`, where the networks of these sides are as in `old`."""
    return {name: {branch: old[name][branch] if side_of(branch) in sides else x
                   for branch, x in tree.items()} for name, tree in new.items()}


def of_present(learns: jax.Array | None, metrics: Metrics) -> Metrics:
    """`metrics` [M] with NaN for a task that is left out, which no mean over tasks then counts."""
    if learns is None:
        return metrics
    return {name: jnp.where(learns, m, jnp.nan) for name, m in metrics.items()}


def without_unsound(loss: Loss, batch: Any, num_tasks: int,
                    learns: jax.Array | None = None) -> tuple[jax.Array, Loss, Any]:
    """Whose samples are all finite [M], and a loss and a batch in which other tasks count nothing.

    Of `learns` [M], if given, those that do not are among the others.

    A weight of zero would not do, since 0 · NaN is NaN on the way back: their samples become zeros,
    their losses constants.
    """
    def finite(x: jax.Array) -> jax.Array:
        return jnp.isfinite(x).reshape(num_tasks, -1).all(1)

    def kept(x: jax.Array) -> jax.Array:
        return jnp.where(lead(sound, x), x, 0) if _is_float(x) else x

    masks = [finite(x) for x in jax.tree.leaves(batch) if _is_float(x)]
    start = jnp.ones(num_tasks, bool) if learns is None else learns
    sound = functools.reduce(jnp.logical_and, masks, start)

    def guarded(forward: Forward, batch: Any) -> tuple[jax.Array, Metrics]:
        losses, metrics = loss(forward, batch)
        return jnp.where(sound, losses, 0.0), metrics

    return sound, guarded, jax.tree.map(kept, batch)


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def gradients(problem: Problem, agent: Agent, loss: Loss, batch: Any, key: jax.Array,
              scalars: Scalars, names: tuple[str, ...]) -> tuple[Variables, Metrics]:
    """Each task's gradient of its own parameters, and one of the shared; metrics [M]."""
    chosen = _only(agent.variables, names)
    combiner, count = problem.network.method.combine, num_present(scalars, problem.suite.num_tasks)

    def mean(grads: Variables, *names: str) -> Variables:
        """Summed over tasks so far: what they share descends the mean."""
        return grads | {name: jax.tree.map(lambda g: g / count, grads[name])
                        for name in names if name in grads}

    if combiner is None or "shared" not in chosen:
        grads, metrics = _gradient(problem, problem.network, agent, chosen, loss, batch, key,
                                   scalars)
        return mean(grads, "shared", "prior"), metrics
    loss_key, combine_key = jax.random.split(key)
    grads, metrics = _apart(problem, agent, chosen, loss, batch, loss_key, scalars)
    shared, conflicts = combine(combiner, grads["shared"], combine_key, scalars,
                                problem.config.gradients.separately)
    return mean(grads, "prior") | {"shared": shared}, metrics | conflicts


def cosines(problem: Problem, agent: Agent, loss: Loss, batch: Any, key: jax.Array,
            scalars: Scalars) -> Metrics:
    """How far tasks' gradients of the shared parameters agree on a batch: `mean_cosines`, [M].

    Once an update is enough: each task needs a gradient of its own, as combiners do. Nothing for
    one task or a method that shares nothing, or where `gradients.cosines` is off.
    """
    network = problem.network
    if not (problem.config.gradients.cosines and network.method.shares and network.num_tasks > 1):
        return {}
    grads, _ = _apart(problem, agent, _only(agent.variables, ("shared",)), loss, batch, key,
                      scalars)
    return mean_cosines(grads["shared"], num_present(scalars, network.num_tasks))


def _apart(problem: Problem, agent: Agent, chosen: Variables, loss: Loss, batch: Any,
           key: jax.Array, scalars: Scalars) -> tuple[Variables, Metrics]:
    """`_gradient` in which every task has a copy of `shared`: gradients [M, ...]."""
    tasks = problem.suite.num_tasks
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (tasks, *p.shape)), chosen["shared"])
    return _gradient(problem, dataclasses.replace(problem.network, shared_axis=0), agent,
                     chosen | {"shared": copies}, loss, batch, key, scalars)


def _gradient(problem: Problem, network: MultiTaskNetwork, agent: Agent, chosen: Variables,
              loss: Loss, batch: Any, key: jax.Array,
              scalars: Scalars) -> tuple[Variables, Metrics]:
    """Gradients of the objective by the collections `chosen`; metrics [M]."""
    objective = functools.partial(_objective, loss, problem.samples)
    gradient = _over_draws(problem, jax.grad(objective, argnums=1, has_aux=True))
    fixed = {name: branch for name, branch in agent.variables.items() if name not in chosen}
    return gradient(network, chosen, fixed, batch, agent.memory, scalars, key)


def _curvature(problem: Problem, agent: Agent, grads: Variables,
               scalars: Scalars) -> tuple[Variables, Variables]:
    """`grads` without those by ρ, and the running curvatures that these were turned into."""
    rate = problem.network.method.rates(scalars).curvature
    seen = natural.estimates(agent.variables["task"], grads["task"])
    average = jax.tree.map(
        lambda h, new: jnp.where(jnp.isfinite(new), (1 - rate) * h + rate * new, h),
        agent.optimizer.curvature["task"], seen)
    return grads | {"task": natural.without_rho(grads["task"])}, {"task": average}


def _objective(loss: Loss, samples: int, network: MultiTaskNetwork, chosen: Variables,
               fixed: Variables, batch: Any, memory: Any, scalars: Scalars,
               key: jax.Array) -> tuple[jax.Array, Metrics]:
    """Sum over tasks of the loss plus the method's penalty, as weighed; metrics [M]."""
    variables, draws = chosen | fixed, network.method.draws
    forward = Forward(network, variables, None)
    if draws.per_example:
        forward = Forward(network, variables, key)
    elif draws.learn:
        forward = Forward(network, network.sample(variables, key), None)
    losses, metrics = loss(forward, batch)
    penalty, _ = network.penalty(variables, memory, scalars, samples)
    total = losses + penalty
    metrics = metrics | {"loss": total, "penalty": penalty}
    weighed, learns = network.method.weigh(total, scalars), present(scalars, network.num_tasks)
    if learns is not None:
        weighed = jnp.where(learns, weighed, 0.0)
    return weighed.sum(), metrics


def _over_draws(problem: Problem, gradient: Callable) -> Callable:
    """`gradient`, averaged over as many draws of the weights as the method asks for."""
    draws = problem.network.method.draws
    if draws.count == 1 or not draws.learn:
        return gradient

    def average(network, *arguments):
        *others, key = arguments
        each = jax.lax.map(lambda key: gradient(network, *others, key),
                           jax.random.split(key, draws.count))
        return jax.tree.map(lambda x: x.mean(0), each)

    return average


def _descend(problem: Problem, variables: Variables, updates: Variables, scalars: Scalars,
             rate: jax.Array) -> Variables:
    """Variables after the preconditioned `updates`, each at its own rate."""
    rates = problem.network.method.rates(scalars)
    of_collection = dict.fromkeys(variables, rate) | {
        "task": rate * problem.scalar(scalars, "task_rate"), "prior": rates.prior}

    def moved(p: Any, u: Any, rate: jax.Array) -> Any:
        if isinstance(u, Scale):
            rate = rates.scale
        elif is_gaussian(u):
            return jax.tree.map(lambda p, u, rate: p - rate * u, p, u,
                                u.replace(mean=rate, rho=rate * rates.rho))
        return jax.tree.map(lambda p, u: p - rate * u, p, u)

    return {name: jax.tree.map(functools.partial(moved, rate=of_collection[name]), branch,
                               updates[name], is_leaf=is_gaussian)
            for name, branch in variables.items()}


def finish(problem: Problem, state: TrainState, agent: Agent, metrics: Metrics, key: jax.Array,
           gap: Callable[[Variables], jax.Array]) -> tuple[Agent, Metrics]:
    """What follows an update's steps: the method's changes, its steering, and its metrics [M].

    `state` is that of the update's start, `gap` the critic's error [M] under given variables.
    """
    method, network = problem.network.method, problem.network
    variables = method.after_update(agent.variables, metrics["loss"], state.scalars, key)
    metrics |= network.penalty(variables, agent.memory, state.scalars, problem.samples)[1]
    measured = Measured(
        state.update + 1, problem.num_updates, metrics,
        lambda: gap(network.without_residuals(variables)) - gap(variables))
    memory, steering = method.steer(agent.memory, variables, measured, state.scalars)
    metrics |= natural.layer_means(agent.optimizer.curvature.get("task", {}))
    metrics |= _movement(network, state.agent.variables, variables)
    taken = agent.optimizer.count - state.agent.optimizer.count
    metrics["gradient_steps"] = jnp.full(network.num_tasks, taken, jnp.float32)
    agent = agent.replace(variables=variables, memory=memory)
    return agent, metrics | relative_size(variables) | steering


def _movement(network: MultiTaskNetwork, before: Variables, after: Variables) -> Metrics:
    """What an update did to the composed mean weights W_m: `effective_step`, `shared_step`, [M]."""
    versions = before, before | {"shared": after["shared"]}, after
    start, shared, end = jax.vmap(lambda variables: _rows(network.merge(variables)))(
        jax.tree.map(lambda *x: jnp.stack(x), *versions))
    return effective_step(start, end) | shared_step(start, shared, end)


def shared_step(before: jax.Array, shared: jax.Array, after: jax.Array) -> Metrics:
    """Share of an update's step ΔW_m that the shared parameters took, [M, P] -> [M].

    `shared` are the weights composed of the new shared and the old parameters of tasks. With
    ΔW_m = ΔW^θ + rest the share is ΔW^θ·ΔW_m / ‖ΔW_m‖², and with the rest's 1: more than that
    where the rest went against the step.
    """
    step, part = after - before, shared - before
    size = jnp.sum(jnp.square(step), 1)
    return {"shared_step": jnp.sum(part * step, 1) / jnp.maximum(size, 1e-30)}


def effective_step(before: jax.Array, after: jax.Array) -> Metrics:
    """median |ΔW_m| / median |W_m| of composed mean weights over an update, [M, P] -> [M].

    What methods must have in common before their learning curves tell them apart: Adam moves a
    weight that is a sum of two parameters by up to twice its learning rate.
    """
    size = jnp.abs(jnp.stack([after - before, after]))[..., ::stride(after.size)]
    change, weight = medians(size[:, :, None])[..., 0]
    return {"effective_step": change / jnp.maximum(weight, 1e-12)}


def _rows(tree: Params) -> jax.Array:
    """Leaves [M, ...] side by side, [M, P]."""
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(tree)], 1)


def _only(tree: Variables, names: tuple[str, ...]) -> Variables:
    return {name: tree[name] for name in tree if name in names}
