"""The step on tasks' losses: what is frozen neither moves nor costs; rates reach their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax import config as C
from varshare_jax.algorithms import ALGORITHMS, descent
from varshare_jax.algorithms.base import per_task
from varshare_jax.algorithms.ppo import PPO
from varshare_jax.learner import Learner, _check_axes
from varshare_jax.variational.gaussian import Scale, is_gaussian

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SIZES = {"network.hidden": (16, 16), "ppo.num_envs": 1, "ppo.rollout_length": 4}
RATE = 0.05


def learner_of(method: str = "varshare", **overrides) -> Learner:
    return Learner.make(C.replace(C.Config(method=method), SIZES | overrides))


def fit(forward: descent.Forward, batch):
    """Values are to be the targets: losses [M]."""
    obs, target = batch
    outputs = forward(obs, "actor", "critic")
    error = per_task(jnp.square(outputs["critic"][..., 0] - target))
    return error + per_task(jnp.square(outputs["actor"].logits)), {"error": error}


def stepper(learner: Learner, collections=None):
    """(agent, scalars) -> (agent, metrics), on a batch that is always the same."""
    shape = learner.problem.suite.num_tasks, 32
    keys = jax.random.split(jax.random.key(5))
    batch = (jax.random.normal(keys[0], (*shape, learner.problem.suite.observation_size)),
             1 + jax.random.normal(keys[1], shape))
    return lambda agent, scalars: descent.step(
        learner.problem, agent, fit, batch, jax.random.key(7), scalars, jnp.float32(RATE),
        collections=collections)


@functools.cache
def started(method: str, preconditioner: str = "own"):
    """A learner, its agent after a step of all collections, scalars; not to be changed."""
    learner = learner_of(method, **{"ppo.preconditioner": preconditioner})
    state = learner.init(jax.random.key(0))
    agent, _ = jax.jit(stepper(learner), compiler_options=OPTIONS)(state.agent, state.scalars)
    return learner, agent, state.scalars


def same(one, other) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]


@pytest.mark.parametrize(("method", "moving", "preconditioner"), [
    *((method, moving, "own") for method in ("varshare", "hard_sharing", "pcgrad", "l2_soft")
      for moving in ("task", "shared")), ("l2_soft", "shared", "shared")])
def test_a_frozen_collection_and_its_moments_stay_as_they_are(method, moving, preconditioner):
    frozen = "shared" if moving == "task" else "task"
    learner, agent, scalars = started(method, preconditioner)
    run = functools.partial(jax.jit, compiler_options=OPTIONS)
    after, metrics = run(stepper(learner, (moving,)))(agent, scalars)
    whole, _ = run(stepper(learner))(agent, scalars)
    for tree in ("variables", "mu", "nu"):
        before, now, then = ((a.variables if tree == "variables" else getattr(a.optimizer, tree))
                             for a in (agent, after, whole))
        assert before.keys() == now.keys()
        assert all(same(before[frozen], now[frozen])), tree
        assert not any(same(before[moving], now[moving])), tree
        for a, b in zip(*map(jax.tree.leaves, (now[moving], then[moving])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=tree)
    assert metrics["loss"].shape == (learner.problem.suite.num_tasks,)


def test_a_frozen_shared_network_costs_no_gradient():
    """Heads alone are tasks' own: without the trunks' backward pass a third of the work is left."""
    learner, agent, scalars = started("hard_sharing")

    def work(collections):
        compiled = jax.jit(stepper(learner, collections), compiler_options=OPTIONS).lower(
            agent, scalars).compile()
        return compiled.cost_analysis()["flops"]

    assert work(("task",)) < 0.5 * work(None)
    grads, _ = jax.eval_shape(lambda agent: descent.gradients(
        learner.problem, agent, lambda forward, _: fit(forward, (
            jnp.zeros((10, 2, 4)), jnp.zeros((10, 2)))), None, jax.random.key(0), scalars,
        ("task",)), agent)
    assert grads.keys() == {"task"}


def test_copies_for_a_combiner_are_not_made_of_what_is_frozen():
    """M gradients of the shared network would be M times its size."""
    learner, agent, scalars = started("pcgrad")
    _, metrics = jax.eval_shape(stepper(learner, ("task",)), agent, scalars)
    assert "conflict" not in metrics
    _, metrics = jax.eval_shape(stepper(learner), agent, scalars)
    assert "conflict" in metrics


@pytest.mark.parametrize("method", ["varshare", "hard_sharing"])
def test_a_task_rate_of_zero_freezes_what_tasks_own(method):
    learner, agent, scalars = started(method)
    step = jax.jit(stepper(learner), compiler_options=OPTIONS)
    after, _ = step(agent, scalars | {"ppo.task_rate": jnp.float32(0)})
    usual, _ = step(agent, scalars)
    assert all(same(agent.variables["task"], after.variables["task"]))
    assert all(same(usual.variables["shared"], after.variables["shared"]))
    assert not any(same(agent.variables["shared"], after.variables["shared"]))


def test_the_rate_of_rho_scales_rho_alone():
    learner, agent, scalars = started("varshare")
    step = jax.jit(stepper(learner), compiler_options=OPTIONS)
    usual, _ = step(agent, scalars)
    slow, _ = step(agent, scalars | {"varshare.rho_rate": jnp.float32(0.25)})
    assert all(same(usual.variables["shared"], slow.variables["shared"]))
    for before, one, other in zip(*(jax.tree.leaves(a.variables["task"], is_leaf=is_gaussian)
                                    for a in (agent, usual, slow)), strict=True):
        np.testing.assert_array_equal(one.mean, other.mean)
        moved = one.rho - before.rho
        assert np.abs(moved).max() > 0.1 * RATE
        np.testing.assert_allclose(other.rho - before.rho, 0.25 * moved, atol=2e-6)


def test_scales_move_at_a_rate_of_their_own():
    learner, agent, scalars = started("varshare_horseshoe")
    step = jax.jit(stepper(learner), compiler_options=OPTIONS)
    usual, _ = step(agent, scalars)
    held, _ = step(agent, scalars | {"horseshoe.rate": jnp.float32(0)})
    for before, one, other in zip(*(jax.tree.leaves(a.variables["task"], is_leaf=is_gaussian)
                                    for a in (agent, usual, held)), strict=True):
        is_scale = isinstance(before, Scale)
        assert all(same(before if is_scale else one, other))
        assert same(before.mean, one.mean) != [True]


@pytest.mark.parametrize("method", ["hard_sharing", "paco"])
def test_the_shares_of_a_step_are_those_of_what_moved(method):
    learner, agent, scalars = started(method)
    after, _ = jax.jit(stepper(learner), compiler_options=OPTIONS)(agent, scalars)

    def share(**moved):
        return descent._movement(learner.problem.network, agent.variables,
                                 agent.variables | moved)["shared_step"]

    new = after.variables
    np.testing.assert_allclose(share(shared=new["shared"]), 1.0, rtol=1e-5)
    np.testing.assert_allclose(share(task=new["task"]), 0.0, atol=1e-6)


def test_the_share_of_a_step_by_hand():
    """Δθ along ΔW_m: of a step (3, 4) of which (3, 0) and (3, 8) are θ's, 9/25 and 41/25."""
    start, step = jnp.ones((2, 2)), jnp.array([3.0, 4.0])
    theirs = start + jnp.array([[3.0, 0.0], [3.0, 8.0]])
    found = descent.shared_step(start, theirs, start + step)
    np.testing.assert_allclose(found["shared_step"], [9 / 25, 41 / 25], rtol=1e-6)


