"""The Meta-World port against Meta-World: what a laptop can check in a minute or two."""

import functools
import importlib.metadata
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.playing import engines
from varshare_jax.suites.metaworld import make, requirements, rewards, tasks

pytest.importorskip("metaworld", reason="needs varshare_jax[metaworld]")

import mujoco
from scipy.spatial import ConvexHull

from varshare_jax.suites.metaworld import collisions, scenes, shapes
from varshare_jax.suites.metaworld import suite as suite_module
from varshare_jax.suites.settings import MetaWorldConfig
from varshare_jax.validation import metaworld as parity


def keys(seed, *shape):
    return jax.random.split(jax.random.key(seed), shape)


@pytest.mark.parametrize(("name", "version"), [("push", "v2"), ("pick-place", "v1"),
                                               ("door-open", "v2"), ("peg-insert-side", "v2")])
def test_states_of_the_original_are_judged_as_there(name, version):
    """Observation, reward and success of 500 recorded states, scripted and random."""
    with jax.enable_x64(True):
        found = parity.compare_states(tasks.get(name), version, 500)
    assert found["states"] == 500
    assert found["obs_error"] < 1e-9
    assert found["reward_error"] < 1e-5  # scripted actions are float32 there
    assert found["success_differs"] == 0


@pytest.mark.parametrize("name", ["reach", "drawer-close"])
def test_resets_are_those_of_the_original(name):
    found = parity.compare_resets(tasks.get(name), count=500, exact=2)
    assert found["same_range"]
    assert found["fixed_same"]
    assert found["ks_p_min"] > 0.01
    assert found["obs_error_mm"] < 0.1


def test_shaping_functions_have_their_defining_values():
    distance = jnp.array([0.0, 0.05, 0.05 + 0.3, 0.05 + 0.6])
    for sigmoid, twice in (("long_tail", 1 / 37), ("gaussian", 1e-4)):
        value = rewards.tolerance(distance, 0, 0.05, 0.3, sigmoid)
        np.testing.assert_allclose(value, [1, 1, 0.1, twice], rtol=1e-4)
    np.testing.assert_array_equal(rewards.tolerance(distance, 0, 0.05, 0.0), [1, 1, 0, 0])
    a = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(rewards.hamacher(a, jnp.ones(11)), a, rtol=1e-6)
    np.testing.assert_array_equal(rewards.hamacher(a, jnp.zeros(11)), jnp.zeros(11))
    np.testing.assert_array_equal(rewards.hamacher(a, a[::-1]), rewards.hamacher(a[::-1], a))
    zero, one = jnp.array([1.0, 0, 0]), jnp.array([0.0, 1, 2])
    inside = jnp.array([0.25, 0.5, 1.0])
    assert rewards.within_prism(inside, zero, one) == pytest.approx(0.75 * 0.5 * 0.5)
    assert rewards.within_prism(inside + 1, zero, one) == 1


@pytest.mark.parametrize("name", ["push", "door-open", "peg-insert-side", "window-close"])
def test_the_reduced_scene_moves_as_the_original(name):
    """Free motion of the arm in MuJoCo, with both models: fusing and freezing changed nothing."""
    task = tasks.get(name)
    hands = []
    for model in (scenes.original(task.scene),
                  scenes.reduced(task.scene, task.body, scenes.Settings())):
        data = mujoco.MjData(model)
        data.mocap_pos[0], data.mocap_quat[0] = [0.1, 0.55, 0.3], scenes.MOCAP_QUAT
        data.ctrl[:] = 1, -1
        mujoco.mj_step(model, data, nstep=60)
        hands.append(data.body("hand").xpos.copy())
    assert np.linalg.norm(hands[0] - hands[1]) < 1e-5
    masses = [m.body_mass.sum() for m in (scenes.original(task.scene), model)]
    assert masses[1] <= masses[0]  # what is fixed to the world has none there


@pytest.mark.parametrize("name", ["pick-place", "drawer-open", "drawer-close", "window-open",
                                  "window-close"])
