"""What each task learns beside its networks: multipliers and temperatures, by Adam at a rate of
their own; and what MPO and V-MPO bound by them.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from varshare_jax.algorithms import objectives
from varshare_jax.algorithms.base import Problem, per_task
from varshare_jax.methods.base import Metrics, Scalars
from varshare_jax.types import Continuous

_ADAM = optax.scale_by_adam()


def dual_moments(duals: Any) -> Any:
    """Adam's moments of a tree of [M], task by task."""
    return jax.vmap(_ADAM.init)(duals)


def step_duals(duals: Any, grads: Any, moments: Any, rate: jax.Array) -> tuple[Any, Any]:
    """The next duals and moments; a gradient that is not finite counts as 0."""
    sound = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
    updates, moments = jax.vmap(_ADAM.update)(sound, moments)
    return jax.tree.map(lambda p, u: p - rate * u, duals, updates), moments


def initial_duals(problem: Problem) -> dict[str, Any]:
    """`duals`, parameters of the temperature and of a multiplier for each of `kl_parts`, all [M],
    and Adam's `moments` of them."""
    settings, tasks = problem.settings, problem.suite.num_tasks
    continuous = isinstance(problem.suite.action_space, Continuous)
    start = {"temperature": settings.initial_temperature} | dict.fromkeys(
        ("mean", "covariance") if continuous else ("policy",), settings.initial_multiplier)
    duals = {name: jnp.full(tasks, objectives.dual_parameter(value))
             for name, value in start.items()}
    return {"duals": duals, "moments": dual_moments(duals)}


def trust(multiplier: dict[str, jax.Array], target_policy: Any,
          policy: Any) -> tuple[jax.Array, Metrics]:
    """What a policy pays for its distance from the target, Σ α KL [M], and the KLs as metrics."""
    kls = {name: per_task(kl) for name, kl in objectives.kl_parts(target_policy, policy).items()}
    return (_sum(multiplier[name] * kl for name, kl in kls.items()),
            {f"kl_{name}": kl for name, kl in kls.items()})


def trust_dual(problem: Problem, scalars: Scalars, multiplier: dict[str, jax.Array],
               metrics: Metrics) -> jax.Array:
    """What the multipliers of the KLs descend, Σ α (ε − KL) [M], with the metrics of `trust`."""
    return _sum(objectives.kl_penalty(metrics[f"kl_{name}"], alpha,
                                      problem.scalar(scalars, f"epsilon_{name}"))
                for name, alpha in multiplier.items() if name != "temperature")


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)
