"""How noisy each estimator's gradient is, and what an equally precise one costs.

    python -m benchmarks.gradient_variance --estimators=shared,flipout,local

Every estimator differentiates the same loss at the same posteriors on the same minibatch; only the
draws of the weights differ. Printed per estimator: the trace of the gradient's covariance over
draws, for θ, μ and ρ; seconds per gradient; and their product over that of `shared`, the time
for equal precision. Estimators take turns, so that a busy machine disturbs all alike.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from varshare_jax import config as configs
from varshare_jax.algorithms import descent, on_policy
from varshare_jax.algorithms.ppo import ppo_loss
from varshare_jax.algorithms.rollout import collect
from varshare_jax.learner import Learner
from varshare_jax.runs.devices import use_cpu_cores
from varshare_jax.variational.gaussian import is_gaussian

_DRAWS, _UPDATES = 32, 4


def prepare(envs: int, sigma: float):
    """A problem, the state after a few updates of training and a minibatch of a new rollout."""
    config = configs.replace(configs.Config(), {
        "ppo.num_envs": envs, "varshare.sigma_init": sigma,
        "total_steps": 10 * _UPDATES * 10 * 128 * envs})
    learner = Learner.make(config)
    state = jax.jit(learner.init)(jax.random.key(0))
    state = jax.jit(lambda s: jax.lax.fori_loop(0, _UPDATES, lambda _, s: learner.update(s)[0], s)
                    )(state)
    world, trajectory = jax.jit(functools.partial(collect, learner.problem))(state,
                                                                             jax.random.key(1))
    batch, state = jax.jit(functools.partial(on_policy.prepare, learner.problem))(
        state.replace(world=world), trajectory)
    size = batch.value.shape[2] // config.ppo.minibatches
    return config, state, jax.tree.map(lambda x: x[:, :, :size], batch)


def compile_gradient(config: configs.Config, estimator: str, state, batch):
    """key -> gradients of θ, μ and ρ, compiled."""
    problem = Learner.make(configs.replace(config, {"varshare.estimator": estimator})).problem

    loss = functools.partial(ppo_loss, problem, state.scalars)

    def gradient(key):
        grads, _ = descent.gradients(problem, state.agent, loss, batch, key, state.scalars,
                                     tuple(state.agent.variables))
        task = jax.tree.leaves(grads["task"], is_leaf=is_gaussian)
        return {"θ": grads["shared"], "μ": [q.mean for q in task], "ρ": [q.rho for q in task]}

    return jax.jit(gradient).lower(jax.random.key(0)).compile()


def spread(samples: list) -> dict[str, float]:
    """Trace of the covariance of each collection's gradient."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *samples)
    return {name: float(sum(jnp.sum(jnp.var(x, axis=0, ddof=1)) for x in jax.tree.leaves(tree)))
            for name, tree in stacked.items()}


def main(_: list[str]) -> None:
    use_cpu_cores(1)
    config, state, batch = prepare(flags.FLAGS.envs, flags.FLAGS.sigma)
    names = flags.FLAGS.estimators
    gradients = {name: compile_gradient(config, name, state, batch) for name in names}
    seconds = {name: [] for name in names}
    samples = {name: [] for name in names}
    for key in jax.random.split(jax.random.key(2), _DRAWS):
        for name, gradient in gradients.items():
            started = time.perf_counter()
            samples[name].append(jax.block_until_ready(gradient(key)))
            seconds[name].append(time.perf_counter() - started)
    first = None
    print(f"{'estimator':<10}{'ms':>8}" + "".join(f"{f'var {c}':>12}" for c in "θμρ")
          + "".join(f"{f'time {c}':>10}" for c in "θμρ"))
    for name in names:
        cost, variance = statistics.median(seconds[name]), spread(samples[name])
        first = first or {c: cost * variance[c] for c in variance}
        print(f"{name:<10}{1e3 * cost:8.1f}" + "".join(f"{v:12.3g}" for v in variance.values())
              + "".join(f"{cost * v / first[c]:10.2f}" for c, v in variance.items()))


if __name__ == "__main__":
    flags.DEFINE_list("estimators", ["shared", "flipout", "local"], "compared with the first")
    flags.DEFINE_integer("envs", 64, "environments of each task")
    flags.DEFINE_float("sigma", 0.01, "initial σ of the posteriors")
    app.run(main)
