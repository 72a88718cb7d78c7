"""PPO's pieces against hand-computed values, and whole runs on environments with known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import policy
from probes import Probe, train

from varshare_jax import config as C
from varshare_jax.algorithms import on_policy
from varshare_jax.algorithms.acting import observe
from varshare_jax.algorithms.rollout import collect
from varshare_jax.learner import Learner
from varshare_jax.methods.gradients import clip_by_task_norm


def test_gae_by_hand_with_termination_and_truncation():
    """Five steps: t=1 truncated (bootstraps from its final value), t=3 terminated (does not)."""
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    value = jnp.array([0.5, 0.6, 0.7, 0.8, 0.9])
    next_value = jnp.array([0.6, 10.0, 0.8, 20.0, 1.0])
    terminated = jnp.array([False, False, False, True, False])
    truncated = jnp.array([False, True, False, False, False])
    g, lam = 0.9, 0.8
    delta = [1 + g * 0.6 - 0.5, 2 + g * 10 - 0.6, 3 + g * 0.8 - 0.7, 4 - 0.8, 5 + g * 1 - 0.9]
    expected = [delta[0] + g * lam * delta[1], delta[1], delta[2] + g * lam * delta[3], delta[3],
                delta[4]]
    result = on_policy.advantages(reward, value, next_value, terminated, truncated, g, lam)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_gae_lambda_one_is_the_discounted_return_minus_value():
    key = jax.random.key(0)
    reward, value = jax.random.normal(key, (2, 6, 3))
    none = jnp.zeros((6, 3), bool)
    last = jnp.ones(3)
    next_value = jnp.concatenate([value[1:], last[None]])
    returns = [sum(0.9**k * reward[t + k] for k in range(6 - t)) + 0.9 ** (6 - t) * last
               for t in range(6)]
    result = on_policy.advantages(reward, value, next_value, none, none, 0.9, 1.0)
    np.testing.assert_allclose(result, jnp.stack(returns) - value, rtol=1e-4, atol=1e-5)


def test_clipping_keeps_tasks_apart():
    grads = {"shared": {"a": jnp.array([3.0, 4.0])},
             "task": {"b": jnp.array([[0.0, 30.0], [0.1, 0.0]]), "c": jnp.array([40.0, 0.0])}}
    clipped, norms = clip_by_task_norm(grads, 1.0, 2)
    np.testing.assert_allclose(clipped["shared"]["a"], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(clipped["task"]["b"], [[0.0, 0.6], [0.1, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(clipped["task"]["c"], [0.8, 0.0], rtol=1e-5)
    np.testing.assert_allclose(norms["grad_norm_task"], [50.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(norms["grad_norm_shared"], [5.0, 5.0], rtol=1e-5)


def trained(kind: str, method: str, updates: int = 150, **overrides):
    return train(kind, C.replace(C.Config(method=method), {
        "network.hidden": (16,), "ppo.num_envs": 8, "ppo.rollout_length": 16,
        "ppo.minibatches": 2, "ppo.learning_rate": 1e-2, "ppo.discount": 0.9,
        "ppo.normalize_returns": False, "ppo.normalize_observations": False,
        "ppo.clip_value": False, **overrides}), updates)


def values(problem, state, *cues):
    obs = jnp.broadcast_to(jnp.array(cues, jnp.float32)[:, None], (2, len(cues), 1))
    obs = observe(problem, state.stats, obs)
    return np.asarray(on_policy.value(problem, state, obs))


CRITICS = {
    "scalar": {}, "categorical": {"network.critic": "categorical", "network.value_bound": 4.0},
    "popart": {"ppo.popart_rate": 0.1}, "shared trunk": {"network.trunk": "shared"},
}


@pytest.mark.parametrize("critic", CRITICS)
def test_value_follows_the_observation(critic):
    problem, state, _ = trained("cue", "independent", **CRITICS[critic])
    np.testing.assert_allclose(values(problem, state, -1, 1), [[-1, 1], [-2, 2]], atol=0.15)


def test_value_is_discounted():
    problem, state, _ = trained("delay", "independent", **{"ppo.gae_lambda": 0.0})
    np.testing.assert_allclose(values(problem, state, 0, 1), [[0.9, 1], [1.8, 2]], atol=0.1)


def test_truncation_bootstraps_and_termination_does_not():
    problem, state, _ = trained("truncate", "independent", 400)
    np.testing.assert_allclose(values(problem, state, 0)[:, 0], [10, 20], rtol=0.05)
    problem, state, _ = trained("terminate", "independent", 400)
    expected = np.array([sum(0.9**k for k in range(4 - t)) for t in range(4)])
    np.testing.assert_allclose(values(problem, state, 0, 1, 2, 3), [expected, 2 * expected],
                               rtol=0.08)


# One of each kind: tests/test_matrix.py has every method learn, this has it learn what is right.
@pytest.mark.parametrize("method", ["varshare", "varshare_lora", "independent", "contextual",
                                    "paco", "soft_modularization", "pcgrad"])
def test_policy_takes_the_rewarded_action(method):
    problem, state, metrics = trained("action", method, **{"ppo.normalize_returns": True})
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    acts = policy(problem.network, state.agent.variables, obs)
    np.testing.assert_array_equal(acts.mode(), [[0, 1], [0, 1]])
    np.testing.assert_allclose(metrics["return"][-1], [1, 2], atol=0.15)


def test_independent_tasks_train_as_if_alone():
    """Task 0 of two is bit-equal whatever happens to task 1: no clip, norm or mean couples them."""
    problem, state, _ = trained("cue", "independent", 5)
    poisoned_suite = Probe("cue")
    original = poisoned_suite.step

    def step(keys, state, action):
        state, out = original(keys, state, action)
        return state, out._replace(reward=out.reward.at[1].mul(1000.0))

    poisoned_suite.step = step
    learner = Learner(problem._replace(suite=poisoned_suite))
    other = learner.init(jax.random.key(0))
    for _ in range(5):
        other, _ = jax.jit(learner.update)(other)
    for a, b in zip(jax.tree.leaves(state.agent.variables),
                    jax.tree.leaves(other.agent.variables), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
        assert a.shape[1:] == (1,) or np.abs(a[1] - b[1]).max() > 1e-6


def test_minibatches_hold_every_task_in_equal_share_and_every_sample_once():
    config = C.replace(C.Config(), {"ppo.num_envs": 6, "ppo.rollout_length": 8})
    problem = Learner.make(config).problem
    steps, tasks, envs = np.meshgrid(range(8), range(10), range(6), indexing="ij")
    code = jnp.array(steps * 10_000 + tasks * 100 + envs, jnp.float32)
    grouped = on_policy.group(problem, code)
    assert (np.asarray(grouped) // 100 % 100 == np.arange(10)[:, None, None]).all()
    assert len(np.unique(grouped)) == code.size
    np.testing.assert_array_equal(on_policy.ungroup(problem, grouped), code)


def test_first_ratio_is_one_without_noise():
    """Acting and learning with the same weights: PPO's ratio starts at exactly 1."""
    for overrides in ({"varshare.learn_with": "mean"}, {"varshare.sigma_init": 1e-12}):
        _, _, metrics = trained("cue", "varshare", 2, **overrides)
        np.testing.assert_allclose(metrics["first_ratio_std"], 0, atol=1e-5)
    _, _, metrics = trained("cue", "varshare", 2, **{"varshare.sigma_init": 0.1})
    assert float(metrics["first_ratio_std"].min()) > 1e-3


