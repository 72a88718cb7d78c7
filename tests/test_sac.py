"""Soft actor-critic on environments with known values; its losses by hand; its temperatures."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FUZZ
from probes import problem_of, train

from varshare_jax import config as C
from varshare_jax.algorithms import acting, descent
from varshare_jax.algorithms.off_policy import Start
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner, make_problem
from varshare_jax.methods.gradients import side_of
from varshare_jax.variational.gaussian import is_gaussian

SETTINGS = {"network.hidden": (16,), "sac.num_envs": 4, "sac.rollout_length": 8,
            "sac.replay_size": 2000, "sac.learning_starts": 64, "sac.gradient_steps": 16,
            "sac.batch_size": 32, "sac.learning_rate": 1e-2, "sac.discount": 0.9,
            "sac.target_rate": 0.05, "sac.anneal_learning_rate": True}
ALPHA = 0.05  # of policies that are all but greedy and never stop trying
COLD = {"sac.initial_temperature": ALPHA, "sac.temperature_rate": 0.0}
# For products of action and cue, and for data all over the actions.
WIDE = {"network.hidden": (32, 32), "sac.learning_rate": 3e-3, "sac.learning_starts": 256,
        "sac.replay_size": 4000}
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def settings(method: str = "independent", **overrides) -> C.Config:
    return C.replace(C.Config(algorithm="sac", method=method), SETTINGS | overrides)


def values(problem, state, *cues, action=None) -> np.ndarray:
    """The lower critic: [M, len(cues)(, A)]."""
    obs = jnp.broadcast_to(jnp.array(cues, jnp.float32)[:, None], (2, len(cues), 1))
    if action is not None:
        action = jnp.full((2, len(cues), 1), action)
    found = problem.network.apply(state.agent.variables, obs, "critic", "critic_twin",
                                  action=action)
    return np.minimum(found["critic"], found["critic_twin"])


@pytest.mark.parametrize("method", ["independent", "varshare", "pcgrad"] if FUZZ > 1 else [
    "varshare"])
def test_policy_takes_the_rewarded_action(method):
    problem, state, _ = train("action", settings(method, **COLD), 60)
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    chosen = acting.policy(problem, problem.player(state), obs).mode()
    np.testing.assert_array_equal(chosen, [[0, 1], [0, 1]])
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])  # [cue, action]
    np.testing.assert_allclose(values(problem, state, -1, 1), [expected, 2 * expected], atol=0.25)


def test_policy_reaches_the_rewarded_action():
    problem, state, _ = train("reach", settings(**COLD, **WIDE), 100, size=1)
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    chosen = acting.policy(problem, problem.player(state), obs).mode()[..., 0]
    np.testing.assert_allclose(chosen, [[-0.5, 0.5]] * 2, atol=0.15)


@pytest.mark.parametrize("kind", ["truncate", "terminate"])
def test_values_hold_rewards_and_entropy_to_come(kind):
    """Of two actions alike: Q = r + γ (Q' + α log 2), Q' of the next step; none after termination.
    """
    warm = {"sac.initial_temperature": 2.0, "sac.temperature_rate": 0.0}
    problem, state, metrics = train(kind, settings(**warm), 150)
    bonus = 0.9 * 2.0 * np.log(2)
    if kind == "truncate":
        expected = (np.array([[1.0], [2.0]]) + bonus) / 0.1
    else:
        expected = np.array([[sum(0.9**k * (r + bonus) for k in range(3 - t)) + 0.9**(3 - t) * r
                              for t in range(4)] for r in (1.0, 2.0)])
    found = values(problem, state, *range(expected.shape[1])).mean(-1)
    np.testing.assert_allclose(found, expected, rtol=0.06)
    np.testing.assert_allclose(metrics["entropy"][-1], np.log(2), atol=0.02)


def test_truncation_bootstraps_of_continuous_actions():
    """Reward 1 or 2 for ever, whatever the action: the policy's entropy is near log 2, that of a
    uniform one."""
    problem, state, metrics = train("truncate", settings(**COLD), 150, size=1)
    expected = (np.array([1, 2]) + 0.9 * ALPHA * np.log(2)) / 0.1
    np.testing.assert_allclose(values(problem, state, 0, action=0.3)[:, 0], expected, rtol=0.06)
    np.testing.assert_allclose(metrics["entropy"][-1], np.log(2), atol=0.1)


@functools.cache
def begun(size: int, method: str = "independent"):
    """(problem, state, batch, start) after an update, target and online networks unlike."""
    config = settings(method, **{"sac.learning_starts": 0, "sac.batch_size": 6})
    learner = Learner(problem_of("terminate", config, size))
    state, _ = jax.jit(learner.update, compiler_options=OPTIONS)(learner.init(jax.random.key(1)))
    batch = learner.problem.algorithm.draw(learner.problem, state, jax.random.key(2))
    own = {"log_temperature": jnp.log(jnp.array([0.5, 2.0]))}
    return learner.problem, state, batch, Start(state.agent, own, state.scalars)


def losses(problem, start, batch, variables=None):
    forward = descent.Forward(problem.network, variables or start.agent.variables, None)
    return problem.algorithm.loss(problem, start, forward, batch)


@pytest.mark.parametrize("size", [0, 1])
def test_losses_by_hand(size):
    problem, state, (batch, *noise), start = begun(size)
    alpha = np.array([[0.5], [2.0]])
    target, online = (functools.partial(problem.network.apply, variables)
                      for variables in (state.agent.target, state.agent.variables))
    twins = "critic", "critic_twin"

    def soft(apply, obs, index):
        """min Q(s, a) - α log π(a|s), drawn or expected, and entropy."""
        policy = online(obs, "actor")["actor"]
        if not size:
            q = np.minimum(*(apply(obs, *twins)[name] for name in twins))
            p = np.asarray(jax.nn.softmax(policy.logits))
            return (p * (q - alpha[..., None] * np.log(p))).sum(-1), -(p * np.log(p)).sum(-1)
        theirs = distrax.Transformed(distrax.MultivariateNormalDiag(policy.loc, policy.scale),
                                     distrax.Block(distrax.Tanh(), 1))
        action = jnp.tanh(policy.loc + policy.scale * noise[index])
        q = np.minimum(*(apply(obs, *twins, action=action)[name] for name in twins))
        return q - alpha * theirs.log_prob(action), -theirs.log_prob(action)

    goal = batch.reward + batch.discount * soft(target, batch.final_obs, 0)[0]
    outputs = online(batch.obs, *twins, action=batch.action if size else None)
    q = [outputs[name] if size else np.take_along_axis(
        np.asarray(outputs[name]), np.asarray(batch.action)[..., None], -1)[..., 0]
        for name in twins]
    value_loss = sum(np.square(x - goal).mean(1) / 2 for x in q)
    worth, entropy = soft(online, batch.obs, 1)
    loss, metrics = losses(problem, start, (batch, *noise))
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-3)
    np.testing.assert_allclose(metrics["policy_loss"], -worth.mean(1), rtol=1e-3)
    np.testing.assert_allclose(metrics["entropy"], entropy.mean(1), rtol=1e-3)
    np.testing.assert_allclose(loss, value_loss - worth.mean(1), rtol=1e-3)
    assert (batch.discount == 0).any()


@pytest.mark.parametrize("size", [0, 1])
def test_each_loss_moves_its_own_networks(size):
    """Targets are constants, and so are the critics that the policy climbs."""
    problem, state, batch, start = begun(size)

    def slopes(name):
        grads = jax.grad(lambda v: losses(problem, start, batch, v)[1][name].sum())(
            state.agent.variables)["task"]
        return {side: bool(jnp.any(jnp.concatenate([x.ravel() for x in jax.tree.leaves(branch)])))
                for side, branch in grads.items()}

    critics = {"critic", "critic_twin", "critic_head", "critic_twin_head"}
    assert {side for side, moves in slopes("value_loss").items() if moves} == critics
    assert {side for side, moves in slopes("policy_loss").items() if moves} == {
        "actor", "actor_head"}


def test_noise_of_weights_in_actor_and_critics_is_apart():
    """Drawn critics are in no policy's loss, drawn policies in no critic's."""
    problem, state, batch, start = begun(1, "varshare")

    def drawn(*sides):
        def wider(q):
            return q.replace(rho=q.rho + 3.0)

        task = {name: jax.tree.map(wider, branch, is_leaf=is_gaussian)
                if side_of(name) in sides else branch
                for name, branch in state.agent.variables["task"].items()}
        variables = problem.network.sample(state.agent.variables | {"task": task},
                                           jax.random.key(3))
        return losses(problem, start, batch, variables)[1]

    usual, critic, actor = drawn(), drawn("critic"), drawn("actor")
    np.testing.assert_array_equal(usual["policy_loss"], critic["policy_loss"])
    np.testing.assert_array_equal(usual["value_loss"], actor["value_loss"])
    assert (usual["value_loss"] != critic["value_loss"]).all()
    assert (usual["policy_loss"] != actor["policy_loss"]).all()


@pytest.mark.parametrize("size", [0, 1])
def test_temperatures_are_each_tasks_own_and_move_towards_the_target_entropy(size):
    """A policy of less entropy than its target grows warmer, one of more cooler, by the rate."""
    problem, _, _, start = begun(size)
    algorithm, aim = problem.algorithm, 0.5 * np.log(2) if size == 0 else -1.0
    moments = algorithm.init(problem, None)["moments"]
    start = start._replace(own=start.own | {"moments": moments})
    after = algorithm.follow(problem, start, {"entropy": jnp.array([aim - 0.1, aim + 0.1])})
    moved = after["log_temperature"] - start.own["log_temperature"]
    np.testing.assert_allclose(moved, [1e-3, -1e-3], rtol=1e-2)  # Adam's first step
    lost = algorithm.follow(problem, start, {"entropy": jnp.array([jnp.nan, aim + 0.1])})
    np.testing.assert_allclose(lost["log_temperature"] - start.own["log_temperature"],
                               [0, -1e-3], atol=1e-6)


def test_temperatures_bring_the_policy_to_its_target_entropy():
    """Of two actions worth r and 0 the better one is taken with 1 / (1 + exp(-r / α)); 0.6 log 2
    nats are left at r / α = 1.77."""
    config = settings(**{"sac.temperature_rate": 1e-2, "sac.target_entropy_share": 0.6,
                         "sac.anneal_learning_rate": False})
    metrics = train("action", config, 150)[2]
    entropy, temperature = (metrics[name][-60:].mean(0) for name in ("entropy", "temperature"))
    np.testing.assert_allclose(entropy, 0.6 * np.log(2), atol=0.05)
    np.testing.assert_allclose(temperature, [1 / 1.77, 2 / 1.77], rtol=0.2)


def test_the_temperatures_rate_is_its_own():
    """Neither the learning rate nor its annealing changes it."""
    changes = {"sac.learning_starts": 0, "sac.gradient_steps": 1}
    moved = []
    for other in ({}, {"sac.learning_rate": 1e-4, "sac.anneal_learning_rate": False},
                  {"sac.temperature_rate": 2e-3}):
        learner = Learner(problem_of("cue", settings(**changes, **other)))
        state = learner.init(jax.random.key(0))
        after, _ = jax.jit(learner.update, compiler_options=OPTIONS)(state)
        moved.append(np.asarray(after.own["log_temperature"] - state.own["log_temperature"]))
    np.testing.assert_allclose(np.abs(moved), [[1e-3] * 2, [1e-3] * 2, [2e-3] * 2], rtol=1e-2)


@pytest.mark.parametrize(("changes", "told"), [
    ({"network.trunk": "shared", "suite": "gymnax:Pendulum-v1"}, "--network.trunk=shared: "),
    ({"network.critic": "categorical"}, "--network.critic=categorical: .*--algorithm=sac"),
    ({"sac.replay_size": 50}, "--sac.replay_size=50: must hold one rollout"),
    ({"sac.target_entropy_share": 1.5}, "--sac.target_entropy_share=1.5: must lie in"),
    ({"sac.initial_temperature": 0.0}, "--sac.initial_temperature=0.0: must be greater"),
])
def test_what_cannot_work_is_refused_before_it_compiles(changes, told):
    with pytest.raises(UserError, match=told):
        make_problem(C.replace(C.Config(algorithm="sac"), changes))
