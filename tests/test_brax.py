"""Brax's environments as suites, and half-cheetahs with physics of their own."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("brax", reason="needs varshare_jax[brax]")
from brax.io import mjcf
from etils import epath

from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.suites import brax, brax_drawing, brax_halfcheetah
from varshare_jax.suites.brax_halfcheetah import NOMINAL, TASKS, HalfcheetahTask
from varshare_jax.types import Continuous

CHANGED = HalfcheetahTask("changed", mass=28.0, gravity=5.0, friction=0.8)
STEPS = 12


def keys(seed, *shape):
    return jax.random.split(jax.random.key(seed), shape)


def compiled(function, suite):
    return jax.jit(function, compiler_options={
        **suite.compiler_options, "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True})


@pytest.fixture(scope="module")
def cheetahs():
    """Brax's own and one of another mass, gravity and friction; reset and step compiled."""
    suite = brax_halfcheetah.make("two", (NOMINAL, CHANGED))
    return suite, compiled(suite.reset, suite), compiled(suite.step, suite)


@pytest.fixture(scope="module")
def originals(cheetahs):
    """Reset and step of brax's environment, and of the one that brax makes of its file with the
    other task's numbers; both take and give tuples of the two."""
    asset = epath.resource_path("brax") / "envs/assets/half_cheetah.xml"
    text = asset.read_text()
    for old, new in (('settotalmass="14"', 'settotalmass="28"'),
                     ('gravity="0 0 -9.81"', 'gravity="0 0 -5"'),
                     ('friction=".4 .1 .1"', 'friction=".8 .1 .1"')):
        assert text.count(old) == 1
        text = text.replace(old, new)
    first, other = (brax.environment("halfcheetah") for _ in range(2))
    with brax._quietly():
        read = mjcf.loads(text, asset_path=asset.parent)
    # Which the environment sets after reading its file, for this engine.
    other.sys = read.tree_replace({"opt.timestep": first.sys.opt.timestep,
                                   "actuator.gear": first.sys.actuator.gear})
    envs, suite = (first, other), cheetahs[0]
    return (compiled(lambda keys: tuple(env.reset(keys[m, 0]) for m, env in enumerate(envs)),
                     suite),
            compiled(lambda states, actions: tuple(
                env.step(state, action) for env, state, action in zip(
                    envs, states, actions, strict=True)), suite))


def test_every_task_has_the_physics_of_a_robot_built_that_way(cheetahs, originals):
    """Observations, rewards and ends over a scripted sequence, contacts included; the states from
    which the two environments of brax step are theirs throughout."""
    _, reset, step = cheetahs
    state, obs = reset(keys(0, 2, 1))
    theirs = originals[0](keys(0, 2, 1))
    rng, paid = np.random.default_rng(0), []
    for t in range(STEPS):
        for m, expected in enumerate(theirs):
            np.testing.assert_allclose(obs[m, 0], expected.obs, rtol=2e-3, atol=2e-3)
        action = rng.uniform(-1, 1, (2, 1, 6)).astype(np.float32)
        state, out = step(keys(t, 2, 1), state, action)
        theirs, obs = originals[1](theirs, (action[0, 0], action[1, 0])), out.obs
        for m, expected in enumerate(theirs):
            np.testing.assert_allclose(out.reward[m, 0], expected.reward, rtol=2e-3, atol=2e-3)
            assert bool(out.terminated[m, 0]) == bool(expected.done)
        paid.append(out.reward[:, 0])
    np.testing.assert_array_equal(out.final_obs, out.obs)
    assert np.abs(np.subtract(*np.transpose(paid))).max() > 0.1, "the two must differ"


def test_a_task_knows_nothing_of_the_others(cheetahs):
    _, reset, step = cheetahs
    state, _ = reset(keys(0, 2, 1))
    one, other = (step(keys(1, 2, 1), state, jnp.ones((2, 1, 6)).at[0].set(x))[1].final_obs
                  for x in (-1.0, 0.5))
    assert np.abs(one[0] - other[0]).max() > 0.1
    np.testing.assert_array_equal(one[1], other[1])


def test_actions_are_clipped_and_what_is_not_finite_is_cut_off(cheetahs):
    _, reset, step = cheetahs
    state, obs = reset(keys(0, 2, 1))
    _, out = step(keys(1, 2, 1), state, 7.0 * jnp.ones((2, 1, 6)))
    _, same = step(keys(1, 2, 1), state, jnp.ones((2, 1, 6)))
    np.testing.assert_array_equal(out.reward, same.reward)
    pipeline = state.brax.pipeline_state
    nowhere = pipeline.x_i.replace(pos=pipeline.x_i.pos.at[1].set(jnp.nan))
    broken = state._replace(brax=state.brax.replace(
        pipeline_state=pipeline.replace(x_i=nowhere)))
    after, cut = step(keys(1, 2, 1), broken, jnp.ones((2, 1, 6)))
    assert cut.truncated[:, 0].tolist() == [False, True]
    assert not cut.terminated.any()
    np.testing.assert_array_equal(cut.final_obs[1], obs[1])
    assert float(cut.reward[1, 0]) == 0.0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, cut)))
    np.testing.assert_array_equal(cut.final_obs[0], same.final_obs[0])