def test_what_stands_in_for_the_scene_is_touched_as_the_scene_is(name):
    """Scripted actions lead the reduced scene, in MuJoCo, to where they lead the original."""
    task = tasks.get(name)
    theirs = parity.Original(task)
    obs = theirs.reset(theirs.draw(np.random.default_rng(2)))
    model, data = scenes.reduced(task.scene, task.body, scenes.Settings()), theirs.env.data
    if task.body:
        model.body(task.body).pos = theirs.env.model.body(task.body).pos
    ours, mocap, gaps = mujoco.MjData(model), data.mocap_pos[0].copy(), []
    ours.qpos[:], ours.qvel[:] = data.qpos, data.qvel
    ours.qacc_warmstart[:], start = data.qacc_warmstart, data.qpos[9:12].copy()
    for _ in range(120):
        action = theirs.scripted(obs)
        obs, *_ = theirs.step(action)
        mocap = np.clip(mocap + 0.01 * action[:3], tasks.HAND_LOW, tasks.HAND_HIGH)
        ours.mocap_pos[0], ours.mocap_quat[0] = mocap, scenes.MOCAP_QUAT
        ours.ctrl[:] = action[3], -action[3]
        mujoco.mj_step(model, ours, scenes.FRAME_SKIP)
        gaps.append([np.linalg.norm(ours.body("hand").xpos - data.body("hand").xpos),
                     np.abs(ours.qpos[9:12] - data.qpos[9:12]).max()])
    hand, moved = np.max(gaps, 0)
    assert hand < 0.004
    assert moved < 0.003
    assert np.abs(data.qpos[9:12] - start).max() > 0.03, "it was moved"


def test_a_polytope_has_the_largest_faces_of_the_hull():
    """Of a box without its corners: its six sides alone, then the corners' cuts."""
    rng, ends = np.random.default_rng(0), np.array(list(itertools.product((-1, 1), repeat=3)))
    sides, small = np.array([0.03, 0.04, 0.05]), 0.002
    corners = np.concatenate([ends * (sides - small * np.eye(3)[i]) for i in range(3)])
    points = np.concatenate([corners, 0.5 * rng.uniform(-1, 1, (50, 3)) * sides])
    for faces in (6, 14):
        around = ConvexHull(shapes.polytope(points, faces))
        outside = points @ around.equations[:, :3].T + around.equations[:, 3]
        assert outside.max() < 1e-9
        np.testing.assert_allclose(outside.max(0), 0, atol=1e-9, err_msg="each face touches")
        assert len(np.unique(around.equations.round(6), axis=0)) == faces
    assert around.volume == pytest.approx(ConvexHull(corners).volume)


def overlaps(directions, center, axis, radius, half, vertices):
    """How far a cylinder and a polytope overlap along directions [K, 3]."""
    along = directions @ axis
    across = np.sqrt(np.maximum(1 - along**2, 0))
    return ((directions @ vertices.T).max(1)
            - (directions @ center - half * np.abs(along) - radius * across))


def box_of(size):
    """A box at the origin, of half sizes [3], as MJX's collisions take it."""
    from mujoco.mjx._src import mesh
    from mujoco.mjx._src.collision_types import GeomInfo

    box = mesh.box(GeomInfo(jnp.zeros((1, 3)), jnp.eye(3)[None],
                            jnp.asarray(size, jnp.float32)[None]))
    return jax.tree.map(lambda x: x[0] if x.ndim > 1 and len(x) == 1 else x, box)


