"""One task's gradient that is not finite reaches nothing that others read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_descent import OPTIONS, RATE, SIZES, fit

from varshare_jax import config as C
from varshare_jax.algorithms import descent
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS
from varshare_jax.types import SHARED
from varshare_jax.variational.controllers.base import Measured
from varshare_jax.variational.controllers.sigma_adaptive import SigmaAdaptive
from varshare_jax.variational.settings import ControllerConfig

BAD, TASKS = 3, 10
CASES = {method: {} for method in ("varshare", "independent", "contextual", "paco", "pcgrad",
                                   "cagrad", "varshare_horseshoe")} | {
    "varshare natural": {"varshare.posterior": "natural"},
    "varshare flipout": {"varshare.estimator": "flipout", "varshare.draws": 2},
    "varshare learned prior": {"varshare.controller": "empirical_bayes"},
    "l2_soft one moment": {"ppo.preconditioner": "shared"}}


def bad_row(x, value=jnp.nan):
    """A leaf [M, ...] with `value` in the first entry of one task."""
    return x.reshape(TASKS, -1).at[BAD, 0].set(value).reshape(x.shape)


def loss(forward, batch):
    """Of one task the loss is the number 0, or finite while its derivative is not: √0 has none."""
    inputs, left_out, rooted = batch
    losses, metrics = fit(forward, inputs)
    logits = forward(inputs[0], "actor")["actor"].logits.reshape(TASKS, -1)
    square = jnp.square(logits - jax.lax.stop_gradient(logits))
    bad = jnp.arange(TASKS) == BAD
    root = jnp.sqrt(jnp.where(rooted & bad[:, None], square, 1.0)).mean(1) - 1
    return jnp.where(left_out & bad, 0.0, losses + root), metrics


@functools.cache
def case(name: str):
    """(its agent, way -> agent after one step and metrics); one program for all ways."""
    learner = Learner.make(C.replace(C.Config(method=name.split()[0]), SIZES | CASES[name]))
    state = learner.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(5))
    obs = jax.random.normal(keys[0], (TASKS, 32, learner.problem.suite.observation_size))
    inputs = obs, 1 + jax.random.normal(keys[1], (TASKS, 32))
    step = jax.jit(lambda agent, batch: descent.step(
        learner.problem, agent, loss, batch, jax.random.key(7), state.scalars, jnp.float32(RATE)),
        compiler_options=OPTIONS)

    def stepped(way: str):
        agent, data = state.agent, inputs
        if way == "in_batch":
            data = jax.tree.map(bad_row, data)
        return step(agent, (data, jnp.bool_(way == "left_out"), jnp.bool_(way == "on_the_way")))

    return state.agent, stepped


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["in_batch", "on_the_way"])
def test_others_step_as_if_the_task_were_not_there(name, way):
    """Where only the way back is not finite and tasks' gradients come summed, nobody moves θ."""
    before, stepped = case(name)
    (after, metrics), (usual, _) = stepped(way), stepped("left_out")
    summed = METHODS[name.split()[0]].combiner == "mean" and name != "independent"
    lost = way == "on_the_way" and summed
    # One second moment for θ and residuals sees that θ's gradient is lost.
    near = {"rtol": 1e-3, "atol": RATE if lost and "moment" in name else 1e-5}
    np.testing.assert_array_equal(metrics["skipped"], lost | (np.arange(TASKS) == BAD))
    assert np.isnan(metrics["loss"][BAD]) or way == "on_the_way"
    for collection, leaves in after.variables.items():
        for now, then, old in zip(*map(jax.tree.leaves, (
                leaves, usual.variables[collection], before.variables[collection])), strict=True):
            if collection == "prior":
                assert np.isfinite(now).all()
            elif collection in SHARED:
                np.testing.assert_allclose(now, old if lost else then, **near)
            else:
                np.testing.assert_allclose(np.delete(now, BAD, 0), np.delete(then, BAD, 0), **near)
                assert np.isfinite(now).all()
    moments = [after.optimizer.mu[name] for name in SHARED if name in after.optimizer.mu]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments))


@pytest.mark.parametrize("name", ["varshare", "pcgrad", "contextual"])
def test_nothing_is_skipped_where_all_is_finite(name):
    _, metrics = case(name)[1]("left_out")
    np.testing.assert_array_equal(metrics["skipped"], np.zeros(TASKS))


@pytest.mark.parametrize(("algorithm", "method"), [
    ("ppo", "varshare"), ("vmpo", "hard_sharing"), ("dqn", "paco"), ("sac", "l2_soft")])
def test_a_task_whose_rewards_are_nan_leaves_the_others_learning(algorithm, method):
    """Whole updates, two seeds in step: a seed without a bad task stays what it was to the bit."""
    sizes = {f"{algorithm}.num_envs": 2, f"{algorithm}.rollout_length": 8, "network.hidden": (8,)}
    replays = algorithm in ("dqn", "sac")
    of_algorithm = ({"gradient_steps": 2, "batch_size": 4, "replay_size": 64,
                     "learning_starts": 16} if replays else {"minibatches": 2, "epochs": 2})
    sizes |= {f"{algorithm}.{name}": value for name, value in of_algorithm.items()}
    if algorithm == "ppo":
        sizes["ppo.target_kl"] = 10.0
    learner = Learner.make(C.replace(C.Config(method=method, algorithm=algorithm), sizes))
    states = [learner.init(jax.random.key(seed)) for seed in (0, 1)]
    sound = jax.tree.map(lambda *x: jnp.stack(x), *states)
    returns = sound.stats["returns"]
    if replays:  # without statistics of returns: what is stored is NaN
        replay = sound.own["replay"]
        steps = replay.steps._replace(reward=replay.steps.reward.at[1, BAD].set(jnp.nan))
        filled = jnp.full_like(replay.filled, replay.steps.reward.shape[-1])
        spoilt = sound.replace(own=sound.own | {"replay": replay.replace(steps=steps,
                                                                         filled=filled)})
        sound = sound.replace(own=sound.own | {"replay": replay.replace(filled=filled)})
    else:
        bad = returns.replace(var=returns.var.at[1, BAD].set(jnp.nan))
        spoilt = sound.replace(stats=sound.stats | {"returns": bad})
    update = jax.jit(jax.vmap(learner.update), compiler_options=OPTIONS)
    (clean, _), (after, metrics) = update(sound), update(spoilt)
    assert metrics["skipped"][1, BAD] > 0
    assert (np.delete(metrics["skipped"], BAD, 1) == 0).all()
    for one, other, start in zip(*(jax.tree.leaves(s.agent.variables["shared"])
                                   for s in (clean, after, sound)), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert np.isfinite(other).all()
        if np.any(one[1] != start[1]):
            assert np.any(other[1] != start[1])


def test_a_task_whose_gap_is_nan_does_not_set_others_priors():
    scalars = C.Config(method="varshare").scalars()
    scalars = {name: jnp.float32(value) for name, value in scalars.items()}
    controller = SigmaAdaptive(ControllerConfig(every=1), 3)
    state = controller.init((), scalars)
    gap = jnp.array([1.0, 2.0, jnp.nan])
    after = controller.update(state, Measured(jnp.int32(1), 2, {}, lambda: gap), scalars)
    assert all(np.isfinite(value).all() for value in after.values())
