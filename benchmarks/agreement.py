"""Does a device compute what the CPU computes? `python -m benchmarks.agreement '<spec as JSON>'`.

Both begin with the same state and make one update, in full precision. Where there is no
accelerator, the CPU is compared with itself, compiled without optimisations: rounding alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

import varshare_jax as vs
from benchmarks.timing import answer
from benchmarks.worker import about, config_of
from varshare_jax.runs import provenance


def agreement(spec: dict[str, Any]) -> dict[str, Any]:
    """`step_error`: |ΔW − ΔW of the CPU| / |ΔW of the CPU|, both over all parameters.

    `loss_error` is the relative one of the loss [M], summed over the tasks.
    """
    jax.config.update("jax_default_matmul_precision", "highest")
    provenance.use_compile_cache(spec["cache"])
    learner = vs.Learner.make(config_of(spec))
    host, device = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_device(host):
        start = jax.block_until_ready(jax.jit(learner.init)(jax.random.key(0)))
    options = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else {}
    steps, losses = zip(_first_update(learner, start, host, {}),
                        _first_update(learner, start, device, options), strict=True)
    return {"step_error": _relative(steps), "loss_error": _relative(losses),
            **about()}


def _first_update(learner: vs.Learner, start: Any, device: jax.Device,
                  options: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The move of all parameters, one vector, and the loss [M], made there."""
    state = jax.device_put(start, device)
    after, metrics = jax.jit(learner.update, compiler_options=options)(state)
    moves = jax.tree.map(lambda a, b: jnp.ravel(a - b), after.agent.variables,
                         state.agent.variables)
    move, loss = jnp.concatenate(jax.tree.leaves(moves)), metrics["loss"]
    return jax.device_get((move, loss))


def _relative(pair: tuple[jax.Array, jax.Array]) -> float:
    expected, found = pair
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def where(_: dict[str, Any]) -> dict[str, Any]:
    """What JAX computes on here."""
    return provenance.device()


if __name__ == "__main__":
    answer({"agreement": agreement, "where": where})
