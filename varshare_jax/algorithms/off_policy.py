"""What algorithms that learn from a replay have in common.

Every task has a replay of its own, and every batch holds the same number of transitions of each.
"""

import abc
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from varshare_jax.algorithms import descent, objectives
from varshare_jax.algorithms.acting import observe
from varshare_jax.algorithms.base import Algorithm, Problem
from varshare_jax.algorithms.normalization import update_stats
from varshare_jax.algorithms.replay import (
    Batch,
    Experience,
    create,
    insert,
    num_bytes,
    sample,
)
from varshare_jax.algorithms.rollout import collect, episode_metrics
from varshare_jax.errors import UserError
from varshare_jax.methods.base import Metrics, Scalars
from varshare_jax.networks.heads import (
    ActionValueHead,
    ContinuousActionValueHead,
    PolicyHead,
    SquashedPolicyHead,
)
from varshare_jax.networks.network import Heads
from varshare_jax.suites.base import Suite
from varshare_jax.types import Agent, Continuous, Discrete, TrainState

TWINS = "critic", "critic_twin"
"""Two critics are one side: what combines or clips gradients by sides sees them together."""


class Start(NamedTuple):
    """What a gradient step starts from; constants of its loss.

    `own`: what the algorithm keeps beside the replay. `held`: sides that this step does not move.
    """

    agent: Agent
    own: dict[str, Any]
    scalars: Scalars
    held: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A batch, and standard normal noise [M, B, ..., A] of actions drawn after its transitions and
    at them. None for discrete actions, over which expectations are exact.
    """

    batch: Batch
    noise_after: jax.Array | None
    noise: jax.Array | None


class OffPolicy(Algorithm):
    """T steps of every env into the replay, then gradient steps on batches from it."""

    keeps_target = True

    @abc.abstractmethod
    def loss(self, problem: Problem, start: Start, forward: descent.Forward,
             batch: Any) -> tuple[jax.Array, Metrics]:
        """Losses [M] of what `draw` returned, metrics [M]; `value_loss` is that of the critic."""

    def draw(self, problem: Problem, state: TrainState, key: jax.Array) -> Any:
        """Transitions [M, B] as the networks see them; others add the noise that their loss needs.
        """
        settings = problem.settings
        batch = sample(state.own["replay"], key, settings.batch_size, settings.n_step,
                       problem.scalar(state.scalars, "discount"))
        reward = batch.reward
        if settings.normalize_returns:
            reward = reward / state.stats["returns"].std[:, None]
        return batch._replace(obs=observe(problem, state.stats, batch.obs), reward=reward,
                              final_obs=observe(problem, state.stats, batch.final_obs))

    def follow(self, problem: Problem, start: Start, metrics: Metrics) -> dict[str, Any]:
        """`own` after a gradient step of these metrics."""
        return start.own

    def init(self, problem, key):
        settings = problem.settings
        return {"replay": create(_example(problem.suite), problem.suite.num_tasks,
                                 settings.num_envs, settings.replay_length)}

    def samples(self, problem):
        """A task's data are what its replay holds when it is full."""
        return problem.settings.replay_length * problem.settings.num_envs

    def bytes(self, config, suite):
        settings = getattr(config, self.name)
        return num_bytes(_example(suite), suite.num_tasks, settings.num_envs,
                         settings.replay_length)

    def check(self, config):
        if config.network.critic != "scalar":
            raise UserError(f"--network.critic={config.network.critic}: values of actions are "
                            f"scalars in --algorithm={self.name}; use --network.critic=scalar")

    def update(self, problem: Problem, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key, method_key, gap_key, cosine_key = jax.random.split(
            state.key, 6)
        world, trajectory = collect(problem, state, rollout_key)
        stats = {"obs": update_stats(state.stats["obs"], trajectory.obs),
                 "returns": update_stats(state.stats["returns"], trajectory.discounted_return)}
        replay = insert(state.own["replay"], Experience(
            *(getattr(trajectory, name) for name in Experience._fields)))
        state = state.replace(world=world, stats=stats, own=state.own | {"replay": replay})
        before = _start(state)
        after, metrics = _learn(problem, state, before, learn_key)
        other = self.draw(problem, state, gap_key)
        agreement = descent.cosines(
            problem, state.agent, functools.partial(self.loss, problem, before), other, cosine_key,
            state.scalars)

        def gap(variables):
            mean = descent.Forward(problem.network, variables, None)
            return self.loss(problem, after, mean, other)[1]["value_loss"]

        agent, metrics = descent.finish(problem, state, after.agent, metrics, method_key, gap)
        state = state.replace(agent=agent, own=state.own | after.own, key=key,
                              update=state.update + 1)
        return state, episode_metrics(trajectory) | metrics | agreement


def _start(state: TrainState) -> Start:
    own = {name: x for name, x in state.own.items() if name != "replay"}
    return Start(state.agent, own, state.scalars)


def _learn(problem: Problem, state: TrainState, start: Start,
           key: jax.Array) -> tuple[Start, Metrics]:
    """Gradient steps once the replay holds enough; before that none, and metrics of 0."""
    settings, algorithm = problem.settings, problem.algorithm
    delays = algorithm.delays(settings)
    period = max(delays.values(), default=1)

    def steps(carry, x):
        """All that move in every step, `period` - 1 times, and then everything."""
        early, last = (jax.tree.map(lambda leaf, part=part: leaf[part], x)
                       for part in (slice(period - 1), -1))
        if delays:
            carry, _ = jax.lax.scan(functools.partial(_step, problem, state, tuple(delays)), carry,
                                    early)
        return _step(problem, state, (), carry, last)

    def learn(carry):
        indices = state.update * settings.gradient_steps + jnp.arange(settings.gradient_steps) + 1
        keys = jax.random.split(key, settings.gradient_steps)
        each = jax.tree.map(lambda x: x.reshape(-1, period), (indices, keys))
        carry, metrics = jax.lax.scan(steps, carry, each)
        return carry, jax.tree.map(lambda m: m.mean(0), metrics)

    def wait(carry):
        return carry, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype),
                                   jax.eval_shape(learn, carry)[1])

    stored = (state.update + 1) * settings.rollout_length * settings.num_envs
    (agent, own), metrics = jax.lax.cond(stored >= settings.learning_starts, learn, wait,
                                         (start.agent, start.own))
    return start._replace(agent=agent, own=own), metrics


