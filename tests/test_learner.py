"""Seeds as one program, devices, statistics, evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import train

from varshare_jax import config as C
from varshare_jax.algorithms.acting import policy
from varshare_jax.algorithms.normalization import initial_stats, normalize, update_stats
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.playing.evaluation import evaluate, evaluation_key
from varshare_jax.runs.devices import Layout, choose_axis

TINY = {"network.hidden": (8,), "ppo.num_envs": 2, "ppo.rollout_length": 8, "ppo.minibatches": 2,
        "ppo.epochs": 1, "run.log_every": 3, "total_steps": 10**6}


def tiny(**overrides) -> Learner:
    return Learner.make(C.replace(C.Config(), TINY | overrides))


def close(a, b, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol)


def test_many_seeds_equal_single_seeds_up_to_rounding():
    together = tiny(num_seeds=3, seed=5)
    state, metrics = jax.jit(together.update_many)(together.init_seeds(), 3)
    assert metrics["loss"].shape == (3, 3, 10)
    single = tiny()
    for s in range(3):
        alone = single.init(jax.random.key(5 + s))
        for _ in range(3):
            alone, _ = jax.jit(together.update)(alone)
        close(jax.tree.map(lambda x, s=s: x[s], state.agent.variables), alone.agent.variables)


def test_a_shorter_chunk_runs_the_same_program():
    learner = tiny()
    one_by_one = learner.init_seeds()
    run = jax.jit(learner.update_many).lower(one_by_one, jnp.int32(1)).compile()
    for _ in range(3):
        one_by_one, metrics = run(one_by_one, jnp.int32(1))
        assert np.isfinite(metrics["loss"][:, 0]).all()
        assert np.isnan(metrics["loss"][:, 1:]).all()
    at_once, _ = run(learner.init_seeds(), jnp.int32(3))
    close(at_once.agent.variables, one_by_one.agent.variables, atol=0)


@pytest.mark.parametrize(("seeds", "tasks", "expected"),
                         [(4, 10, (0, 2)), (1, 10, (1, 2)), (3, 10, (1, 2)), (1, 1, (0, 1))])
def test_choose_axis(seeds, tasks, expected):
    assert choose_axis(seeds, tasks, 2) == expected


@pytest.mark.parametrize("method", ["varshare", "hard_sharing"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_devices_change_nothing_but_rounding(method, seeds):
    if jax.device_count() < 2:
        pytest.skip("one device")
    learner = tiny(method=method, num_seeds=seeds)
    split = Layout.choose(seeds, 10)
    assert split.mesh.size == 2
    assert split.axis == (1 if seeds == 1 else 0)
    one = Layout(0, jax.sharding.Mesh(np.array(jax.devices()[:1]), ("devices",)))
    results = []
    for layout in (split, one):
        state = layout.place(learner.init_seeds())
        run = layout.compile(learner.update_many, state, jnp.int32(1), True)
        results.append(jax.device_get(run(state, jnp.int32(2))[0].agent.variables))
    close(*results)


def test_running_statistics_equal_those_of_all_samples():
    samples = np.random.default_rng(0).normal(3, 5, (4, 30, 2, 7, 3)).astype(np.float32)
    stats = initial_stats(2, 3)
    for batch in samples:
        stats = update_stats(stats, batch)
    everything = samples.transpose(2, 0, 1, 3, 4).reshape(2, -1, 3)
    np.testing.assert_allclose(stats.mean, everything.mean(1), rtol=1e-4)
    np.testing.assert_allclose(stats.var, everything.var(1), rtol=1e-3)
    standard = normalize(stats, jnp.moveaxis(samples[0], 1, 0))
    assert standard.shape == (2, 30, 7, 3)
    np.testing.assert_allclose(standard.mean((1, 2)), 0, atol=0.3)
    np.testing.assert_array_equal(normalize(initial_stats(2, 3), jnp.ones((2, 5, 3))), 1)


@pytest.mark.parametrize(("weights", "actions"), [("mean", "mode"), ("sample", "mode"),
                                                  ("sample", "sample")])
def test_evaluation_plays_one_whole_episode_per_env(weights, actions):
    """CartPole pays 1 a step, so a return is the number of steps, and at most the horizon."""
    learner = tiny()
    state = learner.init(jax.random.key(0))
    play = jax.jit(lambda key: evaluate(learner.problem, learner.problem.player(state), key,
                                        episodes=5, weights=weights, actions=actions))
    first, again = play(evaluation_key(0, 1)), play(evaluation_key(0, 1))
    np.testing.assert_array_equal(first.total, again.total)
    assert first.total.shape == (10, 5)
    assert (first.total >= 1).all()
    assert (first.total <= 500).all()
    assert (first.total % 1 == 0).all()
    assert np.any(first.total != play(evaluation_key(0, 2)).total)


def test_drawn_actions_earn_what_their_probabilities_say():
    """The probe pays for the action that its cue names; the policy has half learned it."""
    config = C.replace(C.Config(), TINY | {"ppo.learning_rate": 3e-3, "ppo.num_envs": 16})
    problem, state, _ = train("action", config, 12)
    player = problem.player(state)
    probability = policy(problem, player, jnp.array([[[-1.0], [1.0]]] * 2)).probs
    right = (probability[:, 0, 0] + probability[:, 1, 1]) / 2

    def earned(actions):
        played = evaluate(problem, player, evaluation_key(0, 1), episodes=4000, actions=actions)
        return played.total.mean(1) / np.array([1, 2])

    assert np.all((right > 0.55) & (right < 0.95))
    np.testing.assert_array_equal(earned("mode"), 1)
    np.testing.assert_allclose(earned("sample"), right, atol=4 * 0.5 / 4000 ** 0.5)


def test_evaluation_keys_never_meet_training_keys():
    used = {tuple(np.asarray(jax.random.key_data(jax.random.key(s)))) for s in range(50)}
    fresh = {tuple(np.asarray(jax.random.key_data(evaluation_key(s, u))))
             for s in range(50) for u in range(20)}
    assert len(fresh) == 1000
    assert not used & fresh


@pytest.mark.parametrize("bad", [{"seed": 10**20}, {"ppo.minibatches": 7}, {"ppo.discount": 1.5},
                                 {"ppo.learning_rate": float("nan")}, {"network.hidden": ()}])
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        tiny(**bad)
