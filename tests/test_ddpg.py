"""DDPG and TD3 on environments with known values; TD3's targets by hand, its delayed policy."""

import functools

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

SETTINGS = {"network.hidden": (16,), "ddpg.num_envs": 4, "ddpg.rollout_length": 8,
            "ddpg.replay_size": 2000, "ddpg.learning_starts": 64, "ddpg.gradient_steps": 16,
            "ddpg.batch_size": 32, "ddpg.learning_rate": 1e-2, "ddpg.discount": 0.9,
            "ddpg.target_rate": 0.05, "ddpg.exploration_noise": 0.3,
            "ddpg.anneal_learning_rate": True}
TD3 = {"ddpg.twin": True, "ddpg.policy_delay": 2, "ddpg.target_every": 2,
       "ddpg.target_noise": 0.2}
# For products of action and cue, and for data all over the actions.
WIDE = {"network.hidden": (32, 32), "ddpg.learning_rate": 3e-3, "ddpg.learning_starts": 256,
        "ddpg.replay_size": 4000, "ddpg.exploration_noise": 0.5}
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def settings(method: str = "independent", **overrides) -> C.Config:
    return C.replace(C.Config(algorithm="ddpg", method=method), SETTINGS | overrides)


def values(problem, state, *cues) -> np.ndarray:
    """Q of an action that makes no difference: [M, len(cues)]."""
    obs = jnp.broadcast_to(jnp.array(cues, jnp.float32)[:, None], (2, len(cues), 1))
    return np.asarray(problem.network.apply(state.agent.variables, obs, "critic",
                                            action=jnp.full(obs.shape, 0.3))["critic"])


REACHING = [("cagrad", {}), ("varshare", TD3), ("independent", {}), ("independent", TD3)]


@pytest.mark.parametrize(("method", "options"), REACHING if FUZZ > 1 else REACHING[:2])
def test_policy_reaches_the_rewarded_action(method, options):
    problem, state, _ = train("reach", settings(method, **options, **WIDE), 100, size=1)
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    chosen = acting.policy(problem, problem.player(state), obs).mode()[..., 0]
    np.testing.assert_allclose(chosen, [[-0.5, 0.5]] * 2, atol=0.15)


@pytest.mark.parametrize("options", [{}, TD3])
def test_truncation_bootstraps_and_termination_does_not(options):
    problem, state, _ = train("truncate", settings(**options), 150, size=1)
    np.testing.assert_allclose(values(problem, state, 0)[:, 0], [10, 20], rtol=0.08)
    problem, state, _ = train("terminate", settings(**options), 150, size=1)
    expected = np.array([sum(0.9**k for k in range(4 - t)) for t in range(4)])
    np.testing.assert_allclose(values(problem, state, 0, 1, 2, 3), [expected, 2 * expected],
                               rtol=0.1)


@functools.cache
def begun(twin: bool):
    """(problem, state, batch, start) after an update, target and online networks unlike."""
    config = settings(**{"ddpg.learning_starts": 0, "ddpg.batch_size": 6, "ddpg.twin": twin,
                         "ddpg.target_noise": 0.8, "ddpg.target_noise_clip": 0.5})
    learner = Learner(problem_of("terminate", config, 1))
    state, _ = jax.jit(learner.update, compiler_options=OPTIONS)(learner.init(jax.random.key(1)))
    batch = learner.problem.algorithm.draw(learner.problem, state, jax.random.key(2))
    return learner.problem, state, batch, Start(state.agent, {}, state.scalars)


@pytest.mark.parametrize("twin", [False, True])
def test_losses_by_hand(twin):
    problem, state, (batch, noise), start = begun(twin)
    names = ("critic", "critic_twin")[:1 + twin]
    target, online = (functools.partial(problem.network.apply, variables)
                      for variables in (state.agent.target, state.agent.variables))
    shift = np.clip(0.8 * np.asarray(noise), -0.5, 0.5)
    assert (np.abs(shift) == 0.5).any()
    action = np.clip(target(batch.final_obs, "actor")["actor"] + shift, -1, 1)
    future = target(batch.final_obs, *names, action=action)
    goal = batch.reward + batch.discount * np.min([future[name] for name in names], 0)
    q = online(batch.obs, *names, action=batch.action)
    value_loss = sum(np.square(q[name] - goal).mean(1) / 2 for name in names)
    chosen = online(batch.obs, "actor")["actor"]
    policy_loss = -online(batch.obs, "critic", action=chosen)["critic"].mean(1)
    forward = descent.Forward(problem.network, state.agent.variables, None)
    loss, metrics = problem.algorithm.loss(problem, start, forward, (batch, noise))
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy_loss"], policy_loss, rtol=1e-4)
    np.testing.assert_allclose(loss, value_loss + policy_loss, rtol=1e-4)


def test_each_loss_moves_its_own_networks():
    problem, state, batch, start = begun(True)

    def slopes(name):
        def total(variables):
            forward = descent.Forward(problem.network, variables, None)
            return problem.algorithm.loss(problem, start, forward, batch)[1][name].sum()

        grads = jax.grad(total)(state.agent.variables)["task"]
        return {side for side, branch in grads.items()
                if any(bool(jnp.any(x)) for x in jax.tree.leaves(branch))}

    assert slopes("value_loss") == {"critic", "critic_twin", "critic_head", "critic_twin_head"}
    assert slopes("policy_loss") == {"actor", "actor_head"}


