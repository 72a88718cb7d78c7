"""Tasks that a run has left out, learned from what the others share."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import FUZZ, arrays, newest, quick_compile, rows

from varshare_jax import config as C
from varshare_jax import runner
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.playing import zero_shot
from varshare_jax.runs import transfer

TINY = {"ppo.num_envs": 2, "ppo.rollout_length": 8, "ppo.minibatches": 2, "ppo.epochs": 2,
        "network.hidden": (8,), "lora.rank": 1, "total_steps": 10_000, "ppo.max_grad_norm": 1e6}
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TASKS = "floaty,short,quick"


def trained(updates: int, **settings):
    """(learner, state) of one seed after so many updates."""
    learner = Learner.make(C.replace(C.Config(), TINY | settings))
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update,
                                                             compiler_options=OPTIONS)
    for _ in range(updates):
        state, _ = update(state)
    return learner, state


def weights(learner, state):
    return learner.problem.network.merge(state.agent.variables)


def close(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), one, other)


def off_policy(algorithm: str, **more):
    settings = {"num_envs": 2, "rollout_length": 8, "learning_starts": 16, "gradient_steps": 2,
                "batch_size": 4, "replay_size": 64, "max_grad_norm": 1e6} | more
    return {"algorithm": algorithm} | {f"{algorithm}.{k}": value for k, value in settings.items()}


ALONE = {
    "varshare": {"varshare.recenter": "shift", "varshare.controller": "triggered",
                 "controller.every": 2},
    "natural": {"method": "varshare", "varshare.posterior": "natural"},
    "varshare_lora": {"varshare.posterior": "natural"},
    "varshare_trust_region": {},
    "paco": {"paco.loss_threshold": 0.8},
    "contextual": {},
    "duals": {"method": "l2_soft"} | off_policy("mpo", target_every=3),
    "replay": {"method": "varshare"} | off_policy("dqn", target_rate=0.3),
}


OFTEN = "varshare", "varshare_lora", "paco", "replay"  # the others in `make fuzz`


@pytest.mark.parametrize("name", ALONE if FUZZ > 1 else OFTEN)
def test_a_task_adapts_as_the_method_learns_it_alone(name):
    """Where all learns and no norm is clipped: a suite of that task, whatever the method keeps."""
    settings = {"suite": "cartpole", "method": name} | ALONE[name]
    alone = trained(4, **settings)
    adapted = trained(4, **settings, **{"adapt.regime": "scratch"})
    close(weights(*adapted), weights(*alone))


def test_scratch_of_hard_sharing_is_independent_learning():
    alone = trained(3, tasks=TASKS, method="independent")
    adapted = trained(3, tasks=TASKS, method="hard_sharing", **{"adapt.regime": "scratch"})
    close(weights(*adapted), weights(*alone))


@pytest.fixture(scope="module")
def left_out(tmp_path_factory):
    """A run of VarShare with a fold for each of three tasks, two seeds."""
    folder = tmp_path_factory.mktemp("folds") / "loo"
    config = C.replace(C.Config(), TINY | {
        "tasks": TASKS, "leave_out": "all", "num_seeds": 2, "seed": 3, "run_dir": str(folder),
        "total_steps": 4 * 3 * 16, "run.log_every": 2, "run.eval_episodes": 2,
        "run.final_eval_episodes": 2, "run.eval_every": 2, "run.tensorboard": False})
    with quick_compile():
        runner.train(config, quiet=True)
    return folder


def adaptation(folder: Path, into: Path | str = "", **changes) -> C.Config:
    return C.replace(C.Config(), transfer.settings_of(folder) | {
        "adapt.regime": "scratch,full,residual", "run_dir": str(into),
        "run.checkpoint_every": 2} | changes)


def test_a_run_of_folds_is_a_run_for_each_fold(left_out):
    """What is left out is in no mean over tasks; how it is played stands apart."""
    last = rows(left_out, "eval")[-1]
    scores = np.array(last["return"], float)
    assert scores.shape == (6, 3)
    np.testing.assert_array_equal(np.isnan(scores), np.repeat(np.eye(3, dtype=bool), 2, 0))
    assert np.isfinite(np.array(last["left_out"]["return"], float)).all()
    fold = rows(left_out / "leave_out=short", "eval")[-1]
    np.testing.assert_array_equal(np.array(fold["return"], float), scores[2:4])
    assert fold["left_out"]["return"] == last["left_out"]["return"][2:4]
    metrics = rows(left_out)[-1]["metrics"]
    np.testing.assert_array_equal(np.isnan(np.array(metrics["loss"], float)), np.isnan(scores))


@pytest.mark.parametrize("start", ["fresh", "mean", "best"])
def test_what_adaptation_begins_with(left_out, start, monkeypatch):
    """Task k of seed s: what fold k of that seed shares, never what has seen the task.

    Which other task plays it best is taken from a number among its parameters.
    """
    def value(own):
        return jax.tree.leaves(own)[0].reshape(*jax.tree.leaves(own)[0].shape[:2], -1)[..., 0]

    monkeypatch.setattr(zero_shot, "_player", lambda *_: lambda state, number: np.asarray(
        value(state.agent.variables["task"]["own"])))
    learner = Learner.make(adaptation(left_out, **{"adapt.start": start, "num_seeds": 1,
                                                   "seed": 4}))
    fresh = learner.init_seeds()
    state = zero_shot.begin(learner.problem, fresh)
    source = transfer.Source(left_out)
    learned, begun = source.state.agent.variables, state.agent.variables["task"]
    new = fresh.agent.variables["task"]
    for k in range(3):
        member = 2 * k + 1  # the second seed
        for regime, name in enumerate(("scratch", "full", "residual")):
            here = jax.tree.map(lambda x, r=regime, k=k: x[r, k], begun)
            expected = (jax.tree.map(lambda x, k=k: x[0, k], new["shared"]) if name == "scratch"
                        else jax.tree.map(lambda x, m=member: x[m], learned["shared"]))
            jax.tree.map(np.testing.assert_array_equal, here["shared"], expected)
            assert here["trains"] == (name != "residual")
            values = np.array(value(learned["task"])[member])
            best = max({0, 1, 2} - {k}, key=lambda i, values=values: values[i])
            own = {"fresh": jax.tree.map(lambda x, r=regime, k=k: x[r, k], new["own"]),
                   "mean": jax.tree.map(lambda x, m=member, k=k: np.delete(x[m], k, 0).mean(0),
                                        learned["task"]),
                   "best": jax.tree.map(lambda x, m=member, i=best: x[m, i], learned["task"])}
            close(here["own"], own["fresh" if name == "scratch" else start])
        pooled = np.delete(source.state.stats["obs"].mean[member], k, 0).mean(0)
        np.testing.assert_allclose(state.stats["obs"].mean[1, k], pooled, rtol=1e-5)
        np.testing.assert_array_equal(state.stats["obs"].mean[0, k], 0)


def test_adapting_freezes_resumes_and_tells_its_beginning(left_out, tmp_path):
    config = adaptation(left_out, tmp_path / "adapted", total_steps=4 * 3 * 16)
    with quick_compile():
        begun = transfer.begin(Learner.make(config).problem, Learner.make(config).init_seeds())
        state = runner.train(config, quiet=True).state
    shared = functools.partial(jax.tree.map, lambda a, b: np.any(a != b, tuple(range(1, a.ndim))))
    before, after = begun.agent.variables["task"], state.agent.variables["task"]
    for moved in jax.tree.leaves(shared(before["shared"], after["shared"])):
        np.testing.assert_array_equal(moved, [True] * 4 + [False] * 2)
    for moved in jax.tree.leaves(shared(before["own"], after["own"])):
        assert moved.all()
    folder = tmp_path / "adapted"
    assert [row["update"] for row in rows(folder, "eval")] == [0, 2, 4]
    assert np.array(rows(folder / "regime=residual", "eval")[0]["return"]).shape == (2, 3)

    finished, updates = arrays(folder), newest(folder)
    shutil.rmtree(folder / "checkpoints" / str(updates))
    (folder / "summary.json").unlink()
    with quick_compile():
        runner.train(config, quiet=True, resume=True)
    assert newest(folder) == updates
    again = arrays(folder)
    for name, x in finished.items():
        assert x.tobytes() == again[name].tobytes(), name


def test_unfreezing_is_residual_first_and_keeps_moments_meanwhile(left_out):
    config = adaptation(left_out, total_steps=4 * 3 * 16,
                        **{"adapt.regime": "residual,unfreeze", "adapt.unfreeze_after": 2,
                           "num_seeds": 1})
    learner = Learner.make(config)
    state = transfer.begin(learner.problem, learner.init_seeds())
    with quick_compile():
        advance = jax.jit(learner.update_many)
        for number in (1, 2, 3):
            state, _ = advance(state, jax.numpy.int32(1))
            task, moments = (tree["task"] for tree in (state.agent.variables,
                                                       state.agent.optimizer.mu))
            moved, owned = (jax.tree.leaves(jax.tree.map(lambda x: np.any(x[0] != x[1]), tree))
                            for tree in (task["shared"], task["own"]))
            if number > 2:
                assert all(moved)
            else:
                assert not any(moved + owned)
            assert task["trains"][1].tolist() == [1.0 if number > 1 else -1.0] * 3
            for x in jax.tree.leaves(moments["shared"]):
                assert not x[0].any()
                assert x[1].any()


def test_zero_shot_plays_the_others_residuals(left_out):
    config = adaptation(left_out)
    with quick_compile():
        found = zero_shot.zero_shot(config, 3)
    assert np.array(found["shared"]).shape == np.array(found["best_other"]).shape == (2, 3)
    for s in range(2):
        assert all(whose != name for whose, name in zip(found["whose"][s], found["task_names"],
                                                        strict=True))


@pytest.mark.parametrize(("changes", "told"), [
    ({"adapt.regime": "ful"}, "did you mean 'full'"),
    ({"adapt.regime": "full"}, "--adapt.regime=full: needs --adapt.source"),
    ({"method": "independent", "adapt.regime": "residual", "adapt.source": "x"},
     "method independent offers a new task no parameters of its own"),
    ({"method": "one_hot", "adapt.regime": "full,residual", "adapt.source": "x"},
     "method one_hot offers a new task no parameters of its own"),
    ({"adapt.regime": "scratch", "leave_out": "short"}, "--leave_out=short: every task is"),
    ({"adapt.regime": "scratch", "varshare.controller": "empirical_bayes"},
     "--varshare.controller=empirical_bayes: sets the prior by several tasks"),
    ({"adapt.regime": "scratch", "ppo.task_rate": 2.0}, "--ppo.task_rate=2.0")])
def test_errors(changes, told):
    with pytest.raises(UserError) as error:
        Learner.make(C.replace(C.Config(), TINY | changes))
    assert told in str(error.value)


def test_errors_of_the_source(left_out, tmp_path):
    def refused(**changes):
        learner = Learner.make(adaptation(left_out, **changes))
        with pytest.raises(UserError) as error:
            transfer.begin(learner.problem, learner.init_seeds())
        return str(error.value)

    assert "has not left out task heavy_pole" in refused(tasks="heavy_pole")
    assert "asks for seed 5" in refused(num_seeds=3)
    assert "adapt with the settings of its network" in refused(**{"network.hidden": (4,)})
    assert "not a run" in refused(**{"adapt.source": str(tmp_path)})
    assert "has 4 updates; name fewer" in refused(**{
        "adapt.regime": "unfreeze", "adapt.unfreeze_after": 4, "total_steps": 4 * 3 * 16})
