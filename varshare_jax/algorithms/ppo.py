"""Proximal policy optimisation for M tasks at once (Schulman et al. 2017, arXiv 1707.06347).

Reads top to bottom: `init`, `update` = rollout -> advantages -> epochs of minibatches, the loss.
Every array leads with the axes [T, M, N] of a rollout or [M, G, L] of a batch, where the N envs
of a task are split into G groups and L = T·N/G samples of a group are shuffled together.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from varshare_jax import popart
from varshare_jax.algorithms.problem import Problem
from varshare_jax.algorithms.rollout import collect, initial_episode, observe
from varshare_jax.gradients import clip_by_task_norm, combine
from varshare_jax.methods.base import Metrics
from varshare_jax.normalization import initial_stats, update_stats
from varshare_jax.types import TrainState, Transition, Variables
from varshare_jax.variational.control import Measured
from varshare_jax.variational.residuals import relative_size


class Batch(NamedTuple):
    """What the loss reads of each sample; leaves [M, G, L, ...]."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


def init(problem: Problem, key: jax.Array, scalars: dict[str, jax.Array]) -> TrainState:
    """The state of one seed before its first update.

    Never vmap this over seeds on a CPU (see `MultiTaskNetwork.init`); `jax.lax.map` is safe.
    """
    shape = problem.suite.num_tasks, problem.config.ppo.num_envs
    key, network_key, env_key, acting_key = jax.random.split(key, 4)
    variables, method = problem.network.init(network_key), problem.network.method
    if prior := method.init_prior(variables["task"], scalars):
        variables["prior"] = prior
    if problem.config.ppo.popart_rate:
        variables["popart"] = popart.initial_layer(shape[0])
    env_state, obs = problem.suite.reset(jax.random.split(env_key, shape))
    return TrainState(
        variables=variables,
        optimizer=_optimizer(problem).init(variables),
        obs_stats=initial_stats(shape[0], problem.suite.observation_size),
        return_stats=initial_stats(shape[0]),
        value_stats=popart.initial_value_stats(shape[0]),
        env_state=env_state,
        obs=obs,
        episode=initial_episode(*shape),
        discounted_return=jnp.zeros(shape),
        done=jnp.ones(shape, bool),
        acting_keys=jax.random.split(acting_key, shape),
        key=key,
        scalars=scalars,
        control=method.init_control(variables["task"], scalars),
        update=jnp.zeros((), jnp.int32),
    )


def update(problem: Problem, state: TrainState) -> tuple[TrainState, Metrics]:
    """One iteration: a rollout, then epochs over it. Metrics are per task, [M]."""
    key, rollout_key, learn_key, method_key = jax.random.split(state.key, 4)
    state, trajectory = collect(problem, state, rollout_key)
    batch, state = _prepare(problem, state, trajectory)
    variables, optimizer, metrics = _learn(problem, state, batch, learn_key)
    method, finished = problem.network.method, state.update + 1
    variables = method.after_update(variables, metrics["loss"], state.scalars, method_key)
    metrics |= problem.network.penalty(variables, state.scalars, state.control)[1]
    measured = Measured(finished, problem.num_updates, metrics,
                        functools.partial(critic_gap, problem, variables, batch))
    control, steering = method.steer(state.control, variables, measured, state.scalars)
    state = state.replace(variables=variables, optimizer=optimizer, key=key, update=finished,
                          control=control)
    return state, (episode_metrics(trajectory) | metrics | relative_size(variables)
                   | steering)


