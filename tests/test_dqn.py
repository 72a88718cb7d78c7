"""DQN on environments with known values, its replay's warm-up, exploration and target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import error_line
from probes import problem_of, train

from varshare_jax import config as C
from varshare_jax.algorithms import acting
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner, make_problem

SETTINGS = {"network.hidden": (16,), "dqn.num_envs": 4, "dqn.rollout_length": 8,
            "dqn.replay_size": 2000, "dqn.learning_starts": 64, "dqn.gradient_steps": 16,
            "dqn.batch_size": 32, "dqn.learning_rate": 1e-2, "dqn.discount": 0.9,
            "dqn.target_rate": 0.05, "dqn.n_step": 1}


def settings(method: str = "independent", **overrides) -> C.Config:
    return C.replace(C.Config(algorithm="dqn", method=method), SETTINGS | overrides)


def values(problem, state, *cues) -> np.ndarray:
    """Q of all actions: [M, len(cues), A]."""
    obs = jnp.broadcast_to(jnp.array(cues, jnp.float32)[:, None], (2, len(cues), 1))
    return np.asarray(problem.network.apply(state.agent.variables, obs, "critic")["critic"])


@pytest.mark.parametrize("method", ["independent", "varshare", "pcgrad"])
def test_policy_takes_the_rewarded_action(method):
    problem, state, _ = train("action", settings(method), 60)
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    chosen = acting.policy(problem, problem.player(state), obs).mode()
    np.testing.assert_array_equal(chosen, [[0, 1], [0, 1]])
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])  # [cue, action]
    np.testing.assert_allclose(values(problem, state, -1, 1), [expected, 2 * expected], atol=0.2)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("double", [True, False])
def test_truncation_bootstraps_and_termination_does_not(n_step, double):
    """Actions do not matter there, so every number of steps has the same value."""
    changes = {"dqn.n_step": n_step, "dqn.double": double}
    problem, state, _ = train("truncate", settings(**changes), 150)
    np.testing.assert_allclose(values(problem, state, 0).mean(-1)[:, 0], [10, 20], rtol=0.06)
    problem, state, _ = train("terminate", settings(**changes), 150)
    expected = np.array([sum(0.9**k for k in range(4 - t)) for t in range(4)])
    found = values(problem, state, 0, 1, 2, 3).mean(-1)
    np.testing.assert_allclose(found, [expected, 2 * expected], rtol=0.08)


def test_nothing_is_learned_until_the_replay_holds_enough():
    learner = Learner(problem_of("cue", settings(**{"dqn.learning_starts": 96})))
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    for stored in (32, 64, 96):
        before, (state, metrics) = state.agent.variables, update(state)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, state.agent.variables)
        assert bool(jnp.isfinite(metrics["loss"]).all())
        assert all(jax.tree.leaves(same)) == (stored < 96) == bool((metrics["loss"] == 0).all())


def test_exploration_falls_linearly_and_evaluations_have_none():
    config = settings(**{"dqn.epsilon_start": 0.9, "dqn.epsilon_end": 0.1,
                         "dqn.epsilon_fraction": 0.5, "total_steps": 2 * 32 * 100})
    problem = problem_of("cue", config)
    state = Learner(problem).init(jax.random.key(0))
    found = [problem.algorithm.exploration(problem, state.replace(update=jnp.int32(u)))
             for u in (0, 25, 50, 99)]
    np.testing.assert_allclose(found, [0.9, 0.5, 0.1, 0.1], rtol=1e-6)
    outputs = {"critic": jnp.array([[0.0, 2.0, 1.0, -1.0]])}
    np.testing.assert_allclose(problem.algorithm.distribution(outputs, 0.4).probs,
                               [[0.1, 0.7, 0.1, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(problem.algorithm.distribution(outputs, None).probs,
                               [[0, 1, 0, 0]], atol=1e-7)


@pytest.mark.parametrize(("every", "rate"), [(1, 0.1), (4, 1.0)])
def test_the_target_moves_by_its_rate_when_due(every, rate):
    config = settings(**{"dqn.target_every": every, "dqn.target_rate": rate,
                         "dqn.gradient_steps": 1, "dqn.learning_starts": 0})
    learner = Learner(problem_of("cue", config))
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    for count in range(1, 6):
        before, (state, _) = state.agent.target, update(state)
        share = rate if count % every == 0 else 0.0
        jax.tree.map(lambda new, old, online, share=share: np.testing.assert_allclose(
            new, old + share * (online - old), atol=1e-7), state.agent.target, before,
            state.agent.variables)


def test_normalised_observations_and_returns_train(tiny):
    learner = Learner.make(tiny(algorithm="dqn", **{
        "dqn.normalize_observations": True, "dqn.normalize_returns": True,
        "dqn.learning_starts": 0, "varshare.controller": "sigma_adaptive",
        "controller.every": 1}))
    _, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    assert bool(jnp.isfinite(metrics["loss"]).all())
    assert bool(jnp.isfinite(metrics["gap"]).all())
    assert bool((metrics["gap"] != 0).all())


@pytest.mark.parametrize(("changes", "told"), [
    ({"suite": "gymnax:Pendulum-v1"}, "--algorithm=dqn: needs discrete actions"),
    ({"dqn.replay_size": 2 * 10**9}, "--dqn.replay_size=2000000000: too much: one seed needs"),
    ({"dqn.replay_size": 100}, "--dqn.replay_size=100: must hold one rollout"),
    ({"dqn.learning_starts": 60_000}, "--dqn.learning_starts=60000: must not exceed"),
    ({"network.critic": "categorical"}, "--network.critic=categorical: "),
])
def test_what_cannot_work_is_refused_before_it_compiles(changes, told):
    with pytest.raises(UserError, match=told.replace("(", r"\(")):
        make_problem(C.replace(C.Config(algorithm="dqn"), changes))


def test_the_command_line_says_so_in_one_line(cli):
    said = error_line(cli("--algorithm=dqn", "--suite=gymnax:Pendulum-v1", "--run_dir=unused"))
    assert said.startswith("--algorithm=dqn: needs discrete actions")
    assert "did you mean 'dqn'" in error_line(cli("--algorithm=dqm", "--run_dir=unused"))
