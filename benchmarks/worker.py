"""Measures varshare_jax once, in a fresh process: `python -m benchmarks.worker '<spec as JSON>'`.

Everything runs as `varshare_jax.train` runs it: each core a device, the runner's layout and
compiled chunk of updates. Compiling and one call before the window are excluded.
"""

import functools
import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import varshare_jax as vs
from benchmarks.timing import answer, compile_timed, seconds_per_call
from varshare_jax import config as configs
from varshare_jax.runs import provenance
from varshare_jax.runs.devices import AXIS, Layout, use_cpu_cores
from varshare_jax.types import TrainState


class Training(NamedTuple):
    """A training step that is compiled and has run once."""

    learner: vs.Learner
    layout: Layout
    advance: Any
    state: TrainState
    compile_seconds: float


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Steps per second, summed over the seeds of one training."""
    ready = _prepare(spec)
    call = _chunk(ready)
    seconds, calls = seconds_per_call(call, spec["window"])
    config = ready.learner.problem.config
    updates = config.run.log_every
    steps = (updates * config.num_seeds * config.steps_per_task
             * ready.learner.problem.suite.num_tasks)
    return {"steps_per_second": steps / seconds, "seconds_per_update": seconds / updates,
            "compile_seconds": ready.compile_seconds, "calls": calls,
            "peak_bytes": _peak_bytes(), **about()}


def matmuls(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of an update and of its bare matmuls, in turns."""
    ready = _prepare(spec)
    updates = ready.learner.problem.config.run.log_every
    bare, turns = _bare_matmuls(ready), max(1, round(spec["window"] / 0.5))
    full, training, alone = _chunk(ready), 0.0, 0.0
    for _ in range(turns):
        training += seconds_per_call(full, 0.5)[0] / updates / turns
        alone += seconds_per_call(bare, 0.5)[0] / turns
    return {"seconds_per_update": training, "matmul_seconds": alone, **about()}


def start(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds to compile, and from the start of the process to the end of a one-update training.

    `compile_seconds` covers the training step and the evaluation; the training ends with an
    evaluation of one episode, some milliseconds.
    """
    config = configs.replace(config_of(spec), {
        "total_steps": 1, "run.compile_cache": spec["cache"],  # rounded up to one update
        "run.eval_episodes": 1, "run.final_eval_episodes": 1})
    summary = vs.train(config, quiet=True).summary
    return {"compile_seconds": summary["compile_seconds"],
            "first_update_seconds": time.time() - spec["spawned"], **about()}


def learn(spec: dict[str, Any]) -> dict[str, Any]:
    """Mean return and success over the tasks after a whole training, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = configs.replace(vs.Config(), spec["settings"] | {
            "run_dir": f"{folder}/run", "run.compile_cache": spec["cache"]})
        started = time.monotonic()
        summary = vs.train(config, quiet=True).summary
    scores = {name: float(np.nanmean(np.array(summary["eval"][name], float)))
              for name in ("return", "success")}
    return {**scores, "seconds": time.monotonic() - started, **about()}


def config_of(spec: dict[str, Any]) -> vs.Config:
    """The settings of an endless training."""
    # Far from its end, so that the annealed learning rate stays positive.
    return configs.replace(vs.Config(total_steps=10**9), spec["settings"])


def _prepare(spec: dict[str, Any]) -> Training:
    use_cpu_cores()
    provenance.use_compile_cache(spec["cache"])
    config = config_of(spec)
    learner = vs.Learner.make(config)
    layout = Layout.choose(config.num_seeds, learner.problem.suite.num_tasks)
    state = layout.place(jax.block_until_ready(learner.init_seeds()))
    advance, seconds = compile_timed(
        lambda: layout.compile(learner.update_many, state, jnp.int32(1), True))
    state, _ = jax.block_until_ready(advance(state, jnp.int32(1)))
    return Training(learner, layout, advance, state, seconds)


def _chunk(ready: Training) -> Callable[[], None]:
    """A blocking call that trains on by one chunk."""
    state, count = ready.state, jnp.int32(ready.learner.problem.config.run.log_every)

    def call() -> None:
        nonlocal state
        state, metrics = ready.advance(state, count)
        jax.block_until_ready((state, metrics))

    return call


def _bare_matmuls(ready: Training) -> Callable[[], Any]:
    """A blocking call of only the matmuls that the gradients of one update need.

    The network's activations are left out, not its shapes: a linear network's gradient has the
    same products. What the optimizer would do is a tiny step, which keeps XLA from hoisting
    the products out of the loop. The devices hold the tasks as in training and never talk.
    """
    problem, mesh = ready.learner.problem, ready.layout.mesh
    settings, hidden = problem.config.ppo, problem.config.network.hidden
    rows = problem.config.steps_per_task // settings.minibatches
    inputs = problem.suite.observation_size
    widths = [(inputs, *hidden, out) for out in (problem.suite.action_space.outputs, 1)]
    keys = iter(jax.random.split(jax.random.key(0), 16))
    weights = [[jax.random.normal(next(keys), (1, *shape)) / shape[0] ** 0.5
                for shape in itertools.pairwise(net)] for net in widths]
    weights = jax.tree.map(lambda w: jnp.repeat(w, mesh.size, 0), weights)
    x = jax.random.normal(next(keys), (problem.suite.num_tasks, rows, inputs))

    def run(weights: list[list[jax.Array]], x: jax.Array) -> list[list[jax.Array]]:
        step = functools.partial(_linear_gradient_step, x.reshape(-1, inputs))
        local = jax.tree.map(lambda w: w[0], weights)
        local = jax.lax.fori_loop(0, settings.epochs * settings.minibatches,
                                  lambda _, nets: [step(net) for net in nets], local)
        return jax.tree.map(lambda w: w[None], local)

    split = PartitionSpec(AXIS)
    weights, x = jax.device_put((weights, x), NamedSharding(mesh, split))
    compiled = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=split, out_specs=split,
                                     check_vma=False)).lower(weights, x).compile()
    call = lambda: jax.block_until_ready(compiled(weights, x))  # noqa: E731
    call()
    return call


def _linear_gradient_step(x: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
    """One step on ½|y|² of y = x W₁ W₂ …: per layer a forward product, an input gradient (not
    for the first, whose input needs none) and a weight gradient."""
    layers = [x]
    for weight in weights:
        layers.append(layers[-1] @ weight)
    cotangent, grads = layers.pop(), []
    for index in reversed(range(len(weights))):
        grads.append(layers[index].T @ cotangent)
        if index:
            cotangent = cotangent @ weights[index].T
    return [w - 1e-9 * g for w, g in zip(weights, reversed(grads), strict=True)]


def _peak_bytes() -> int:
    """The most memory so far: of the device, or of this process where there is no other."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use",
                     1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def about() -> dict[str, Any]:
    """What this process measures with and on."""
    return {"versions": provenance.versions(), "device": provenance.device()}


if __name__ == "__main__":
    answer({"train": train, "matmuls": matmuls, "start": start, "learn": learn})
