"""V-MPO on environments with known values, its duals and its target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import problem_of, train

from varshare_jax import config as C
from varshare_jax.algorithms import acting, objectives, on_policy
from varshare_jax.learner import Learner

SETTINGS = {"network.hidden": (16,), "vmpo.num_envs": 8, "vmpo.rollout_length": 16,
            "vmpo.minibatches": 2, "vmpo.learning_rate": 1e-2, "vmpo.discount": 0.9,
            "vmpo.normalize_returns": False, "vmpo.normalize_observations": False}


def settings(method: str = "independent", **overrides) -> C.Config:
    return C.replace(C.Config(algorithm="vmpo", method=method), SETTINGS | overrides)


@pytest.mark.parametrize("method", ["independent", "varshare", "cagrad"])
def test_the_target_takes_the_rewarded_action(method):
    problem, state, metrics = train("action", settings(method), 150)
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    chosen = acting.policy(problem, problem.player(state), obs).mode()
    np.testing.assert_array_equal(chosen, [[0, 1], [0, 1]])
    np.testing.assert_allclose(metrics["return"][-1], [1, 2], atol=0.2)


def test_truncation_bootstraps_and_termination_does_not():
    for kind, expected in (("truncate", [10, 20]), ("terminate", [3.439, 6.878])):
        problem, state, _ = train(kind, settings(), 400)
        obs = jnp.zeros((2, 1, 1))
        found = on_policy.value(problem, state, obs)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=0.08)


def test_the_target_acts_and_is_copied_when_due():
    learner = Learner(problem_of("action", settings(**{"vmpo.target_every": 3})))
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    start = state.agent.variables
    for count in range(1, 7):
        acting = learner.problem.player(state).variables
        jax.tree.map(np.testing.assert_array_equal, acting, state.agent.target)
        before, (state, _) = state.agent.target, update(state)
        expected = state.agent.variables if count % 3 == 0 else before
        jax.tree.map(np.testing.assert_array_equal, state.agent.target, expected)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start, state.agent.variables)
    assert all(jax.tree.leaves(moved))


def test_multipliers_are_each_tasks_own_and_follow_their_bounds():
    """A task whose policy moves beyond a bound pays more for it, one that stays pays less."""
    tight, loose = (train("action", settings(**{"vmpo.epsilon_policy": bound}), 10)
                    for bound in (1e-7, 1e3))
    start = 1.0
    assert (tight[2]["dual_policy"][-1] > start).all()
    assert (loose[2]["dual_policy"][-1] < start).all()
    assert (tight[2]["kl_policy"].mean(0) < loose[2]["kl_policy"].mean(0)).all()
    duals = loose[1].own["duals"]
    assert {name: x.shape for name, x in duals.items()} == {"temperature": (2,), "policy": (2,)}
    temperatures = objectives.dual(duals["temperature"])
    assert (temperatures > 0).all()
    assert temperatures[0] != temperatures[1]


def test_continuous_actions_have_a_bound_for_mean_and_for_covariance(tiny):
    learner = Learner.make(tiny(algorithm="vmpo", suite="gymnax:Pendulum-v1"))
    _, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    assert {"kl_mean", "kl_covariance", "dual_mean", "dual_covariance"} <= metrics.keys()
    assert bool(jnp.isfinite(metrics["loss"]).all())
