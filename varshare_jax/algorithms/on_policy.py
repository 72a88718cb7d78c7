"""What algorithms that learn from their own rollouts have in common.

Arrays lead with the axes [T, M, N] of a rollout or [M, G, L] of a batch, where the N envs of a
task are split into G groups and L = T·N/G samples of a group are shuffled together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.algorithms import popart
from varshare_jax.algorithms.acting import observe
from varshare_jax.algorithms.base import Algorithm, Problem, per_task
from varshare_jax.algorithms.normalization import update_stats
from varshare_jax.errors import UserError
from varshare_jax.methods.base import Metrics
from varshare_jax.networks.critics import make_critic
from varshare_jax.networks.heads import PolicyHead, ValueHead
from varshare_jax.types import TrainState, Transition, Variables


class Batch(NamedTuple):
    """What losses read of each sample; leaves [M, G, L, ...]."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


class OnPolicy(Algorithm):
    """An actor and a critic of states; PopArt's statistics are the algorithm's own."""

    def heads(self, space, config):
        actor = PolicyHead(space, config.network.initial_log_std)
        return ("actor", actor), ("critic", ValueHead(make_critic(config.network)))

    def init(self, problem, key):
        return {"values": popart.initial_value_stats(problem.suite.num_tasks)}

    def collections(self, problem):
        if not problem.settings.popart_rate:
            return {}
        return {"popart": popart.initial_layer(problem.suite.num_tasks)}

    def samples(self, problem):
        """Samples T·N that one task contributes to an update."""
        return problem.settings.rollout_length * problem.settings.num_envs

    def check(self, config):
        rate = getattr(config, self.name).popart_rate
        if config.network.critic == "categorical" and rate:
            raise UserError(f"--{self.name}.popart_rate={rate}: PopArt rescales a scalar critic; a "
                            "categorical one has a fixed support")


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


def prepare(problem: Problem, state: TrainState,
            trajectory: Transition) -> tuple[Batch, TrainState]:
    """Values, advantages and normalised inputs of a rollout, and the statistics it updates."""
    def look(obs):
        return observe(problem, state.stats, group(problem, obs))

    obs, final_obs = look(trajectory.obs), look(trajectory.final_obs)
    return_stats = update_stats(state.stats["returns"], trajectory.discounted_return)
    reward = trajectory.reward
    if problem.settings.normalize_returns:
        reward = reward / return_stats.std[:, None]
    now, after = value(problem, state, obs), value(problem, state, final_obs)
    advantage = advantages(reward, ungroup(problem, now), ungroup(problem, after),
                           trajectory.terminated, trajectory.truncated,
                           problem.scalar(state.scalars, "discount"),
                           problem.scalar(state.scalars, "gae_lambda"))
    advantage = group(problem, advantage)
    state = _follow_returns(problem, state, advantage + now)
    values = state.own["values"]
    batch = Batch(obs, group(problem, trajectory.action), group(problem, trajectory.log_prob),
                  values.standardize(now), advantage, values.standardize(advantage + now))
    stats = {"obs": update_stats(state.stats["obs"], trajectory.obs), "returns": return_stats}
    return batch, state.replace(stats=stats)


def value(problem: Problem, state: TrainState, obs: jax.Array) -> jax.Array:
    """Values under the mean weights, in units of return: [M, ..., D] -> [M, ...]."""
    variables = state.agent.variables
    return state.own["values"].restore(standard_value(problem, variables, obs))


def standard_value(problem: Problem, variables: Variables, obs: jax.Array) -> jax.Array:
    """Values under the mean weights as the critic is trained to predict them, [M, ...]."""
    output = problem.network.apply(variables, obs, "critic")["critic"]
    return rescaled(problem, variables, make_critic(problem.config.network).value(output))


def rescaled(problem: Problem, variables: Variables, output: jax.Array) -> jax.Array:
    """A critic's outputs behind PopArt's layer, where there is one."""
    if not problem.settings.popart_rate:
        return output
    return popart.apply_layer(variables["popart"], output)


def critic_error(problem: Problem, batch: Batch, variables: Variables) -> jax.Array:
    """Mean squared error of the values under the mean weights on one group of a batch, [M]."""
    one = jax.tree.map(lambda x: x[:, 0], batch)
    return per_task(jnp.square(standard_value(problem, variables, one.obs) - one.target))


def advantage_of(problem: Problem, batch: Batch) -> jax.Array:
    """A minibatch's advantages [M, G, L], standardised for each task where that is asked for."""
    if not problem.settings.normalize_advantage:
        return batch.advantage
    flat = batch.advantage.reshape(batch.advantage.shape[0], -1)
    return jax.vmap(jax.nn.standardize)(flat).reshape(batch.advantage.shape)


def _follow_returns(problem: Problem, state: TrainState, target: jax.Array) -> TrainState:
    """PopArt's statistics and layer after value targets [M, ...]; the first set them outright."""
    rate, variables = problem.settings.popart_rate, state.agent.variables
    if not rate:
        return state
    stats, layer = popart.follow(state.own["values"], variables["popart"], target,
                                 jnp.where(state.update == 0, 1.0, rate))
    agent = state.agent.replace(variables=variables | {"popart": layer})
    return state.replace(agent=agent, own=state.own | {"values": stats})


def passes(problem: Problem, batch: Any, key: jax.Array, carry: Any,
           step: Callable[[Any, Any, jax.Array], tuple[Any, Metrics]]) -> tuple[Any, Metrics]:
    """Epochs of minibatches: `step(carry, minibatch, key)` -> (carry, metrics [M]).

    Leaves of `batch` lead with [M, G, L]. Metrics come back as [epochs, minibatches, M].
    """
    settings = problem.settings
    size = jax.tree.leaves(batch)[0].shape[2]

    def minibatch_step(carry, x):
        order, key = x
        return step(carry, jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=2), batch), key)

    def epoch(carry, key):
        shuffle_key, noise_key = jax.random.split(key)
        order = jnp.argsort(jax.random.bits(shuffle_key, (size,)))
        keys = jax.random.split(noise_key, settings.minibatches)
        return jax.lax.scan(minibatch_step, carry, (order.reshape(settings.minibatches, -1), keys))

    return jax.lax.scan(epoch, carry, jax.random.split(key, settings.epochs))


def one_minibatch(problem: Problem, batch: Any) -> Any:
    """As many samples of a batch [M, G, L, ...] as a minibatch has, from all of its length."""
    return jax.tree.map(lambda x: x[:, :, ::problem.settings.minibatches], batch)


def num_groups(problem: Problem) -> int:
    """Groups G that the envs of a task are split into for shuffling.

    A batch of products is faster on a CPU than one tall product, which matters for one task. G
    depends on the settings alone, never on the devices, so neither do results.
    """
    settings = problem.settings
    samples = settings.rollout_length * settings.num_envs
    return next(g for g in (8, 4, 2, 1)
                if settings.num_envs % g == 0 and samples // g % settings.minibatches == 0)


def group(problem: Problem, x: jax.Array) -> jax.Array:
    """[T, M, N, ...] -> [M, G, T·N/G, ...]."""
    steps, tasks, envs, *rest = x.shape
    groups = num_groups(problem)
    x = x.reshape(steps, tasks, groups, envs // groups, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(tasks, groups, -1, *rest)


def ungroup(problem: Problem, x: jax.Array) -> jax.Array:
    """[M, G, T·N/G] -> [T, M, N]."""
    tasks, groups, _ = x.shape
    steps = problem.settings.rollout_length
    x = x.reshape(tasks, groups, steps, -1)
    return jnp.moveaxis(x, 2, 0).reshape(steps, tasks, -1)
