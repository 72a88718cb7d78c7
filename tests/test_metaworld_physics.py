"""Who steps Meta-World's scenes: MuJoCo in C on a CPU, MJX anywhere; the original is the judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import STOPS, TIMEOUT, assert_same_run, error_line

from varshare_jax import config, experiments, suites
from varshare_jax.errors import UserError
from varshare_jax.playing import policies
from varshare_jax.settings import to_dict
from varshare_jax.suites.metaworld import host_call, tasks
from varshare_jax.suites.settings import MetaWorldConfig

pytest.importorskip("metaworld", reason="needs varshare_jax[metaworld]")

from varshare_jax.suites import metaworld
from varshare_jax.suites.metaworld.physics import rounded_off
from varshare_jax.suites.metaworld.suite import MetaWorldSuite
from varshare_jax.validation import metaworld as parity

STEPS = 20


def keys(seed, *shape):
    return jax.random.split(jax.random.key(seed), shape)


def options(physics, **changes):
    return MetaWorldConfig(physics=physics, **changes)


@pytest.mark.parametrize("name", ["push", "door-open", "drawer-close", "button-press-topdown",
                                  "peg-insert-side", "window-close"])
def test_recorded_actions_lead_where_they_led_in_the_original(name):
    """Every scene, 120 scripted steps: all that float32 can tell is the same."""
    found = parity.compare_motion(tasks.get(name), 2, 120, "scripted", "mujoco")
    assert max(found["hand_mm_max"], found["object_mm_max"]) < 1e-3
    assert found["reward_max"] < 1e-3
    assert found["same_success"] == 1


def state_after(suite):
    return jax.jit(lambda state, action: suite.physics.step(state, action)[0])


@pytest.fixture(scope="module")
def stepped():
    """MT3's state [3, 4] after some steps, an action, the step and where it leads."""
    suite = metaworld.make("mt3", options("mujoco"))
    state, _ = suite.reset(keys(0, 3, 4))
    step = state_after(suite)
    actions = jax.random.uniform(jax.random.key(1), (STEPS, 3, 4, 4), minval=-1)
    moving = state.physics
    for action in actions:
        moving = step(moving, action)
    return moving, actions[0], step, step(moving, actions[0])


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_step_depends_on_its_arguments_alone(stepped):
    """What was stepped before, in which order and on how many threads is all the same."""
    moving, action, step, expected = stepped
    elsewhere = jax.tree.map(lambda x: x[:, ::-1], moving)
    turned = step(elsewhere, action[:, ::-1])
    assert_same_bits(jax.tree.map(lambda x: x[:, ::-1], turned), expected)
    assert_same_bits(step(moving, action), expected)
    alone = metaworld.make("mt3", options("mujoco", threads=1))
    assert_same_bits(state_after(alone)(moving, action), expected)


def test_seeds_may_be_vmapped(stepped):
    moving, action, step, expected = stepped
    both = jax.tree.map(lambda x: jnp.stack([x, x[:, ::-1]]), (moving, action))
    found = jax.jit(jax.vmap(step))(*both)
    assert_same_bits(jax.tree.map(lambda x: x[0], found), expected)
    assert_same_bits(jax.tree.map(lambda x: x[1][:, ::-1], found), expected)


def test_the_last_bits_are_remembered(stepped):
    """float32 and its rest make a float64 again."""
    moving = stepped[0]
    numbers = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-4, 6).repeat(100)
    parts = rounded_off(numbers).astype(float)
    np.testing.assert_array_equal(numbers.astype(np.float32) + parts[0] + parts[1], numbers)
    assert np.count_nonzero(moving.rest) > moving.rest.size / 8


@pytest.mark.parametrize("engine", ["mjx", "warp"])
def test_another_engine_takes_up_a_state_of_mujocos(engine):
    """One scene, four steps: the hand agrees within 0.2 mm, the puck at rest within 1 mm."""
    if engine == "warp":
        pytest.importorskip("warp")
    chosen, shape = [tasks.get("reach")], (1, 2)
    native, compiled = (MetaWorldSuite("mt1:reach", chosen, options(p)) for p in ("mujoco", engine))
    state, _ = native.reset(keys(0, *shape))
    assert (jax.tree.map(jnp.shape, compiled.reset(keys(0, *shape))[0])
            == jax.tree.map(jnp.shape, state))
    ours, theirs = (jax.jit(s.step, compiler_options=dict(s.compiler_options))
                    for s in (native, compiled))
    other = state
    for i in range(4):
        action = jax.random.uniform(jax.random.key(i), (*shape, 4), minval=-1)
        state, out = ours(keys(1, *shape), state, action)
        other, found = theirs(keys(1, *shape), other, action)
    np.testing.assert_allclose(found.obs[..., :4], out.obs[..., :4], atol=2e-4)
    np.testing.assert_allclose(found.obs, out.obs, atol=1e-3)
    np.testing.assert_allclose(found.reward, out.reward, atol=1e-2)


CALLBACKS = """
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec
jax.config.update("jax_num_cpu_devices", 2)
from varshare_jax.suites.metaworld import host_call
host_call.register("twice", lambda x: [2 * x])
halved = lambda x, _: (host_call.call("twice", [x.shape], x)[0] / 2, None)
rolled = jax.vmap(lambda x: jax.lax.scan(halved, x, None, length=200)[0])
spread = jax.shard_map(rolled, mesh=Mesh(np.array(jax.devices()), ("d",)), check_vma=False,
                       in_specs=PartitionSpec("d"), out_specs=PartitionSpec("d"))
x = np.arange(4 * 5000 * 40, dtype=np.float32).reshape(4, 5000, 40)
assert (jax.jit(spread)(x) == x).all()
"""


