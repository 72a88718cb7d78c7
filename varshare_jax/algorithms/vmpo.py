"""V-MPO for M tasks at once (Song et al. 2020, arXiv 1909.12238).

The target policy acts. An E-step weighs the better half of its actions by a softmax of their
advantages, an M-step makes them likelier within a trust region around the target. Temperature and
trust region are Lagrange multipliers of each task's own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.algorithms import descent, objectives, on_policy
from varshare_jax.algorithms.acting import policy_of
from varshare_jax.algorithms.base import Problem, per_task
from varshare_jax.algorithms.duals import initial_duals, step_duals, trust, trust_dual
from varshare_jax.algorithms.on_policy import OnPolicy
from varshare_jax.algorithms.rollout import collect, episode_metrics
from varshare_jax.algorithms.settings import VMPOConfig
from varshare_jax.methods.base import Metrics, Scalars
from varshare_jax.networks.critics import make_critic
from varshare_jax.types import TrainState


class Sample(NamedTuple):
    """A batch, and the target policy at its observations."""

    batch: on_policy.Batch
    target_policy: Any


class Better(NamedTuple):
    """A minibatch's advantages [M, G, L], and which of them are of the better half."""

    advantage: jax.Array
    selected: jax.Array


class VMPO(OnPolicy):
    """A rollout of the target policy, then epochs of minibatches towards its better half."""

    settings = VMPOConfig
    keeps_target = True

    def init(self, problem, key):
        """Beside PopArt's statistics the duals' parameters and Adam's moments of them, each [M]."""
        return super().init(problem, key) | initial_duals(problem)

    def acting(self, agent):
        return agent.target

    def update(self, problem: Problem, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key, method_key, cosine_key = jax.random.split(state.key, 5)
        world, trajectory = collect(problem, state, rollout_key)
        batch, state = on_policy.prepare(problem, state.replace(world=world), trajectory)
        sample = Sample(batch, policy_of(problem, state.agent.target, batch.obs))
        minibatch = on_policy.one_minibatch(problem, sample)
        loss = functools.partial(vmpo_loss, problem, state.scalars, state.own["duals"],
                                 _better(problem, minibatch))
        agreement = descent.cosines(problem, state.agent, loss, minibatch, cosine_key,
                                    state.scalars)
        agent, own, metrics = _learn(problem, state, sample, learn_key)
        gap = functools.partial(on_policy.critic_error, problem, batch)
        agent, metrics = descent.finish(problem, state, agent, metrics, method_key, gap)
        update = state.update + 1
        due = update % problem.settings.target_every == 0
        target = jax.tree.map(lambda new, old: jnp.where(due, new, old), agent.variables,
                              agent.target)
        state = state.replace(agent=agent.replace(target=target), own=own, key=key, update=update)
        return state, episode_metrics(trajectory) | metrics | agreement


def _learn(problem: Problem, state: TrainState, sample: Sample, key: jax.Array):
    """Epochs of minibatches. Returns (agent, own, metrics [M])."""
    rate = problem.learning_rate(state)

    def step(carry, minibatch, key):
        agent, duals, moments = carry
        better = _better(problem, minibatch)
        loss = functools.partial(vmpo_loss, problem, state.scalars, duals, better)
        agent, metrics = descent.step(problem, agent, loss, minibatch, key, state.scalars, rate)
        grads = jax.grad(lambda duals: dual_loss(problem, state.scalars, duals, better,
                                                 metrics).sum())(duals)
        duals, moments = step_duals(duals, grads, moments,
                                    problem.scalar(state.scalars, "dual_rate"))
        return (agent, duals, moments), metrics | {
            f"dual_{name}": objectives.dual(x) for name, x in duals.items()}

    start = state.agent, state.own["duals"], state.own["moments"]
    (agent, duals, moments), metrics = on_policy.passes(problem, sample, key, start, step)
    own = state.own | {"duals": duals, "moments": moments}
    return agent, own, {name: m.mean((0, 1)) for name, m in metrics.items()}


def _better(problem: Problem, sample: Sample) -> Better:
    advantage = on_policy.advantage_of(problem, sample.batch)
    # Weights are made of them outside of the loss, whose guard against NaN they would pass by.
    advantage = jnp.where(jnp.isfinite(advantage), advantage, 0.0)
    return Better(advantage, objectives.top_half(advantage))


def vmpo_loss(problem: Problem, scalars: Scalars, duals: dict[str, jax.Array], better: Better,
              forward: descent.Forward, sample: Sample) -> tuple[jax.Array, Metrics]:
    """The policy's and the critic's loss per task [M]; `duals` are parameters, not moved here."""
    batch, multiplier = sample.batch, jax.tree.map(objectives.dual, duals)
    outputs = forward(batch.obs, "actor", "critic")
    policy_loss = objectives.vmpo_policy_loss(outputs["actor"].log_prob(batch.action), *better,
                                              multiplier["temperature"])
    distance, kls = trust(multiplier, sample.target_policy, outputs["actor"])
    value_loss = per_task(make_critic(problem.config.network).error(
        on_policy.rescaled(problem, forward.variables, outputs["critic"]), batch.target,
        batch.value, None))
    entropy = per_task(outputs["actor"].entropy())
    loss = (policy_loss + distance + problem.scalar(scalars, "value_coefficient") * value_loss
            - problem.scalar(scalars, "entropy_coefficient") * entropy)
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy} | kls


def dual_loss(problem: Problem, scalars: Scalars, duals: dict[str, jax.Array], better: Better,
              metrics: Metrics) -> jax.Array:
    """What the multipliers descend, [M]: the temperature's dual, and α (ε − KL) of each KL."""
    multiplier = jax.tree.map(objectives.dual, duals)
    return (objectives.vmpo_temperature_loss(*better, multiplier["temperature"],
                                             problem.scalar(scalars, "epsilon"))
            + trust_dual(problem, scalars, multiplier, metrics))