def _step(problem: Problem, state: TrainState, held: tuple[str, ...], carry: Any, x: Any):
    """One gradient step: `carry` is (agent, own), `x` its number, counted from 1, and its key."""
    (agent, own), (index, key) = carry, x
    algorithm = cast(OffPolicy, problem.algorithm)
    start = Start(agent, own, state.scalars, held)
    draw_key, noise_key = jax.random.split(key)
    loss = functools.partial(algorithm.loss, problem, start)
    agent, metrics = descent.step(problem, agent, loss, algorithm.draw(problem, state, draw_key),
                                  noise_key, state.scalars, problem.learning_rate(state),
                                  held=held)
    due = index % problem.settings.target_every == 0
    share = jnp.where(due, problem.scalar(state.scalars, "target_rate"), 0.0)
    agent = agent.replace(target=objectives.polyak(agent.target, agent.variables, share))
    return (agent, algorithm.follow(problem, start, metrics)), metrics


def with_noise(problem: Problem, batch: Batch, key: jax.Array, *draws: int) -> Sample:
    """A batch with noise of so many `draws` of an action at each observation (of one by default).
    """
    space = problem.suite.action_space
    if isinstance(space, Discrete):
        return Sample(batch, None, None)
    tasks, size = batch.reward.shape
    noise = jax.random.normal(key, (tasks, 2, size, *draws, space.size))
    return Sample(batch, noise[:, 0], noise[:, 1])


def taken(apply: Any, batch: Batch, names: tuple[str, ...]) -> list[jax.Array]:
    """What each critic says of the actions that were taken, [M, B]."""
    if jnp.issubdtype(batch.action.dtype, jnp.integer):
        outputs = apply(batch.obs, *names)
        return [objectives.action_value(outputs[name], batch.action) for name in names]
    outputs = apply(batch.obs, *names, action=batch.action)
    return [outputs[name] for name in names]


def stochastic_actor(space: Discrete | Continuous, config: Any) -> Heads:
    """A policy over discrete actions, or one that draws actions in (-1, 1)."""
    log_std = config.network.initial_log_std
    return (("actor", PolicyHead(space, log_std) if isinstance(space, Discrete)
             else SquashedPolicyHead(space.size, log_std)),)


def critics(space: Discrete | Continuous, config: Any, names: tuple[str, ...]) -> Heads:
    """Networks of actions' values.

    Raises UserError where they would have to read continuous actions behind the actor's layers.
    """
    if isinstance(space, Discrete):
        return tuple((name, ActionValueHead(space.n)) for name in names)
    if config.network.trunk == "shared":
        raise UserError(f"--network.trunk=shared: a critic of continuous actions reads them, which "
                        f"the actor does not; use --network.trunk=separate for --algorithm="
                        f"{config.algorithm}")
    return tuple((name, ContinuousActionValueHead(space.size)) for name in names)


def _example(suite: Suite) -> Experience:
    """Shapes of one step of one env."""
    obs, flag = jnp.zeros(suite.observation_size), jnp.zeros((), bool)
    space = suite.action_space
    action = (jnp.zeros((), jnp.int32) if isinstance(space, Discrete) else jnp.zeros(space.size))
    return Experience(obs, action, jnp.zeros(()), flag, flag, obs)