def test_target_kl_stops_the_epochs():
    rates = {"ppo.learning_rate": 0.1, "ppo.epochs": 8}
    _, free, _ = trained("action", "independent", 1, **rates)
    _, stopped, _ = trained("action", "independent", 1, **rates, **{"ppo.target_kl": 1e-9})
    _, start, _ = trained("action", "independent", 1, **{**rates, "ppo.learning_rate": 1e-30})

    def moved(state):
        pairs = zip(jax.tree.leaves(state.agent.variables),
                    jax.tree.leaves(start.agent.variables), strict=True)
        return max(float(jnp.abs(a - b).max()) for a, b in pairs)

    assert 0 < moved(stopped) < 0.5 * moved(free)


def test_scalars_are_traced_and_vmappable_beside_seeds():
    """One compiled update serves a vector of learning rates, β and clips."""
    config = C.replace(C.Config(num_seeds=2, total_steps=10**6), {
        "network.hidden": (8,), "ppo.num_envs": 2, "ppo.rollout_length": 8,
        "ppo.minibatches": 2, "ppo.epochs": 1})
    learner = Learner.make(config)
    sweep = {"ppo.learning_rate": jnp.array([0.0, 1e-2]), "varshare.beta": jnp.array([1.0, 5.0])}
    state = learner.init_seeds(sweep)
    compiled = jax.jit(jax.vmap(learner.update)).lower(state).compile()
    after, metrics = compiled(state)
    frozen = jax.tree.map(lambda a, b: np.array_equal(a[0], b[0]), state.agent.variables,
                          after.agent.variables)
    assert all(jax.tree.leaves(frozen)), "a learning rate of 0 must change nothing"
    assert not np.array_equal(state.agent.variables["shared"]["actor"]["0"]["kernel"][1],
                              after.agent.variables["shared"]["actor"]["0"]["kernel"][1])
    ratio = metrics["penalty"][1].mean() / metrics["penalty"][0].mean()
    assert ratio == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("hold", ["rollout", "episode", "step"])
def test_acting_samples_are_held_as_long_as_said(hold):
    """Logits for a constant observation change exactly when the acting sample does."""
    problem, state, _ = trained("truncate", "varshare", 1, **{
        "varshare.act_with": "sample", "varshare.hold": hold, "varshare.sigma_init": 0.5})
    _, trajectory = collect(problem, state, jax.random.key(0))
    probability = np.exp(np.asarray(trajectory.log_prob))
    action = np.asarray(trajectory.action)
    of_action_one = np.where(action == 1, probability, 1 - probability)[:, 0]
    changed = np.abs(np.diff(of_action_one, axis=0)) > 1e-5
    ended = np.asarray(trajectory.truncated)[:-1, 0]
    expected = {"rollout": np.zeros_like(changed), "episode": ended,
                "step": np.ones_like(changed)}[hold]
    np.testing.assert_array_equal(changed, expected)
    if hold != "episode":
        np.testing.assert_allclose(np.ptp(of_action_one, axis=1), 0, atol=1e-5)
