"""LunarLander against Box2D where it is installed, and against what holds without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.suites import lunar_lander
from varshare_jax.suites.lunar_lander import bodies, collision
from varshare_jax.suites.lunar_lander.batching import where_needed
from varshare_jax.suites.lunar_lander.env import draw_start, observe
from varshare_jax.suites.lunar_lander.geometry import Pose, Vec

ENV = lunar_lander.LunarLander()


def test_bodies_have_the_masses_of_box2d():
    """Figures read from Box2D's own bodies."""
    np.testing.assert_allclose([bodies.HULL.mass, bodies.HULL.inertia, bodies.HULL.centre.y],
                               [4.816666603, 0.783880739, 0.10130719], rtol=1e-6)
    np.testing.assert_allclose([bodies.LEG.mass, bodies.LEG.inertia],
                               [0.07111112, 0.00179094705], rtol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_work_is_done_where_it_is_needed(batched):
    """The same as `where` for any number in need, for nested vmaps and for a single one."""
    def twice(x):
        return {"y": 2 * x["x"]}

    x = {"x": jnp.arange(2 * 7.0).reshape(2, 7)}
    for needed in (jnp.zeros(7, bool), jnp.ones(7, bool), jnp.arange(7) % 3 == 1):
        def run(needed, x):
            return where_needed(twice, needed, x, {"y": x["x"]}, chunk=3)["y"]

        if batched:
            y = jax.vmap(run, (0, 1), 1)(needed, x)
            nested = jax.vmap(jax.vmap(run, (0, None)), (None, 0))(needed, {"x": x["x"][0]})
            np.testing.assert_array_equal(nested, jnp.where(needed, 2, 1) * x["x"][0][:, None])
        else:
            y = run(needed, x)
        np.testing.assert_array_equal(y, jnp.where(needed, 2 * x["x"], x["x"]))


@pytest.mark.parametrize(("height", "angle", "points"), [
    (8 / 30 + 0.01, 0.0, 2),  # flat on its foot
    (8 / 30 + 0.03, 0.0, 0),  # beyond the skin
    (0.28, 0.3, 1),  # on one corner
    (2 / 30 + 0.01, np.pi / 2, 2),  # on its side
    (8 / 30 + 0.01, np.pi, 2),  # upside down: its upper corners
])
def test_a_leg_touches_flat_ground_with_its_corners(height, angle, points):
    pose = Pose(Vec(jnp.array([5.0]), jnp.array([height])), jnp.array([angle]))
    edge = collision.Edge(Vec(jnp.array([4.0]), jnp.array([0.0])),
                          Vec(jnp.array([6.0]), jnp.array([0.0])))
    manifold = collision.collide(bodies.LEG, pose, edge)
    found = [int(i[0]) != collision.NO_POINT for i in manifold.identities]
    assert sum(found) == points
    assert found == sorted(found, reverse=True)
    if points:
        assert not manifold.on_polygon[0]
        np.testing.assert_allclose([manifold.normal.x[0], manifold.normal.y[0]], [0, 1], atol=1e-6)


def test_a_peak_pokes_the_side_of_a_leg():
    """The reference face is then the leg's: the constraint holds the peak away from it."""
    pose = Pose(Vec(jnp.array([5.0]), jnp.array([1.0])), jnp.array([np.pi / 2]))
    edge = collision.Edge(Vec(jnp.array([3.0]), jnp.array([-3.0])),
                          Vec(jnp.array([5.0]), jnp.array([1 - 2 / 30 - 0.01])))
    manifold = collision.collide(bodies.LEG, pose, edge)
    assert manifold.on_polygon[0]
    assert collision.separation(bodies.LEG, pose, edge)[0] == pytest.approx(0.01, abs=1e-5)


def fall(env, action, steps, seeds, **options):
    """Outcomes [T, ...] of always the same action."""
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds,)), lunar_lander.Params(**options))
    start = draw_start(jax.random.split(jax.random.key(0), seeds))

    @jax.jit
    def play():
        def step(state, _):
            state, out = env.transition(state, action, jnp.zeros((2, seeds)), params)
            return state, (state, out)

        return jax.lax.scan(step, env.begin(start, params)[1], None, steps)[1]

    return play()