def test_cylinders_touch_boxes_where_they_overlap_least():
    """No direction of many separates them sooner, and that of the contact does as soon."""
    from mujoco.mjx._src.collision_types import GeomInfo

    rng, size, (radius, half) = np.random.default_rng(0), np.array([0.045, 0.004, 0.016]), (
        0.02, 0.05)
    box = box_of(size)
    turns = np.linalg.qr(rng.normal(size=(300, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    turns[:100] = np.eye(3)[[2, 0, 1]]  # parallel to a side
    centers = rng.uniform(-1, 1, (300, 3)) * (size + radius)
    distance, _, frame = jax.jit(jax.vmap(lambda pos, mat: collisions.cylinder_convex(
        GeomInfo(pos, mat, jnp.array([radius, half, 0])), box)))(
            jnp.asarray(centers, jnp.float32), jnp.asarray(turns, jnp.float32))
    depths, normals = np.asarray(-distance, float), np.asarray(-frame[:, 0], float)
    directions = rng.normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sooner = []
    for center, turn, depth, normal in zip(centers, turns, depths, normals, strict=True):
        shape = center, turn[:, 2], radius, half, np.asarray(box.vert, float)
        assert overlaps(normal[None], *shape)[0] == pytest.approx(depth, abs=1e-6)
        sooner.append(depth - overlaps(directions, *shape).min())
    assert np.quantile(sooner, 0.95) < 1e-4
    assert np.max(sooner) < 2e-3  # a corner in a rim


PAIR = """<mujoco><worldbody>
<body><freejoint/><geom type="{}" size="{}" margin=".001"/></body>
<body><freejoint/><geom type="box" size=".045 .003 .015"/></body></worldbody></mujoco>"""


def touching_pairs(kind, size, count, tilts, sides):
    """Poses in which a geom and one of a box's `sides` overlap by up to 3 mm or are less than 1 mm
    apart, tilted by a draw of `tilts`: MuJoCo's model and its data, one by one.
    """
    rng, model = np.random.default_rng(0), mujoco.MjModel.from_xml_string(PAIR.format(kind, size))
    data, turned = mujoco.MjData(model), np.zeros(4)
    for _ in range(count):
        start, tilt = rng.normal(size=4), rng.choice(tilts)
        data.qpos[3:7] = start / np.linalg.norm(start)
        about_z = rng.uniform(0, np.pi)
        step = np.array([np.cos(about_z), 0, 0, np.sin(about_z)]) + tilt * rng.normal(size=4)
        mujoco.mju_mulQuat(turned, data.qpos[3:7], step / np.linalg.norm(step))
        data.qpos[10:14] = turned
        mujoco.mj_fwdPosition(model, data)
        normal, side = data.geom_xmat[1].reshape(3, 3)[:, rng.choice(sides)], rng.normal(size=3)
        side = 0.01 * (side - (side @ normal) * normal)
        near, far = 0.0, 0.2
        for _ in range(30):
            data.qpos[7:10] = side + (near + far) / 2 * normal
            mujoco.mj_fwdPosition(model, data)
            near, far = ((near + far) / 2, far) if data.ncon else (near, (near + far) / 2)
        data.qpos[7:10] = side + (near - rng.uniform(1e-4, 4e-3)) * normal
        mujoco.mj_fwdPosition(model, data)
        if data.ncon:
            yield model, data


def ours_and_theirs(kind, size, count, tilts, sides=(0, 1, 2)):
    """Contacts of the pairs above in both: numbers [P] of each, errors [P, 3] of the deepest one's
    distance, of the normal, and of the position that is worst matched.
    """
    from mujoco import mjx
    from mujoco.mjx._src import collision_driver

    rows, contacts = [], None
    for model, data in touching_pairs(kind, size, count, tilts, sides):
        if contacts is None:
            ready, blank = mjx.put_model(model), mjx.make_data(model)
            contacts = jax.jit(lambda pos, mat: collision_driver.collision(
                ready, blank.replace(geom_xpos=pos, geom_xmat=mat))._impl.contact)  # noqa: B023
        found = contacts(jnp.asarray(data.geom_xpos, jnp.float32),
                         jnp.asarray(data.geom_xmat.reshape(-1, 3, 3), jnp.float32))
        there = np.asarray(found.dist) < found.includemargin
        points = np.asarray(found.pos)[there]
        if not len(points):
            rows.append((0, data.ncon, 1, 1, 1))
            continue
        missed = [np.linalg.norm(points - c.pos, axis=1).min() for c in data.contact]
        rows.append((len(points), data.ncon,
                     abs(found.dist[there].min() - min(c.dist for c in data.contact)),
                     np.abs(found.frame[there][0, 0] - data.contact[0].frame[:3]).max(),
                     max(missed)))
    return np.array(rows).T


def test_boxes_touch_as_in_mujoco_from_their_margin_on():
    """As many points, as deep and in the same places, of faces, edges and corners."""
    with collisions.ours():
        ours, theirs, depth, normal, place = ours_and_theirs(
            "box", ".02 .01 .03", 300, [0, 0.003, 0.02, 1])
    assert len(np.unique(theirs)) > 4, "from a corner to two whole faces"
    assert (ours == theirs).mean() > 0.98
    assert np.quantile(depth, 0.98) < 2e-6
    assert np.quantile(normal, 0.97) < 1e-3
    assert np.quantile(place, 0.97) < 1e-4


def test_cylinders_lie_on_boxes_as_in_mujoco_from_their_margin_on():
    """On their side: with its contacts after small turns too, three of them at the lower end."""
    with collisions.ours():
        ours, theirs, depth, normal, place = ours_and_theirs(
            "cylinder", ".02 .02", 200, [0.003, 0.05, 0.3], sides=(0, 1))
    assert (theirs > 2).mean() > 0.5
    assert (ours == theirs).mean() > 0.8
    assert np.quantile(depth, 0.95) < 5e-6
    assert np.quantile(normal, 0.9) < 5e-3
    assert np.median(place) < 1e-4


def test_capsules_touch_boxes_from_their_margin_on():
    """MJX has one contact where MuJoCo has two along an edge."""
    with collisions.ours():
        ours, theirs, depth, _, place = ours_and_theirs("capsule", ".01 .02", 200, [0.003, 0.05, 1])
    assert (ours > 0).mean() > 0.9
    assert (ours == theirs).mean() > 0.7
    assert np.median(depth) < 1e-6
    assert np.median(place) < 1e-4


EDGE = """<mujoco><worldbody><geom type="box" size=".1 .1 .1"/>
<body pos="0 0 .147" euler="30 0 0"><freejoint/><geom type="box" size=".05 .06 .02"/></body>
</worldbody></mujoco>"""


def test_a_box_on_its_edge_touches_at_two_points_as_in_mujoco():
    """Which MJX alone counts twice."""
    from mujoco import mjx
    from mujoco.mjx._src import collision_driver

    model = mujoco.MjModel.from_xml_string(EDGE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)

    def count():
        ready, moved = mjx.put_model(model), mjx.put_data(model, data)
        touching = jax.jit(lambda: collision_driver.collision(ready, moved)._impl.contact.dist < 0)
        return int(touching().sum())

    with collisions.ours():
        ours = count()
    assert ours == data.ncon == 2
    assert count() == 4, "nothing is left of it outside"


def test_a_bar_across_a_box_touches_it_at_one_point():
    """A bar that lies across a box and dips by 0.01 touches the edge that it dips over."""
    from mujoco.mjx._src.collision_types import GeomInfo

    box = box_of([0.03, 0.03, 0.004])
    dip = 0.01
    axis = np.array([np.cos(dip), 0, -np.sin(dip)])
    turn = np.stack([[np.sin(dip), 0, np.cos(dip)], [0, 1, 0], axis], 1)
    distance, position, frame = jax.jit(collisions.cylinder_convex)(
        GeomInfo(jnp.array([0.0, 0, 0.0135]), jnp.asarray(turn), jnp.array([0.01, 0.1, 0])), box)
    depth = 0.01 - (0.0095 * np.cos(dip) - 0.03 * np.sin(dip))
    assert float(distance) == pytest.approx(-depth, abs=1e-6)
    np.testing.assert_allclose(frame[0], [-np.sin(dip), 0, -np.cos(dip)], atol=1e-5)
    np.testing.assert_allclose(position, [0.03, 0, 0.004] + depth / 2 * np.asarray(frame[0]),
                               atol=1e-5)


@pytest.fixture(scope="module")
def mt3():
    """MT3 with short episodes and one-hot codes, N = 2, and its compiled step; physics in C."""
    options = MetaWorldConfig(horizon=3, one_hot=True, physics="mujoco")
    suite = make("mt3", options)
    return suite, jax.jit(suite.step, compiler_options=dict(suite.compiler_options))


def test_mt3_steps_and_starts_anew_at_its_horizon(mt3):
    suite, step = mt3
    state, obs = suite.reset(keys(0, 3, 2))
    assert obs.shape == (3, 2, suite.observation_size)
    np.testing.assert_array_equal(obs[:, 0, 39:], np.eye(3))
    first = np.asarray(obs)
    for t in range(3):
        state, out = step(keys(t + 1, 3, 2), state, jnp.full((3, 2, 4), 0.5))
        assert np.isfinite(out.reward).all()
        np.testing.assert_allclose(out.final_obs[..., 18:36], obs[..., :18], atol=1e-6)
        np.testing.assert_array_equal(out.truncated, np.full((3, 2), t == 2))
        obs = out.obs
    assert not out.terminated.any()
    assert (np.asarray(out.final_obs)[..., 0] > first[..., 0]).all(), "the hand has moved along x"
    np.testing.assert_allclose(obs[..., :3], first[..., :3], atol=1e-5)  # it starts at its place
    assert (np.asarray(obs)[..., 36:38] != first[..., 36:38]).all(), "with another goal"
    np.testing.assert_array_equal(state.time, np.zeros((3, 2)))


def test_training_begins_in_the_midst_of_episodes(mt3):
    suite, step = mt3
    state, _ = suite.begin(keys(0, 3, 64))
    counts = np.bincount(np.asarray(state.time).ravel(), minlength=3)
    assert counts.shape == (3,), "all times are before the horizon"
    assert (counts > 30).all(), "64 of each are expected"
    _, out = step(keys(1, 3, 64), state, jnp.zeros((3, 64, 4)))
    np.testing.assert_array_equal(out.truncated, state.time == 2)


def test_training_episodes_may_be_shorter_than_those_of_evaluations():
    options = MetaWorldConfig(horizon=4, training_horizon=2, stagger=False, physics="mujoco")
    suite = make("mt1:push", options)
    step, action = jax.jit(suite.step), jnp.zeros((1, 2, 4))
    for start, expected in ((suite.begin, 2), (suite.reset, 4)):
        state, _ = start(keys(0, 1, 2))
        ends = []
        for t in range(1, 9):
            state, out = step(keys(t, 1, 2), state, action)
            ends += [t] * bool(out.truncated.all())
        assert ends == list(range(expected, 9, expected))


def test_physics_that_leaves_the_finite_numbers_ends_its_episode_alone(mt3):
    suite, step = mt3
    state, _ = suite.reset(keys(0, 3, 2))
    qvel = state.physics.qvel.at[1, 0, 3].set(jnp.nan)
    broken = state._replace(physics=state.physics._replace(qvel=qvel))
    state, out = step(keys(1, 3, 2), broken, jnp.zeros((3, 2, 4)))
    expected = np.zeros((3, 2), bool)
    expected[1, 0] = True
    np.testing.assert_array_equal(out.truncated, expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, out.obs, out.reward)))
    assert out.reward[1, 0] == 0


def test_goals_can_be_hidden():
    task = tasks.get("reach")
    env = parity.port(task, MetaWorldConfig(observe_goal=False))
    _, obs = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs[-3:], np.zeros(3))