def test_calls_of_the_host_from_two_devices_end():
    """Megabytes of arguments, four seeds: where `jax.pure_callback` waits for itself for ever."""
    subprocess.run([sys.executable, "-c", CALLBACKS], timeout=TIMEOUT, check=True)


def test_an_error_of_the_host_ends_the_program():
    def fail(x):
        raise RuntimeError("the host gave up")

    host_call.register("fails", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RuntimeError: the host gave up"):
        jax.block_until_ready(jax.jit(lambda x: host_call.call("fails", [(2,)], x))(jnp.ones(2)))
    host_call.register("doubles", lambda x: [2 * x])
    with pytest.raises(jax.errors.JaxRuntimeError, match="only float32 arrays"):
        jax.block_until_ready(
            jax.jit(lambda x: host_call.call("doubles", [(2,)], x))(jnp.arange(2)))


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    """Six updates of four seeds on two devices, with evaluations between."""
    folder = tmp_path_factory.mktemp("metaworld") / "run"
    return tiny(suite="mt1:reach", method="l2_soft", num_seeds=4, run_dir=str(folder),
                total_steps=6 * 16, **{"metaworld.horizon": 5, "run.eval_every": 2})


@pytest.fixture(scope="module")
def runs(cli, settings):
    """The run made in one go, and the same stopped after four updates and resumed."""
    stopped = config.replace(settings, {"run_dir": settings.run_dir + "_stopped"})
    cli(stopped, before="import os, signal" + STOPS["SIGTERM"])
    done = cli.together(((settings,), {}), ((stopped, "--resume"), {}))
    assert [process.returncode for process in done] == [0, 0], done
    assert "resuming at update 4" in done[1].stdout + done[1].stderr
    return Path(settings.run_dir), Path(stopped.run_dir)


def test_two_devices_and_four_seeds_train_and_resume_bit_for_bit(runs):
    assert_same_run(*runs)


def test_resuming_under_another_engine_is_refused_by_name(cli, runs, settings):
    other = config.replace(settings, {"metaworld.physics": "mjx"})
    assert error_line(cli(other, "--resume")) == (
        f"--run_dir={runs[0]}: holds a run with --metaworld.physics=mujoco, now mjx; name another "
        "folder or repeat its settings")


def test_a_plan_knows_its_runs_again_whose_engine_is_the_machines(tmp_path):
    (tmp_path / "small.toml").write_text(
        "title = 'x'\nsuite = 'mt1:reach'\nmethod = 'varshare'\n[variants.a]")
    plan = experiments.load(str(tmp_path / "small.toml"), tmp_path / "out")
    folder = plan.runs[0].folder
    folder.mkdir(parents=True)
    found = to_dict(suites.settle(plan.runs[0].config))
    assert found["metaworld"]["physics"] == "mujoco"
    (folder / "config.json").write_text(json.dumps(found))
    experiments.check(plan)


def test_a_checkpoint_of_one_engine_plays_with_the_other(runs, monkeypatch):
    trained = policies.load(runs[0])
    assert trained.problem.suite.physics.name == "mujoco"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    moved = policies.load(runs[0])
    assert moved.problem.suite.physics.name == "mjx"
    assert_same_bits(moved.player.variables, trained.player.variables)


def test_envs_of_several_seeds_share_one_store_of_contacts():
    """Warp under a further vmap: two seeds of two envs move as each seed by itself."""
    pytest.importorskip("warp")
    suite = MetaWorldSuite("mt1:push", [tasks.get("push")], options("warp"))
    state, _ = jax.vmap(suite.reset)(keys(0, 2, 1, 2))
    action = jax.random.uniform(jax.random.key(1), (2, 1, 2, 4), minval=-1)
    step = state_after(suite)
    together = jax.jit(jax.vmap(lambda s, a: suite.physics.step(s, a)[0]))(state.physics, action)
    for seed in range(2):
        alone = step(jax.tree.map(lambda x, s=seed: x[s], state.physics), action[seed])
        np.testing.assert_allclose(together.qpos[seed], alone.qpos, atol=1e-6)
    assert not np.array_equal(together.qpos[0], together.qpos[1])


def test_engines_that_the_device_cannot_run_are_refused(monkeypatch):
    assert suites.make("mt1:reach").version == "3-mujoco"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert metaworld.physics_here(options("auto")) == "mjx"
    with pytest.raises(UserError, match=r"^--metaworld.physics=mujoco: runs on a CPU, but JAX "
                                        r"computes on a gpu; allowed here: auto, mjx"):
        metaworld.make("mt1:reach", options("mujoco"))
    assert metaworld.physics_here(options("warp")) == "warp"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(UserError, match=r"warp: runs on a CPU or GPU, but JAX computes on a tpu"):
        metaworld.make("mt1:reach", options("warp"))
    stored = config.replace(config.Config(), {"suite": "mt3", "metaworld.physics": "mujoco"})
    assert suites.settle(stored, required=False).metaworld.physics == "mjx"


def test_more_threads_than_cores_are_refused():
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(UserError, match=f"--metaworld.threads=999: .* at most {cores}, the cores"):
        metaworld.make("mt1:reach", options("mujoco", threads=999))
