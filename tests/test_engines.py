"""Engines: the same policy in the implementation that a suite stands for."""

import functools
import sys

import jax
import numpy as np
import pytest
from conftest import policy

from varshare_jax import Config, Learner, runner, suites
from varshare_jax.cli.evaluate import _print
from varshare_jax.config import replace
from varshare_jax.errors import UserError
from varshare_jax.playing import engines
from varshare_jax.playing.engines.gymnasium import evaluate
from varshare_jax.playing.evaluation import act
from varshare_jax.playing.scoring import evaluate_run
from varshare_jax.types import Player


def balance(task, obs):
    """A cart-pole controller that is good on some tasks and bad on others."""
    del task
    return (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 1] > 0).astype(int)


def test_gymnasium_plays_cartpoles_with_each_tasks_physics():
    """Mean lengths under one controller agree task by task, and differ between tasks."""
    suite = suites.make("cartpole10")
    episodes = 64
    said = []
    there = evaluate(suite, balance, episodes, np.random.default_rng(0), said.append)
    shape = suite.num_tasks, episodes
    step = jax.jit(suite.step)
    state, obs = suite.reset(jax.random.split(jax.random.key(0), shape))
    length, playing = np.zeros(shape), np.ones(shape, bool)
    for t in range(suite.horizon):
        action = np.stack([balance(m, np.asarray(obs[m])) for m in range(suite.num_tasks)])
        state, out = step(jax.random.split(jax.random.key(t), shape), state, action)
        length += playing
        playing &= ~np.asarray(out.terminated | out.truncated)
        obs = out.obs
    assert not playing.any()
    error = np.sqrt(length.var(1) / episodes + there["length"].var(1) / episodes)
    difference = np.abs(length.mean(1) - there["length"].mean(1))
    assert (difference <= 4 * error + 1).all(), (length.mean(1), there["length"].mean(1))
    np.testing.assert_array_equal(there["return"], there["length"])
    assert np.ptp(there["length"].mean(1)) > 100
    assert len(said) == suite.num_tasks
    assert "success" not in there


def test_tasks_and_seeds_play_different_episodes():
    """Or a mean over them would be no more precise than one of them alone."""
    starts = {}

    def watch(task, obs):
        starts.setdefault((number, task), obs[:, 0].tolist())
        return balance(task, obs)

    for number in (0, 1):
        evaluate(suites.make("cartpole10"), watch, 3, np.random.default_rng((5, number)), len)
    assert len({x for drawn in starts.values() for x in drawn}) == 2 * 10 * 3


def test_the_policy_that_is_played_is_the_one_of_the_task():
    """One task's actions are those of the network lifted over all, statistics included."""
    problem = Learner.make(replace(Config(), {"suite": "cartpole10"})).problem
    state = Learner(problem).init(jax.random.key(0))
    variables = jax.tree.map(
        lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape), state.agent.variables)
    stats = state.stats["obs"].replace(mean=jax.random.normal(jax.random.key(3), (10, 4)))
    obs = jax.random.normal(jax.random.key(4), (10, 32, 4))
    seen = (obs - stats.mean[:, None]) / stats.std[:, None]
    expected = policy(problem.network, variables, seen).mode()
    player = Player(variables, state.stats | {"obs": stats})
    played = np.stack([act(problem, player, m, obs[m]) for m in range(10)])
    np.testing.assert_array_equal(played, expected)
    assert len({row.tobytes() for row in played}) > 1


def test_what_no_engine_can_play(monkeypatch):
    with pytest.raises(UserError, match="did you mean 'gymnasium'"):
        engines.make("gymnasum")
    with pytest.raises(UserError, match="gymnax:Pendulum-v1 has no counterpart in Gymnasium"):
        evaluate(suites.make("gymnax:Pendulum-v1"), balance, 1, np.random.default_rng(0), print)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.setitem(sys.modules, "gymnasium.error", None)
    with pytest.raises(UserError, match=r"pip install 'varshare_jax\[reference\]'"):
        evaluate(suites.make("cartpole"), balance, 1, np.random.default_rng(0), print)


def test_scores_stand_beside_those_of_jax(tiny, tmp_path, capsys):
    runner.train(tiny(suite="cartpole", num_seeds=2, total_steps=32, run_dir=str(tmp_path / "run")),
                 quiet=True)
    play = functools.partial(evaluate_run, tmp_path / "run", episodes=2)
    scores = play(engine="gymnasium")
    assert np.shape(scores["return"]) == np.shape(scores["gymnasium_return"]) == (2, 1)
    assert scores["return"] == play()["return"]
    capsys.readouterr()
    _print(scores)
    assert "gymnasium_return" in capsys.readouterr().out.splitlines()[1]
    with pytest.raises(UserError, match="--weights=sample: --engine=gymnasium plays the mean"):
        play(engine="gymnasium", weights="sample")