def test_the_engine_plays_the_original():
    """Scripted reaching succeeds there; an idle hand does not."""
    suite = make("mt1:reach", MetaWorldConfig(horizon=80))
    scripted = parity.Original(tasks.get("reach")).scripted
    said, rng = [], functools.partial(np.random.default_rng, 0)
    evaluate = engines.make("metaworld")
    played = evaluate(suite, lambda m, obs: np.stack([scripted(x) for x in obs]), 2, rng(),
                      said.append)
    idle = evaluate(suite, lambda m, obs: np.zeros((len(obs), 4)), 2, rng(), said.append)
    assert played["success"].all()
    assert not idle["success"].any()
    assert (played["return"] > idle["return"]).all()
    assert played["length"].tolist() == [[80, 80]]
    assert said[0] == "reach: 2 of 2 episodes, success 1.00"
    with pytest.raises(UserError, match="not cartpole"):
        evaluate(suites.make("cartpole"), None, 1, rng(), print)


@pytest.mark.parametrize(("name", "near"), [("mt1:pick-plac", "mt1:pick-place"), ("mt11", "mt10")])
def test_unknown_tasks_are_answered_with_the_nearest(name, near):
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
        suites.make(name)


def test_missing_packages_and_other_versions_are_named(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version",
                        lambda name: "3.17.0" if name == "mujoco" else "3.0.0")
    with pytest.raises(UserError, match=r"mujoco==3.16.0 but 3.17.0 is installed \(.*weld"):
        requirements.check()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"not installed: pip install 'varshare_jax\[metaworld\]'"):
        suites.make("mt3")


def test_missing_mjx_is_no_matter_to_mujoco(monkeypatch):
    def found(name):
        if name == "mujoco-mjx":
            raise importlib.metadata.PackageNotFoundError(name)
        return requirements._NEEDED[name][0][-1]

    monkeypatch.setattr(importlib.metadata, "version", found)
    requirements.check("mujoco")
    with pytest.raises(UserError, match=r"needs mujoco-mjx==3\.16\.0, which is not installed"):
        requirements.check("mjx")


def test_too_many_envs_are_refused_before_anything_is_compiled(tiny):
    config = tiny(**{"suite": "mt1:reach", "ppo.num_envs": 10**7})
    with pytest.raises(UserError, match=r"--ppo.num_envs=[^:]*: too much: one seed .* GiB"):
        Learner.make(config).init_seeds()


def test_the_compiler_option_goes_where_it_is_known(monkeypatch):
    for version, expected in (("0.10.2", {"xla_cpu_use_fusion_emitters": False}), ("0.11.2", {})):
        monkeypatch.setattr(jax, "__version__", version)
        assert suite_module.compiler_options() == expected
