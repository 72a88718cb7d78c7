"""Suites against the environments they stand for."""

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.suites import cartpole
from varshare_jax.types import Continuous, Discrete


def keys(seed, *shape):
    return jax.random.split(jax.random.key(seed), shape)


def test_cartpole_follows_gymnasium_with_each_tasks_physics():
    """60 random steps from the same states: observation, reward and termination agree."""
    suite = suites.make("cartpole10")
    state, obs = suite.reset(keys(0, 10, 1))
    step = jax.jit(suite.step)
    actions = np.random.default_rng(0).integers(0, 2, (60, 10))
    references = []
    for m, task in enumerate(cartpole.TASKS):
        env = gymnasium.make("CartPole-v1").unwrapped
        env.reset()
        env.gravity, env.masscart, env.masspole = task.gravity, task.cart_mass, task.pole_mass
        env.length = task.pole_length
        env.total_mass = env.masscart + env.masspole
        env.polemass_length = env.masspole * env.length
        env.state = np.asarray(obs[m, 0], np.float64)
        references.append(env)
    alive = np.ones(10, bool)
    for t, action in enumerate(actions):
        state, out = step(keys(t, 10, 1), state, jnp.array(action)[:, None])
        for m in np.flatnonzero(alive):
            expected, reward, terminated, _, _ = references[m].step(int(action[m]))
            np.testing.assert_allclose(out.final_obs[m, 0], expected, rtol=2e-3, atol=2e-4)
            assert (float(out.reward[m, 0]), bool(out.terminated[m, 0])) == (reward, terminated)
            alive[m] &= not terminated
    assert not alive.all(), "some episodes must have ended for this to mean anything"


def test_derived_parameters_follow_masses_and_length():
    params = suites.make("cartpole10")._params
    np.testing.assert_allclose(params.total_mass, params.masscart + params.masspole)
    np.testing.assert_allclose(params.polemass_length, params.masspole * params.length)
    assert len(set(cartpole.TASKS)) == len({task.name for task in cartpole.TASKS}) == 10


def test_reset_after_an_end_shows_both_observations():
    suite = suites.make("cartpole")
    state, _ = suite.reset(keys(0, 1, 4))
    step = jax.jit(suite.step)
    for t in range(30):
        state, out = step(keys(t + 1, 1, 4), state, jnp.ones((1, 4), jnp.int32))
        done = np.asarray(out.terminated | out.truncated)
        np.testing.assert_array_equal((np.asarray(out.obs) != out.final_obs).any(-1), done)
        assert (np.abs(np.asarray(out.obs))[done] <= 0.05).all(), "a new episode starts near 0"
        assert (np.abs(np.asarray(out.final_obs)[..., 2])[done] > 0.2).all()
    assert int(np.asarray(state.time).max()) < 30


def test_time_limit_truncates_and_does_not_terminate():
    suite = suites.make("gymnax:Pendulum-v1")
    state, _ = suite.reset(keys(0, 1, 2))

    def step(carry, t):
        state, out = suite.step(jax.random.split(jax.random.key(t), (1, 2)), carry,
                                jnp.zeros((1, 2, 1)))
        return state, out

    _, out = jax.lax.scan(step, state, jnp.arange(suite.horizon))
    assert not out.terminated.any()
    np.testing.assert_array_equal(out.truncated[:, 0, 0], np.arange(suite.horizon) == 199)


def test_continuous_actions_reach_the_bounds_of_the_environment():
    suite = suites.make("gymnax:Pendulum-v1")
    assert suite.action_space == Continuous(1)
    to_env = jax.vmap(suite._to_env)(jnp.array([[-5.0], [-1.0], [0.0], [0.5], [1.0]]))
    np.testing.assert_allclose(to_env[:, 0], [-2, -2, 0, 1, 2])


@pytest.mark.parametrize("name", ["cartpole", "gymnax:Acrobot-v1", "gymnax:MountainCar-v0",
                                  "gymnax:MountainCarContinuous-v0", "gymnax:Pendulum-v1"])
def test_one_task_suites_step(name):
    suite = suites.make(name)
    assert suite.num_tasks == 1
    state, obs = suite.reset(keys(0, 1, 3))
    assert obs.shape == (1, 3, suite.observation_size)
    discrete = isinstance(suite.action_space, Discrete)
    action = jnp.zeros((1, 3), jnp.int32) if discrete else jnp.zeros((1, 3, 1))
    _, out = jax.jit(suite.step)(keys(1, 1, 3), state, action)
    assert out.obs.shape == out.final_obs.shape == (1, 3, suite.observation_size)
    assert out.reward.shape == out.terminated.shape == out.truncated.shape == (1, 3)


@pytest.mark.parametrize(("name", "near"), [("cartpole1", "cartpole"),
                                            ("gymnax:Pendulum", "gymnax:Pendulum-v1")])
def test_unknown_suites_are_answered_with_the_nearest(name, near):
    with pytest.raises(UserError, match=f"did you mean '{near}"):
        suites.make(name)


def test_random_returns_are_those_of_random_actions():
    suite, envs = suites.make("cartpole10"), 512

    def step(carry, key):
        state, total, done = carry
        action_key, step_key = jax.random.split(key)
        action = jax.random.randint(action_key, (10, envs), 0, suite.action_space.n)
        state, out = suite.step(jax.random.split(step_key, (10, envs)), state, action)
        total += jnp.where(done, 0.0, out.reward)
        return (state, total, done | out.terminated | out.truncated), None

    state, _ = suite.reset(keys(0, 10, envs))
    start = state, jnp.zeros((10, envs)), jnp.zeros((10, envs), bool)
    _, total, done = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 300))[0]
    assert done.all()
    np.testing.assert_allclose(total.mean(1), suite.score_range.random, rtol=0.1)
    assert suite.score_range.target == (500.0,) * 10


def test_cartpoles_import_nothing_that_draws():
    """gymnax would import seaborn, and that SciPy and pandas; what it draws with comes late."""
    code = """
import sys
from varshare_jax import suites
from varshare_jax.suites.gymnax import library
suites.make("cartpole10")
print(sorted({"seaborn", "pandas", "matplotlib.pyplot"} & sys.modules.keys()))
pong = library().environments.misc.pong
print(len(pong.sns.color_palette("cubehelix", 3)), pong.plt.figure.__module__)
import seaborn
print(pong.sns.color_palette is seaborn.color_palette, library() is sys.modules["gymnax"])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           timeout=60, check=False)
    assert shown.stdout == "[]\n3 matplotlib.pyplot\nTrue True\n", shown.stderr