def test_tasks_that_want_the_same_have_gradients_of_cosine_one():
    """Of the shared network, one batch for all; opposite targets turn the critic's around."""
    learner, key = learner_of("l2_soft", **{"gradients.cosines": True}), jax.random.key(0)
    problem, state = learner.problem, learner.init(key)
    agent, scalars = state.agent, state.scalars
    tasks = problem.suite.num_tasks
    row = jax.random.normal(key, (1, 32, problem.suite.observation_size))
    obs = jnp.broadcast_to(row, (tasks, *row.shape[1:]))
    fresh = agent.replace(variables=problem.network.without_residuals(agent.variables))

    @functools.partial(jax.jit, compiler_options=OPTIONS)
    def measure(target):
        return descent.cosines(problem, fresh, fit, (obs, target), key, scalars)

    same_targets = measure(jnp.full((tasks, 32), 1e3))
    np.testing.assert_allclose(same_targets["cosine/actor"], 1.0, rtol=1e-4)
    np.testing.assert_allclose(same_targets["cosine/critic"], 1.0, rtol=1e-4)
    half = jnp.where(jnp.arange(tasks) % 2, 1e3, -1e3)
    opposed = measure(jnp.broadcast_to(half[:, None], (tasks, 32)))
    np.testing.assert_allclose(opposed["cosine/critic"], -1 / (tasks - 1), atol=1e-2)
    np.testing.assert_allclose(opposed["cosine/actor"], 1.0, rtol=1e-4)


@pytest.mark.parametrize(("method", "changes"), [
    ("independent", {"gradients.cosines": True}),
    ("varshare", {"suite": "cartpole", "gradients.cosines": True}), ("varshare", {})])
def test_there_are_no_cosines_without_tasks_that_share(method, changes):
    learner = learner_of(method, **changes)
    assert descent.cosines(learner.problem, None, fit, None, None, None) == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_measures_cosines_where_they_are_asked_for(algorithm):
    suite = "lunar_lander20_continuous" if algorithm == "ddpg" else "cartpole10"
    learner = learner_of(algorithm=algorithm, suite=suite, **{"gradients.cosines": True})
    metrics = jax.eval_shape(lambda key: learner.update(learner.init(key))[1], jax.random.key(0))
    assert metrics["cosine/critic"].shape == (learner.problem.suite.num_tasks,)


class Forgetful(PPO):
    """Keeps something without an axis of tasks."""

    def init(self, problem, key):
        return super().init(problem, key) | {"replay": {"cursor": jnp.zeros(())}}


def test_what_an_algorithm_keeps_leads_with_tasks():
    learner = learner_of()
    broken = Learner(learner.problem._replace(algorithm=Forgetful()))
    with pytest.raises(ValueError, match=r"own\.replay\.cursor has shape \(\); .* the 10 tasks"):
        jax.eval_shape(broken.init, jax.random.key(0))


@pytest.mark.parametrize(("part", "leaf"), [("world", "world.obs"), ("stats", "stats.extra")])
def test_so_do_the_world_and_its_statistics(part, leaf):
    learner = learner_of()
    state = jax.eval_shape(learner.init, jax.random.key(0))
    _check_axes(state, 10)
    wrong = jax.ShapeDtypeStruct((9, 1), jnp.float32)
    changed = (state.world.replace(obs=wrong) if part == "world"
               else state.stats | {"extra": wrong})
    with pytest.raises(ValueError, match=rf"TrainState\.{leaf} has shape \(9, 1\)"):
        _check_axes(state.replace(**{part: changed}), 10)