def test_a_falling_lander_obeys_gravity_then_crashes():
    state, out = fall(ENV, jnp.zeros(8, jnp.int32), 400, 8, gravity=-5.0)
    masses = np.array([body.mass for body in bodies.BODIES])[None, :, None]
    momentum = (masses * state.motion.linear.y).sum(1)
    np.testing.assert_allclose(np.diff(momentum[:40], axis=0), -5.0 * bodies.DT * masses.sum(),
                               atol=1e-3)
    ends = np.argmax(np.asarray(out.terminated), 0)
    assert np.asarray(out.terminated).any(0).all()
    assert (np.asarray(out.reward)[ends, np.arange(8)] == -100).all()
    assert np.isfinite(out.observation).all()


def test_suite_starts_ended_episodes_anew():
    suite = suites.make("lunar_lander")
    keys = lambda t: jax.random.split(jax.random.key(t), (1, 32))  # noqa: E731
    state, _ = suite.reset(keys(0))
    step, ended = jax.jit(suite.step), 0
    for t in range(1, 140):
        state, out = step(keys(t), state, jnp.zeros((1, 32), jnp.int32))
        done = np.asarray(out.terminated | out.truncated)
        np.testing.assert_array_equal((np.asarray(out.obs) != out.final_obs).any(-1), done)
        np.testing.assert_array_equal(np.asarray(state.time) == 0, done)
        assert (np.asarray(out.obs)[done][:, 1] > 1.3).all(), "an episode starts at the top"
        ended += done.sum()
    assert ended >= 32


@pytest.mark.parametrize(("gravity", "wind", "turbulence", "error"), [
    (-12.0, 0.0, 0.0, "gravity=-12.0"), (0.0, 0.0, 0.0, "gravity=0.0"),
    (float("nan"), 0.0, 0.0, "gravity=nan"), (-10.0, float("inf"), 0.0, "wind_power=inf")])
def test_impossible_parameters_are_refused(gravity, wind, turbulence, error):
    with pytest.raises(UserError, match=error):
        lunar_lander.check_params(gravity, wind, turbulence)


def test_parameters_beyond_the_recommended_are_warned_of():
    with pytest.warns(UserWarning, match="turbulence_power=2.5: recommended between 0 and 2"):
        lunar_lander.check_params(-10.0, 20.0, 2.5)


def test_twenty_tasks():
    assert len(lunar_lander.TASKS) == len({task.name for task in lunar_lander.TASKS}) == 20
    assert suites.make("lunar_lander20_continuous").action_space.size == 2


def test_free_flight_follows_box2d():
    """The same random numbers and actions: observations agree to 1e-5 for 30 steps."""
    pytest.importorskip("Box2D")
    from varshare_jax.validation.lunar_lander import CONFIGURATIONS, free_flight_error

    early, late = free_flight_error(CONFIGURATIONS["gravity -3, wind 20"], range(8), steps=120)
    assert early <= 1e-5
    assert late <= 1e-3


def test_the_heuristic_fares_as_in_box2d():
    pytest.importorskip("Box2D")
    from varshare_jax.validation import lunar_lander as parity

    seeds = range(48)
    start, dispersion = parity.streams(seeds, wind=False)
    ours = parity.play(ENV, parity.params_of({}, len(seeds)), start, dispersion)
    theirs = parity.Episodes(*map(np.array, zip(
        *(parity.gymnasium_episode(seed, {}) for seed in seeds), strict=True)))
    ours = parity.Episodes(*map(np.asarray, ours))
    assert (ours.outcome == theirs.outcome).mean() >= 0.85
    same = ours.outcome == theirs.outcome
    assert np.median(np.abs(ours.total - theirs.total)[same]) < 10


def test_a_picture_shows_what_is_there():
    suite = suites.make("lunar_lander20")
    state, obs = suite.reset(jax.random.split(jax.random.key(0), (20, 1)))
    picture = suite.render(state, 0)
    assert picture.shape == (400, 600, 3)
    assert picture.dtype == np.uint8
    centre = picture[:40, 270:330].reshape(-1, 3).astype(int)
    assert (np.abs(centre - [122, 108, 220]).sum(1) < 30).sum() > 200, "the hull is at the top"
    flying = state.replace(main=state.main + 1)
    assert (suite.render(flying, 0) != picture).any()
    np.testing.assert_allclose(observe(jax.tree.map(lambda x: x[0, 0], state)), obs[0, 0])