def moved(before, after, *names) -> np.ndarray:
    """Largest changes of these networks' parameters."""
    return np.array([max(float(jnp.abs(x - y).max()) for x, y in zip(
        *(jax.tree.leaves(tree["task"][name]) for tree in (before, after)), strict=True))
        for name in names])


@pytest.mark.parametrize("delay", [1, 2, 4])
def test_a_delayed_policy_takes_one_step_of_adam_for_some_of_the_critics(delay):
    """Adam's step is at most about the rate, and the first, whose bias is corrected, just that."""
    config = settings(**{"ddpg.policy_delay": delay, "ddpg.gradient_steps": 4,
                         "ddpg.learning_starts": 0, "ddpg.learning_rate": 1e-3,
                         "ddpg.adam_epsilon": 1e-12})
    learner = Learner(problem_of("reach", config, 1))
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update, compiler_options=OPTIONS)(state)
    actor, critic = moved(state.agent.variables, after.agent.variables, "actor_head",
                          "critic_head")
    assert critic > 2.5e-3
    if delay == 4:
        np.testing.assert_allclose(actor, 1e-3, rtol=1e-3)
    assert (4 // delay - 0.5) * 1e-3 < actor < (4 // delay + 0.01) * 1e-3
    np.testing.assert_array_equal(metrics["gradient_steps"], 4)


def test_what_is_held_keeps_its_moments_and_costs_no_norm():
    """A penalty alone would move the policy's residuals in the steps that it sits out."""
    config = settings("l2_soft", **{"ddpg.policy_delay": 2, "l2_soft.penalty": 10.0})
    problem = problem_of("reach", config, 1)
    state = Learner(problem).init(jax.random.key(0))
    state = state.replace(agent=state.agent.replace(variables=jax.tree.map(
        lambda x: x + 0.1, state.agent.variables)))

    def nothing(forward, batch):
        return jnp.zeros(2), {}

    step = jax.jit(lambda held: descent.step(
        problem, state.agent, nothing, jnp.zeros((2, 1)), jax.random.key(0), state.scalars, 0.1,
        held=("actor",) if held else ()), static_argnums=0, compiler_options=OPTIONS)
    (free, norms), (bound, fewer) = step(False), step(True)
    for tree in (lambda a: a.variables, lambda a: a.optimizer.mu, lambda a: a.optimizer.nu):
        before, all_, some = (tree(agent)["task"] for agent in (state.agent, free, bound))
        for name in before:
            same = [bool((x == y).all()) for x, y in zip(*map(
                jax.tree.leaves, (before[name], some[name])), strict=True)]
            assert all(same) == name.startswith("actor")
            assert not any(bool((x == y).all()) for x, y in zip(*map(
                jax.tree.leaves, (before[name], all_[name])), strict=True))
    assert (fewer["grad_norm_task"] < norms["grad_norm_task"]).all()


def test_exploration_is_uniform_first_and_then_noise_around_the_action():
    problem = problem_of("reach", settings(), 1)  # 32 steps of a task in an update, 64 to wait for
    state = Learner(problem).init(jax.random.key(0))
    outputs = {"actor": jnp.full((2, 20_000, 1), 0.9)}

    def acted(update):
        exploration = problem.algorithm.exploration(problem,
                                                    state.replace(update=jnp.int32(update)))
        policy = problem.algorithm.distribution(outputs, exploration)
        action, _ = policy.sample_and_log_prob(seed=jax.random.key(update))
        assert action.shape == (2, 20_000, 1)
        assert (jnp.abs(action) <= 1).all()
        return action

    for update in (0, 1):
        action = acted(update)
        np.testing.assert_allclose([action.mean(), action.std()], [0, 3**-0.5], atol=0.02)
    action = acted(2)
    np.testing.assert_allclose(jnp.median(action), 0.9, atol=0.01)
    np.testing.assert_allclose(jnp.quantile(action, 0.1587), 0.6, atol=0.02)  # one σ below
    np.testing.assert_allclose((action == 1).mean(), 0.3694, atol=0.01)  # beyond a third of σ
    np.testing.assert_array_equal(problem.algorithm.distribution(outputs, None).mode(),
                                  outputs["actor"])


@pytest.mark.parametrize(("changes", "told"), [
    ({"suite": "cartpole"}, "--algorithm=ddpg: needs continuous actions"),
    ({"network.trunk": "shared"}, "--network.trunk=shared: .*--algorithm=ddpg"),
    ({"ddpg.policy_delay": 3}, "--ddpg.policy_delay=3: must divide --ddpg.gradient_steps=64"),
    ({"network.critic": "categorical"}, "--network.critic=categorical: .*--algorithm=ddpg"),
])
def test_what_cannot_work_is_refused_before_it_compiles(changes, told):
    with pytest.raises(UserError, match=told):
        make_problem(C.replace(C.Config(algorithm="ddpg", suite="gymnax:Pendulum-v1"), changes))


def test_the_preset_is_td3():
    config = C.with_presets(C.Config(), ["td3"])
    assert config.algorithm == "ddpg"
    assert config.ddpg.twin
    assert config.ddpg.policy_delay == config.ddpg.target_every == 2
    assert config.ddpg.target_noise == 0.2