def advantages(reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array,
               truncated: jax.Array, discount: jax.Array, gae_lambda: jax.Array) -> jax.Array:
    """Generalised advantage estimates, [T, ...] (Schulman et al. 2016, arXiv 1506.02438).

    `next_value` is the value of the observation that followed the action, before any reset. A
    terminated episode is worth nothing after its end; a truncated one is worth its
    `next_value`; no estimate reaches past either.
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * ~(terminated | truncated)

    def step(advantage, x):
        delta, decay = x
        advantage = delta + decay * advantage
        return advantage, advantage

    _, result = jax.lax.scan(step, jnp.zeros_like(value[0]), (delta, decay), reverse=True,
                             unroll=16)
    return result


def _prepare(problem: Problem, state: TrainState,
             trajectory: Transition) -> tuple[Batch, TrainState]:
    """Values, advantages and normalised inputs of a rollout, and the statistics it updates."""
    settings, scalars = problem.config.ppo, state.scalars
    look = functools.partial(observe, problem, state.obs_stats)
    obs, final_obs = look(_group(problem, trajectory.obs)), look(_group(problem,
                                                                        trajectory.final_obs))
    return_stats = update_stats(state.return_stats, trajectory.discounted_return)
    reward = trajectory.reward
    if settings.normalize_returns:
        reward = reward / return_stats.std[:, None]
    now, after = value(problem, state, obs), value(problem, state, final_obs)
    over_time = functools.partial(_ungroup, problem)
    advantage = advantages(reward, over_time(now), over_time(after), trajectory.terminated,
                           trajectory.truncated, scalars["ppo.discount"],
                           scalars["ppo.gae_lambda"])
    advantage = _group(problem, advantage)
    state = _follow_returns(problem, state, advantage + now)
    batch = Batch(obs, _group(problem, trajectory.action), _group(problem, trajectory.log_prob),
                  state.value_stats.standardize(now), advantage,
                  state.value_stats.standardize(advantage + now))
    return batch, state.replace(obs_stats=update_stats(state.obs_stats, trajectory.obs),
                                return_stats=return_stats)


def value(problem: Problem, state: TrainState, obs: jax.Array) -> jax.Array:
    """Values under the mean weights, in units of return: [M, ..., D] -> [M, ...]."""
    output = problem.network.value(state.variables, obs)
    if problem.config.ppo.popart_rate:
        output = popart.apply_layer(state.variables["popart"], output)
    return state.value_stats.restore(output)


def critic_gap(problem: Problem, variables: Variables, batch: Batch) -> jax.Array:
    """By how much less the critic errs with each task's own parameters than without, [M].

    Mean squared errors of the values under the mean weights, on one group of the batch.
    """
    group = jax.tree.map(lambda x: x[:, 0], batch)

    def error(variables: Variables) -> jax.Array:
        value = problem.network.value(variables, group.obs)
        if problem.config.ppo.popart_rate:
            value = popart.apply_layer(variables["popart"], value)
        return jnp.mean(jnp.square(value - group.target), axis=1)

    return error(problem.network.without_residuals(variables)) - error(variables)


def _follow_returns(problem: Problem, state: TrainState, target: jax.Array) -> TrainState:
    """PopArt's statistics and layer after value targets [M, ...]; the first set them outright."""
    rate = problem.config.ppo.popart_rate
    if not rate:
        return state
    stats, layer = popart.follow(state.value_stats, state.variables["popart"], target,
                                 jnp.where(state.update == 0, 1.0, rate))
    return state.replace(value_stats=stats, variables=state.variables | {"popart": layer})


def _learn(problem: Problem, state: TrainState, batch: Batch, key: jax.Array):
    """Epochs of minibatches. Returns (variables, optimizer state, metrics [M])."""
    settings = problem.config.ppo
    size = batch.value.shape[2]
    step = functools.partial(_minibatch_step, problem, state, batch)

    def epoch(carry, key):
        shuffle_key, noise_key = jax.random.split(key)
        order = jnp.argsort(jax.random.bits(shuffle_key, (size,)))
        keys = jax.random.split(noise_key, settings.minibatches)
        return jax.lax.scan(step, carry, (order.reshape(settings.minibatches, -1), keys))

    carry = state.variables, state.optimizer, jnp.ones((), bool)
    (variables, optimizer, _), metrics = jax.lax.scan(epoch, carry,
                                                      jax.random.split(key, settings.epochs))
    first = {"first_ratio_std": metrics.pop("ratio_std")[0, 0],
             "first_approx_kl": metrics["approx_kl"][0, 0]}
    return variables, optimizer, {name: m.mean((0, 1)) for name, m in metrics.items()} | first


def _minibatch_step(problem: Problem, state: TrainState, batch: Batch, carry, x):
    """One gradient step on the samples `x[0]` of every task and group."""
    variables, optimizer, going = carry
    order, key = x
    minibatch = jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=2), batch)
    grads, metrics = _gradients(problem, variables, minibatch, state, key)
    grads, norms = clip_by_task_norm(grads, state.scalars["ppo.max_grad_norm"],
                                     problem.suite.num_tasks)
    updates, new_optimizer = _optimizer(problem).update(grads, optimizer)
    rates = dict.fromkeys(variables, learning_rate(problem, state))
    rates["prior"] = rates["shared"] * state.scalars["control.rate"]
    new_variables = {name: jax.tree.map(lambda p, u, rate=rates[name]: p - rate * u, branch,
                                        updates[name]) for name, branch in variables.items()}
    if problem.config.ppo.target_kl > 0:
        going &= metrics["approx_kl"].mean() <= problem.config.ppo.target_kl
        new_variables, new_optimizer = jax.tree.map(
            lambda new, old: jnp.where(going, new, old), (new_variables, new_optimizer),
            (variables, optimizer))
    return (new_variables, new_optimizer, going), metrics | norms


def _gradients(problem: Problem, variables: Variables, batch: Batch, state: TrainState,
               key: jax.Array) -> tuple[Variables, Metrics]:
    """Each task's gradient of its own parameters, and one of the shared; metrics [M]."""
    gradient = _over_draws(problem, jax.grad(_loss, argnums=1, has_aux=True))
    combiner, num_tasks = problem.network.method.combine, problem.suite.num_tasks

    def mean(grads: Variables, *names: str) -> Variables:
        """Summed over tasks so far: what they share descends the mean."""
        return grads | {name: jax.tree.map(lambda g: g / num_tasks, grads[name])
                        for name in names if name in grads}

    if combiner is None:
        grads, metrics = gradient(problem, variables, batch, state, key)
        return mean(grads, "shared", "prior"), metrics
    loss_key, combine_key = jax.random.split(key)
    apart = dataclasses.replace(problem.network, shared_axis=0)
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (num_tasks, *p.shape)),
                          variables["shared"])
    grads, metrics = gradient(problem._replace(network=apart), variables | {"shared": copies},
                              batch, state, loss_key)
    shared, conflicts = combine(combiner, grads["shared"], combine_key, state.scalars,
                                problem.config.gradients.separately)
    return mean(grads, "prior") | {"shared": shared}, metrics | conflicts


