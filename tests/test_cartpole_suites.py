"""The cart-poles made to tell methods apart: conflict, family and the hard ten."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from benchmarks import scaling
from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.suites import cartpole, cartpole_conflict, cartpole_family, cartpole_hard
from varshare_jax.suites.cartpole import NOMINAL, CartPoleTask
from varshare_jax.suites.cartpole_disturbed import (
    POLE_ALONE,
    Disturbance,
    DisturbedCartPoleSuite,
)
from varshare_jax.suites.cartpole_family import BOUNDS, FamilyOptions, family_tasks
from varshare_jax.suites.random_play import random_returns


def same_keys(seed, tasks, envs):
    """Keys [M, N], those of every task alike."""
    return jnp.broadcast_to(jax.random.split(jax.random.key(seed), envs), (tasks, envs))


def played(suite, actions, envs):
    """Observations, ends [T, M, N] under actions [T, M, N], every task from the same keys."""
    def step(state, at):
        t, action = at
        state, out = suite.step(same_keys(t, suite.num_tasks, envs), state, action)
        return state, (out.final_obs, out.terminated)

    state, first = suite.reset(same_keys(2**20, suite.num_tasks, envs))
    _, (obs, ended) = jax.jit(lambda s: jax.lax.scan(step, s, (jnp.arange(len(actions)),
                                                               actions)))(state)
    return np.concatenate([first[None], obs]), np.asarray(ended)


def physical(state):
    """Position, velocity, angle and angular velocity [M, N, 4], observed or not."""
    state = getattr(state, "physics", state)
    return np.stack([state.x, state.x_dot, state.theta, state.theta_dot], -1).astype(np.float64)


def some_actions(steps, envs):
    return np.random.default_rng(0).integers(0, 2, (steps, 1, envs))


def test_conflict_is_five_cart_poles_in_both_directions_twice():
    tasks = cartpole_conflict.conflict_tasks()
    assert len(tasks) == len({task.name for task in tasks}) == 20
    assert sum(task.force < 0 for task in tasks) == 10
    for a, b in zip(tasks[::2], tasks[1::2], strict=True):
        assert a._replace(name="") == b._replace(name="")
    for forth, back in zip(tasks[::4], tasks[2::4], strict=True):
        assert forth._replace(name="", force=0) == back._replace(name="", force=0)
        assert (forth.force, back.force) == (10.0, -10.0)
    assert suites.make("cartpole_conflict").task_names == tuple(task.name for task in tasks)


def test_twins_step_identically_and_the_reversed_ones_as_the_opposite_action():
    suite, envs = suites.make("cartpole_conflict"), 3
    actions = np.broadcast_to(some_actions(60, envs), (60, 20, envs))
    obs, ended = played(suite, jnp.array(actions), envs)
    assert ended.any()
    np.testing.assert_array_equal(obs[:, ::2], obs[:, 1::2])
    assert not np.allclose(obs[:, ::4], obs[:, 2::4])
    direction = np.array(suite.task_parameters["force of action 1 [N]"])[:, None] < 0
    mirrored, _ = played(suite, jnp.where(direction, 1 - actions, actions), envs)
    np.testing.assert_allclose(mirrored[:, ::4], mirrored[:, 2::4], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tasks", [cartpole_conflict.conflict_tasks(),
                                   family_tasks(FamilyOptions(6, 1.0, 0))])
def test_every_task_follows_gymnasium(tasks):
    suite = disturbed(tasks, **POLE_ALONE._replace(noise=(0.0,) * 4)._asdict())
    start = physical(suite.reset(same_keys(2**20, suite.num_tasks, 1))[0])
    actions = np.broadcast_to(some_actions(80, 1), (80, suite.num_tasks, 1))
    obs, ended = played(suite, jnp.array(actions), 1)
    for m in range(suite.num_tasks):
        env = suite.gymnasium_env(m)
        env.reset(seed=0)
        env.unwrapped.state = start[m, 0]
        for t in range(int(ended[:, m, 0].argmax()) + 1 if ended[:, m, 0].any() else 80):
            expected, _, terminated, _, _ = env.step(int(actions[t, m, 0]))
            np.testing.assert_allclose(obs[t + 1, m, 0], expected, rtol=2e-3, atol=2e-4)
            assert terminated == ended[t, m, 0]


def test_families_are_nested_deterministic_and_identical_at_a_spread_of_zero():
    many = family_tasks(FamilyOptions(256, 1.0, 3))
    assert family_tasks(FamilyOptions(7, 1.0, 3)) == many[:7]
    assert family_tasks(FamilyOptions(7, 1.0, 4))[0] != many[0]
    assert {task._replace(name="") for task in family_tasks(FamilyOptions(9, 0.0, 3))} == {
        CartPoleTask("", *NOMINAL[1:5])}
    # What this version draws: other numbers are another version of the suite.
    assert many[1] == CartPoleTask("task1_reversed", *many[1][1:5], force=-10.0)
    np.testing.assert_allclose(many[1][1:5], (0.16050041513119243, 0.8792798925516685,
                                              0.08025900435192945, 7.533723889350385), rtol=1e-12)


def test_spread_takes_the_same_tasks_further_out_to_the_bounds():
    near, far = (family_tasks(FamilyOptions(64, spread, 0)) for spread in (0.4, 0.8))
    for field, (low, high) in BOUNDS.items():
        out = np.log([[getattr(task, field) / getattr(NOMINAL, field) for task in tasks]
                      for tasks in (near, far)])
        np.testing.assert_allclose(out[1], 2 * out[0], rtol=1e-9)
        full = [getattr(task, field) for task in family_tasks(FamilyOptions(256, 1.0, 0))]
        assert low <= min(full) < 1.1 * low
        assert 0.9 * high < max(full) <= high


def test_forces_are_reversed_above_half_the_spread_and_evenly_among_the_first_tasks():
    def reversed_(spread):
        return np.array([task.force < 0 for task in family_tasks(FamilyOptions(64, spread, 0))])

    assert [reversed_(s).sum() for s in (0.0, 0.5, 0.75, 1.0)] == [0, 0, 16, 32]
    np.testing.assert_array_equal(reversed_(1.0), np.arange(64) % 2 == 1)
    assert (reversed_(1.0) >= reversed_(0.75)).all()
    assert abs(reversed_(0.75)[:10].sum() - 2.5) < 1


@pytest.mark.parametrize(("settings", "message"), [
    ("taks=3", "taks: unknown; allowed: seed, spread, tasks; did you mean 'tasks'"),
    ("tasks=1", "tasks=1; allowed: a whole number from 2 to 256"),
    ("tasks=3.5", "tasks=3.5; allowed"), ("spread=nan", "spread=nan; allowed: a number from 0"),
    ("spread=1.1", "spread=1.1; allowed"), ("seed=-1", "seed=-1; allowed"), ("seed", "seed=; "),
    ("seed=1,seed=2", "seed is set twice")])
def test_settings_of_a_family_that_are_not_allowed(settings, message):
    with pytest.raises(UserError, match=message):
        suites.make(f"cartpole_family:{settings}")


def test_what_the_name_of_a_family_leaves_out_has_its_default():
    assert suites.make("cartpole_family").name == "cartpole_family:tasks=10,spread=0.5,seed=0"
    short = cartpole_family.parse("cartpole_family:seed=2,tasks=5")
    assert short == FamilyOptions(tasks=5, spread=0.5, seed=2)
    with pytest.raises(UserError, match="did you mean 'cartpole_family'"):
        suites.make("cartpole_famly:tasks=3")


@pytest.mark.parametrize("tasks", scaling.SIZES["tasks"])
def test_the_scaling_benchmark_measures_families_that_exist(tasks):
    assert cartpole_family.parse(f"cartpole_family:tasks={tasks}").tasks == tasks


def regulator(task, time_step, weights):
    """Gains [4] of the linear-quadratic regulator of a cart-pole near its equilibrium."""
    total = task.cart_mass + task.pole_mass
    inertia = task.pole_length * (4 / 3 - task.pole_mass / total)
    lever = task.pole_mass * task.pole_length / total
    a, b = np.eye(4), np.zeros((4, 1))
    a[0, 1] = a[2, 3] = time_step
    a[3, 2] = time_step * task.gravity / inertia
    a[1, 2] = -lever * a[3, 2]
    b[3] = -time_step / (total * inertia)
    b[1] = time_step / total - lever * b[3]
    cost = scipy.linalg.solve_discrete_are(a, b, np.diag(weights), np.array([[0.1]]))
    return np.linalg.solve(0.1 + b.T @ cost @ b, b.T @ cost @ a)[0]


def balanced(suite, tasks, gains, envs=8):
    """Steps [M] that the best of the linear rules `gains` [K, M, D] keeps its envs up on average.

    Their sign is the action.
    """
    def length(gains):
        def step(carry, t):
            state, obs, up = carry
            push = jnp.einsum("mnd,md->mn", obs, gains) < 0
            keys = jax.random.split(jax.random.key(t), up.shape)
            state, out = suite.step(keys, state, (push == right).astype(jnp.int32))
            return (state, out.obs, up & ~out.terminated), up

        state, obs = suite.reset(jax.random.split(jax.random.key(2**20), (len(tasks), envs)))
        start = state, obs, jnp.ones(obs.shape[:2], bool)
        return jax.lax.scan(step, start, jnp.arange(suite.horizon))[1].sum(0).mean(1)

    right = jnp.array([[task.force > 0] for task in tasks])
    return np.asarray(jax.jit(jax.vmap(length))(jnp.array(gains))).max(0)


def of_the_pole(seconds, tasks):
    """Gains [M, 2] of the rule that pushes against angle + `seconds` · angular velocity."""
    return np.broadcast_to([-1.0, -seconds], (len(tasks), 2))


def test_linear_rules_of_the_pole_balance_every_corner_of_the_family_and_the_conflict():
    corners = [CartPoleTask("", *physics, force=force) for physics, force in zip(
        itertools.product(*BOUNDS.values()), itertools.cycle((10.0, -10.0)), strict=False)]
    assert len(corners) == 16
    tasks = (*corners, *cartpole_conflict.conflict_tasks())
    steps = balanced(disturbed(tasks, **POLE_ALONE._asdict()), tasks,
                     [of_the_pole(k, tasks) for k in (0.03, 0.05, 0.08, 0.2, 0.8)])
    assert steps.min() > 600
    assert steps.mean() > 930


def test_one_linear_rule_balances_the_widest_family_but_for_the_direction():
    tasks = family_tasks(FamilyOptions(64, 1.0, 0))
    steps = balanced(disturbed(tasks, **POLE_ALONE._asdict()), tasks, [of_the_pole(0.05, tasks)])
    assert steps.mean() > 960
    as_if_not_reversed = [task._replace(force=10.0) for task in tasks]
    blind = balanced(disturbed(tasks, **POLE_ALONE._asdict()), as_if_not_reversed,
                     [of_the_pole(0.05, tasks)])
    np.testing.assert_allclose(blind[::2], steps[::2])
    assert blind[1::2].max() < 150, "the reversed ones"


def test_linear_controllers_of_noisy_observations_do_well_on_the_hard_ten():
    suite = suites.make("cartpole10_hard")
    steps = balanced(suite, cartpole.TASKS, [
        [regulator(task, cartpole_hard.HARD.time_step, weights) for task in cartpole.TASKS]
        for weights in ((1, 0.1, 100, 1), (10, 1, 100, 1))])
    assert steps.mean() > 800
    assert steps.min() > 350


def disturbed(tasks=cartpole.TASKS, **changes):
    return DisturbedCartPoleSuite("disturbed", tasks, "1", Disturbance(**changes))


def test_without_any_disturbance_the_ten_are_those_of_cartpole10():
    actions = jnp.array(np.broadcast_to(some_actions(30, 2), (30, 10, 2)))
    for ours, theirs in zip(played(disturbed(), actions, 2),
                            played(suites.make("cartpole10"), actions, 2), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_action_takes_effect_after_its_delay_and_nothing_pushes_before():
    plain, late = suites.make("cartpole"), disturbed((NOMINAL,), delay=2)
    actions = jnp.array(some_actions(8, 1))
    obs, _ = played(late, actions, 1)
    np.testing.assert_allclose(obs[0, 0, 0], played(plain, actions, 1)[0][0, 0, 0])
    assert abs(obs[2, 0, 0, 1] - obs[0, 0, 0, 1]) < 0.02, "a push changes the velocity by 0.2"
    state, _ = plain.reset(same_keys(0, 1, 1))
    state = state.replace(**{field: jnp.full((1, 1), obs[2, 0, 0, i]) for i, field in
                             enumerate(("x", "x_dot", "theta", "theta_dot"))})
    for t in range(6):
        state, out = plain.step(same_keys(t, 1, 1), state, actions[t])
        np.testing.assert_allclose(out.final_obs[0, 0], obs[t + 3, 0, 0], rtol=1e-5, atol=1e-6)


def test_pending_actions_end_with_their_episode():
    late = disturbed((NOMINAL,), delay=2)
    state, _ = late.reset(same_keys(0, 1, 1))
    step, pending, ended = jax.jit(late.step), [], []
    for t in range(40):
        state, out = step(same_keys(t, 1, 1), state, jnp.ones((1, 1), jnp.int32))
        pending.append([float(action[0, 0]) for action in state.pending])
        ended.append(bool(out.terminated[0, 0]))
    end = ended.index(True)
    assert pending[0] == [0.5, 1.0]
    assert pending[1:end] == [[1.0, 1.0]] * (end - 1)
    assert pending[end:end + 3] == [[0.5, 0.5], [0.5, 1.0], [1.0, 1.0]]


def test_noise_has_the_standard_deviations_stated_and_leaves_the_state_alone():
    noise = (0.02, 0.1, 0.01, 0.1)
    actions = jnp.array(np.broadcast_to(some_actions(3, 4000), (3, 1, 4000)))
    seen, ended = played(disturbed((NOMINAL,), noise=noise), actions, 4000)
    true, expected = played(disturbed((NOMINAL,)), actions, 4000)
    np.testing.assert_array_equal(ended, expected)
    error = (seen - true)[:, 0]
    np.testing.assert_allclose(error.std(1), np.broadcast_to(noise, (4, 4)), rtol=0.05)
    assert (np.abs(error.mean(1)) < 5 * np.array(noise) / 4000**0.5).all()
    between = np.corrcoef(error[..., 2])
    assert np.abs(between - np.eye(4)).max() < 0.08, "fresh at every step"


def test_gymnasiums_counterpart_delays_and_disturbs_alike():
    suite = disturbed(cartpole.TASKS, delay=1, time_step=0.01)
    actions = np.broadcast_to(some_actions(20, 1), (20, 10, 1))
    obs, ended = played(suite, jnp.array(actions), 1)
    for m in (0, 4):
        env = suite.gymnasium_env(m)
        env.reset(seed=0)
        env.unwrapped.state = obs[0, m, 0].astype(np.float64)
        for t in range(int(ended[:, m, 0].argmax()) or 20):
            expected = env.step(int(actions[t, m, 0]))[0]
            np.testing.assert_allclose(obs[t + 1, m, 0], expected, rtol=2e-3, atol=2e-4)
    noisy = suites.make("cartpole10_hard").gymnasium_env(0)
    firsts = np.array([noisy.reset(seed=s)[0] for s in range(500)])
    np.testing.assert_allclose(firsts.std(0), np.hypot(cartpole_hard.HARD.noise, 0.1 / 12**0.5),
                               rtol=0.15)
    assert noisy.spec.max_episode_steps == cartpole_hard.HARD.horizon


def test_what_is_not_observed_is_left_out_here_and_in_gymnasium():
    actions = jnp.array(np.broadcast_to(some_actions(20, 2), (20, 10, 2)))
    whole, ended = played(disturbed(noise=(0.02, 0.1, 0.01, 0.1)), actions, 2)
    suite = disturbed(noise=(0.02, 0.1, 0.01, 0.1), observed=(2, 3))
    part, expected = played(suite, actions, 2)
    np.testing.assert_array_equal(part, whole[..., 2:])
    np.testing.assert_array_equal(ended, expected)
    assert suite.observation_size == 2
    env = suite.gymnasium_env(0)
    assert env.observation_space.shape == env.reset(seed=0)[0].shape == (2,)
    assert env.step(0)[0].shape == (2,)


@pytest.mark.parametrize("name", ["cartpole_conflict", "cartpole10_hard"])
def test_tables_hold_the_returns_of_random_actions(name):
    suite = suites.make(name)
    measured = random_returns(suite, jax.random.key(1), 512)
    np.testing.assert_allclose(measured, suite.score_range.random, rtol=0.1)
    assert suite.score_range.target == (1000.0,) * suite.num_tasks


def test_a_family_measures_its_random_returns_whatever_the_number_of_tasks():
    few, more = (suites.make(f"cartpole_family:tasks={m},spread=0.9") for m in (2, 3))
    np.testing.assert_allclose(few.score_range.random, more.score_range.random[:2], atol=0.2)
    assert few.score_range.target == (1000.0,) * 2


@pytest.mark.parametrize("name", ["cartpole_conflict", "cartpole_family", "cartpole10_hard"])
def test_they_can_be_drawn_and_batched(name):
    suite = suites.make(name)
    state, _ = suite.reset(jax.random.split(jax.random.key(0), (suite.num_tasks, 1)))
    assert suite.render(state, 1).shape == (400, 600, 3)
    assert all(leaf.size for leaf in jax.tree.leaves(state)), "lax.map batches no empty leaf"
