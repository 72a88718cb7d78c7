"""Deep Q-learning for M tasks at once (Mnih et al. 2015, "Human-level control through deep
reinforcement learning"), double (van Hasselt et al. 2016, arXiv 1509.06461), from n steps.

Every task has a replay of its own, and every batch holds the same number of transitions of each.
"""

import functools

import distrax
import jax
import jax.numpy as jnp

from varshare_jax.algorithms import descent, objectives
from varshare_jax.algorithms.acting import observe
from varshare_jax.algorithms.base import Algorithm, Problem, per_task
from varshare_jax.algorithms.normalization import update_stats
from varshare_jax.algorithms.replay import Batch, Experience, create, insert, num_bytes, sample
from varshare_jax.algorithms.rollout import collect, episode_metrics
from varshare_jax.algorithms.settings import DQNConfig
from varshare_jax.errors import UserError
from varshare_jax.methods.base import Metrics
from varshare_jax.networks.heads import ActionValueHead
from varshare_jax.suites.base import Suite
from varshare_jax.types import Agent, Discrete, TrainState, Variables


class DQN(Algorithm):
    """T steps of every env into the replay, then gradient steps on batches from it."""

    settings = DQNConfig
    acts_by = ("critic",)
    keeps_target = True

    def heads(self, space, settings):
        return (("critic", ActionValueHead(space.outputs)),)

    def init(self, problem, key):
        settings = problem.settings
        return {"replay": create(_example(problem.suite), problem.suite.num_tasks,
                                 settings.num_envs, settings.replay_length)}

    def samples(self, problem):
        """A task's data are what its replay holds when it is full."""
        return problem.settings.replay_length * problem.settings.num_envs

    def exploration(self, problem, state):
        """ε of the current update, falling linearly."""
        start, end, fraction = (problem.scalar(state.scalars, f"epsilon_{name}")
                                for name in ("start", "end", "fraction"))
        done = jnp.minimum(state.update / problem.num_updates / fraction, 1.0)
        return start + done * (end - start)

    def distribution(self, outputs, exploration):
        """ε-greedy; the best action alone in evaluations."""
        epsilon, q = 0.0 if exploration is None else exploration, outputs["critic"]
        best = jax.nn.one_hot(q.argmax(-1), q.shape[-1])
        return distrax.Categorical(probs=(1 - epsilon) * best + epsilon / q.shape[-1])

    def bytes(self, config, suite):
        settings = config.dqn
        return num_bytes(_example(suite), suite.num_tasks, settings.num_envs,
                         settings.replay_length)

    def check(self, config):
        if config.network.critic != "scalar":
            raise UserError(f"--network.critic={config.network.critic}: values of actions are "
                            "scalars in --algorithm=dqn; use --network.critic=scalar")

    def check_suite(self, suite):
        if not isinstance(suite.action_space, Discrete):
            raise UserError(f"--algorithm=dqn: needs discrete actions, and those of {suite.name} "
                            "are continuous; use --algorithm=ppo or vmpo")

    def update(self, problem: Problem, state: TrainState) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key, method_key, gap_key, cosine_key = jax.random.split(
            state.key, 6)
        world, trajectory = collect(problem, state, rollout_key)
        stats = {"obs": update_stats(state.stats["obs"], trajectory.obs),
                 "returns": update_stats(state.stats["returns"], trajectory.discounted_return)}
        replay = insert(state.own["replay"], Experience(
            *(getattr(trajectory, name) for name in Experience._fields)))
        state = state.replace(world=world, stats=stats, own={"replay": replay})
        agent, metrics = _learn(problem, state, learn_key)
        other = _draw(problem, state, gap_key)
        agreement = descent.cosines(problem, state.agent, functools.partial(
            dqn_loss, problem, state.agent.target), other, cosine_key, state.scalars)
        gap = functools.partial(_td_error, problem, agent.target, other)
        agent, metrics = descent.finish(problem, state, agent, metrics, method_key, gap)
        state = state.replace(agent=agent, key=key, update=state.update + 1)
        return state, episode_metrics(trajectory) | metrics | agreement


def _learn(problem: Problem, state: TrainState, key: jax.Array) -> tuple[Agent, Metrics]:
    """Gradient steps once the replay holds enough; before that none, and metrics of 0."""
    settings = problem.settings
    rate, target_rate = problem.learning_rate(state), problem.scalar(state.scalars, "target_rate")

    def step(agent, x):
        index, key = x
        draw_key, noise_key = jax.random.split(key)
        loss = functools.partial(dqn_loss, problem, agent.target)
        agent, metrics = descent.step(problem, agent, loss, _draw(problem, state, draw_key),
                                      noise_key, state.scalars, rate)
        share = jnp.where(index % settings.target_every == 0, target_rate, 0.0)
        target = jax.tree.map(lambda old, new: old + share * (new - old), agent.target,
                              agent.variables)
        return agent.replace(target=target), metrics

    def learn(agent):
        indices = state.update * settings.gradient_steps + jnp.arange(settings.gradient_steps) + 1
        keys = jax.random.split(key, settings.gradient_steps)
        agent, metrics = jax.lax.scan(step, agent, (indices, keys))
        return agent, jax.tree.map(lambda m: m.mean(0), metrics)

    def wait(agent):
        return agent, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype),
                                   jax.eval_shape(learn, agent)[1])

    stored = (state.update + 1) * settings.rollout_length * settings.num_envs
    return jax.lax.cond(stored >= settings.learning_starts, learn, wait, state.agent)


def _draw(problem: Problem, state: TrainState, key: jax.Array) -> Batch:
    """A batch [M, B] as the networks see it."""
    settings = problem.settings
    batch = sample(state.own["replay"], key, settings.batch_size, settings.n_step,
                   problem.scalar(state.scalars, "discount"))
    reward = batch.reward
    if settings.normalize_returns:
        reward = reward / state.stats["returns"].std[:, None]
    return batch._replace(obs=observe(problem, state.stats, batch.obs), reward=reward,
                          final_obs=observe(problem, state.stats, batch.final_obs))


def dqn_loss(problem: Problem, target: Variables, forward: descent.Forward,
             batch: Batch) -> tuple[jax.Array, Metrics]:
    """Mean Huber loss of the TD errors per task [M] of a batch [M, B]; metrics [M]."""
    q = forward(batch.obs, "critic")["critic"]
    after = problem.network.apply(target, batch.final_obs, "critic")["critic"]
    chosen = forward(batch.final_obs, "critic")["critic"] if problem.settings.double else None
    goal = objectives.q_target(batch.reward, batch.discount, after, chosen)
    loss = per_task(objectives.q_loss(q, batch.action, goal))
    return loss, {"value_loss": loss, "q": per_task(objectives.action_value(q, batch.action))}


def _td_error(problem: Problem, target: Variables, batch: Batch, variables: Variables) -> jax.Array:
    """The loss under the mean weights, [M]."""
    return dqn_loss(problem, target, descent.Forward(problem.network, variables, None), batch)[0]


def _example(suite: Suite) -> Experience:
    """Shapes of one step of one env."""
    obs, flag = jnp.zeros(suite.observation_size), jnp.zeros((), bool)
    return Experience(obs, jnp.zeros((), jnp.int32), jnp.zeros(()), flag, flag, obs)