def _over_draws(problem: Problem, gradient: Callable) -> Callable:
    """`gradient`, averaged over as many draws of the weights as the settings ask for."""
    draws = problem.config.varshare.draws
    if draws == 1 or not problem.network.method.learns_with_sample:
        return gradient

    def average(*arguments):
        *others, key = arguments
        each = jax.lax.map(lambda key: gradient(*others, key), jax.random.split(key, draws))
        return jax.tree.map(lambda x: x.mean(0), each)

    return average


def _loss(problem: Problem, variables: Variables, batch: Batch, state: TrainState,
          key: jax.Array) -> tuple[jax.Array, Metrics]:
    """Sum over tasks of PPO's loss plus the method's penalty; metrics [M].

    `state` is that of the update's start; only its scalars and control are read.
    """
    settings, network, scalars = problem.config.ppo, problem.network, state.scalars
    learning, noise = variables, None
    if network.method.draws_per_example:
        noise = key
    elif network.method.learns_with_sample:
        learning = network.sample(variables, key)
    policy, outputs = network.policy_and_critic(learning, batch.obs, noise)
    clip = scalars["ppo.clip"]
    per_task = functools.partial(jnp.mean, axis=(1, 2))

    advantage = batch.advantage
    if settings.normalize_advantage:
        advantage = jax.vmap(jax.nn.standardize)(advantage.reshape(advantage.shape[0], -1))
        advantage = advantage.reshape(batch.advantage.shape)
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    policy_loss = -per_task(jnp.minimum(
        ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage))

    if settings.popart_rate:
        outputs = popart.apply_layer(variables["popart"], outputs)
    value_loss = per_task(network.critic.error(
        outputs, batch.target, batch.value, clip if settings.clip_value else None))
    entropy = per_task(policy.entropy())
    penalty, _ = network.penalty(variables, scalars, state.control)
    loss = (policy_loss + scalars["ppo.value_coefficient"] * value_loss
            - scalars["ppo.entropy_coefficient"] * entropy + penalty)
    metrics = {
        "loss": loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "penalty": penalty,
        "approx_kl": per_task(ratio - 1 - log_ratio),
        "clip_fraction": per_task((jnp.abs(ratio - 1) > clip).astype(jnp.float32)),
        "ratio_std": jnp.std(ratio, axis=(1, 2)),
    }
    return network.method.weigh(loss, scalars).sum(), metrics


def episode_metrics(trajectory: Transition) -> Metrics:
    """Mean return and length of the episodes that ended in a rollout, [M]; NaN where none did."""
    done = trajectory.terminated | trajectory.truncated
    count = done.sum((0, 2))

    def mean(x):
        return jnp.where(count > 0, jnp.sum(x * done, (0, 2)) / jnp.maximum(count, 1), jnp.nan)

    episode = trajectory.episode
    return {"return": mean(episode.total), "length": mean(episode.length),
            "success": mean(episode.success), "episodes": count.astype(jnp.float32)}


def learning_rate(problem: Problem, state: TrainState) -> jax.Array:
    """The rate of the current update."""
    rate = state.scalars["ppo.learning_rate"]
    if not problem.config.ppo.anneal_learning_rate:
        return rate
    return rate * (1 - state.update / problem.num_updates)


def num_groups(problem: Problem) -> int:
    """Groups G that the envs of a task are split into for shuffling.

    A batch of products is faster on a CPU than one tall product, which matters for one task. G
    depends on the settings alone, never on the devices, so neither do results.
    """
    settings = problem.config.ppo
    samples = problem.config.samples_per_task
    return next(g for g in (8, 4, 2, 1)
                if settings.num_envs % g == 0 and samples // g % settings.minibatches == 0)


def _group(problem: Problem, x: jax.Array) -> jax.Array:
    """[T, M, N, ...] -> [M, G, T·N/G, ...]."""
    steps, tasks, envs, *rest = x.shape
    groups = num_groups(problem)
    x = x.reshape(steps, tasks, groups, envs // groups, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(tasks, groups, -1, *rest)


def _ungroup(problem: Problem, x: jax.Array) -> jax.Array:
    """[M, G, T·N/G] -> [T, M, N]."""
    tasks, groups, _ = x.shape
    steps = problem.config.ppo.rollout_length
    x = x.reshape(tasks, groups, steps, -1)
    return jnp.moveaxis(x, 2, 0).reshape(steps, tasks, -1)


def _optimizer(problem: Problem) -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=problem.config.ppo.adam_epsilon)