def test_nine_tasks_differ_and_can_be_chosen():
    suite = suites.make("brax_halfcheetah9")
    assert suite.num_tasks == len({task[1:] for task in TASKS}) == 9
    assert suite.task_parameters["mass [kg]"] == tuple(task.mass for task in TASKS)
    inertia, physics = suite._env.sys.link.inertia, suite._physics
    np.testing.assert_allclose(physics["link.inertia.mass"].sum(1), [t.mass for t in TASKS],
                               rtol=1e-5)
    np.testing.assert_allclose(physics["link.inertia.i"][2], 2 * inertia.i)
    few = suite.choose([5, 0])
    assert few.task_names == ("slippery", "nominal")
    slippery, nominal = few._physics["geom_friction"]
    np.testing.assert_allclose(slippery, np.broadcast_to([0.1, 0.1, 0.1], slippery.shape))
    np.testing.assert_array_equal(nominal, suite._env.sys.geom_friction)


def test_a_fall_terminates_and_a_time_limit_truncates():
    """A pendulum that is pushed falls, one that is left alone is still up after eight steps. Two
    seeds as one program do what each does alone."""
    suite = suites.make("brax:inverted_pendulum")
    assert (suite.num_tasks, suite.horizon, suite.action_space) == (1, 1000, Continuous(1))
    suite.horizon = limit = 8
    reset, both = compiled(suite.reset, suite), compiled(jax.vmap(suite.step), suite)
    state, _ = jax.tree.map(lambda *x: jnp.stack(x), *(reset(keys(seed, 1, 2)) for seed in (0, 1)))
    action = jnp.array([[[[1.0], [0.0]]], [[[0.0], [0.0]]]])  # [S, M, N, A]
    ends = []
    for t in range(limit):
        state, out = both(keys(t, 2, 1, 2), state, action)
        done = np.asarray(out.terminated | out.truncated)
        np.testing.assert_array_equal(np.abs(out.final_obs[..., 1]) > 0.2, out.terminated)
        np.testing.assert_array_equal((np.asarray(out.obs) != out.final_obs).any(-1), done)
        assert (np.abs(np.asarray(out.obs))[done] <= 0.01).all(), "new episodes start near 0"
        assert not (out.terminated & out.truncated).any()
        ends.append((out.terminated, out.truncated))
    terminated, truncated = (np.array(x)[:, :, 0] for x in zip(*ends, strict=True))
    assert terminated.any(0).tolist() == [[True, False], [False, False]]
    assert truncated[-1].tolist() == [[False, True], [True, True]]
    assert not truncated[:-1].any()


def test_pictures_are_true_to_scale_and_follow_the_robot(cheetahs):
    suite, reset, _ = cheetahs
    state, _ = reset(keys(0, 2, 1))
    picture = suite.render(state, 1)
    assert (picture.shape, picture.dtype) == ((400, 600, 3), np.uint8)
    sys, links = suite._env.sys, state.brax.pipeline_state.x
    pos, rot = np.array(links.pos[1, 0]), np.array(links.rot[1, 0])
    torso, *_ = brax_drawing.parts(sys, pos, rot)
    forward = [1 - 2 * rot[0, 2] ** 2, 0, -2 * rot[0, 0] * rot[0, 2]]  # turned about y
    np.testing.assert_allclose(torso.ends[0] - torso.ends[1], forward, atol=1e-5)
    assert (torso.link, torso.radius) == (0, pytest.approx(0.046))

    def rows(shift):
        drawn = brax_drawing.draw(sys, pos + shift, rot)
        where = np.nonzero(np.abs(drawn.astype(int) - (31, 78, 121)).sum(2) < 40)
        return where[0].mean(), where[1].mean()

    height, column = rows([0.0, 0.0, 0.0])
    assert rows([0.0, 0.0, 0.5])[0] < height - 30
    np.testing.assert_allclose(rows([3.0, 0.0, 0.0]), (height, column), atol=0.5)


def test_what_is_missing_or_unknown_is_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"--suite=brax:halfcheeta: .*did you mean 'brax:halfchee"):
        suites.make("brax:halfcheeta")
    with pytest.raises(UserError, match="brax:fast: unknown"):
        suites.make("brax:fast")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for found, told in ((missing, ", which is not installed"),
                        (lambda name: "0.12.1", " but 0.12.1 is installed")):
        monkeypatch.setattr(importlib.metadata, "version", found)
        with pytest.raises(UserError, match=rf"need brax>=0\.14\.2{told}.*varshare_jax\[brax\]"):
            suites.make("brax_halfcheetah9")
