"""Folds: what is left out of a suite leaves no trace in what the other tasks learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FUZZ
from jax.extend.random import define_prng_impl, threefry_prng_impl

from varshare_jax import config as C
from varshare_jax import suites
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS
from varshare_jax.types import LEFT_OUT, SHARED

M, LEFT = 10, 2  # no other axis of what is drawn has as many entries as the smaller suite: 9
TINY = {**{f"{algorithm}.{name}": value for algorithm in ("ppo", "vmpo") for name, value in
           {"num_envs": 2, "rollout_length": 8, "minibatches": 2, "epochs": 2}.items()},
        "dqn.num_envs": 2, "dqn.rollout_length": 8, "dqn.gradient_steps": 2, "dqn.batch_size": 4,
        "dqn.replay_size": 64, "dqn.learning_starts": 32, "network.hidden": (8,), "lora.rank": 1,
        "mpo.num_envs": 2, "mpo.rollout_length": 8, "mpo.gradient_steps": 2, "mpo.batch_size": 4,
        "mpo.replay_size": 64, "mpo.learning_starts": 32, "mpo.target_every": 3}
UPDATES = 6


def _cut(draw, shape):
    """What `draw` gives for M tasks, without the one left out, where `shape` has M − 1."""
    whole = tuple(M if size == M - 1 else size for size in shape)
    drawn = draw(whole)
    for axis, size in enumerate(shape):
        if size == M - 1:
            drawn = jnp.delete(drawn, LEFT, axis=axis)
    return drawn


THREEFRY = threefry_prng_impl
SMALLER = define_prng_impl(
    key_shape=THREEFRY.key_shape, seed=THREEFRY.seed, fold_in=THREEFRY.fold_in,
    split=lambda key, shape: _cut(lambda whole: THREEFRY.split(key, whole), shape),
    random_bits=lambda key, width, shape: _cut(
        lambda whole: THREEFRY.random_bits(key, width, whole), shape), name="smaller", tag="sm")
"""Keys that give the M − 1 tasks of the smaller suite what keys of the same seed give them among
all M. How many tasks there are thus changes nothing that is drawn, and programs may be compared.
"""


def made(tasks: int, **settings) -> Learner:
    which = {"leave_out": "floaty"} if tasks == M else {"without": "floaty"}
    return Learner.make(C.replace(C.Config(total_steps=tasks * 16 * 2 * UPDATES),
                                  TINY | settings | which))


# Between them whatever reads several tasks at a time. `make fuzz` has these and every method.
CASES = {
    "varshare": {"varshare.recenter": "shift", "gradients.cosines": True, "ppo.target_kl": 0.02},
    "natural": {"method": "varshare", "varshare.posterior": "natural", "controller.every": 2,
                "ppo.preconditioner": "shared", "varshare.controller": "sigma_adaptive"},
    "varshare_horseshoe": {"algorithm": "vmpo", "varshare.controller": "triggered",
                           "controller.every": 2},
    "varshare_lora": {"varshare.controller": "empirical_bayes"},
    "l2_soft": {"algorithm": "dqn", "dqn.preconditioner": "shared"},
    "paco": {"paco.loss_threshold": 0.8, "ppo.popart_rate": 0.1},
    "contextual_pcgrad": {"gradients.separately": False},
    "cagrad": {},
    "hard_sharing": {"algorithm": "mpo"},
}
RARE = {"varshare_horseshoe", "varshare_lora", "paco", "cagrad", "hard_sharing"}
NAMES = sorted({*METHODS, *CASES} if FUZZ > 1 else CASES.keys() - RARE)


@pytest.mark.parametrize("name", NAMES)
def test_a_fold_learns_what_the_smaller_suite_learns(name):
    """Six updates: parameters, moments and controllers of the other tasks agree to rounding."""
    settings = {"method": name} | CASES.get(name, {})
    fold, smaller = made(M, **settings), made(M - 1, **settings)
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    start = state = fold.init(jax.random.key(1))
    like = jax.eval_shape(lambda: smaller.init(jax.random.key(1)))
    other = _without_the_task(state, like)
    update, update_other = (jax.jit(learner.update, compiler_options=options)
                            for learner in (fold, smaller))
    for _ in range(UPDATES):
        (state, metrics), (other, metrics_other) = update(state), update_other(other)
        for name, values in metrics.items():
            assert np.isnan(values[LEFT]), name
            np.testing.assert_allclose(np.delete(values, LEFT), metrics_other[name], rtol=2e-3,
                                       atol=2e-4, err_msg=name)
    _close(_without_the_task(state, like), other)
    own = [{collection: jax.tree.map(lambda x: x[LEFT], tree)
            for collection, tree in agent.variables.items() if collection not in SHARED}
           for agent in (start.agent, state.agent)]
    jax.tree.map(np.testing.assert_array_equal, *own)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.agent.variables,
                         state.agent.variables)
    assert all(jax.tree.leaves(moved)), "nothing was learned, nothing tested"


def _without_the_task(state, like):
    """A state of all tasks as one of the smaller suite, with keys that draw as those of all."""
    def cut(x, shaped):
        for axis, (size, wanted) in enumerate(zip(x.shape, shaped.shape, strict=True)):
            if size != wanted:  # the inputs of a one-hot follow those of the observation
                x = jnp.delete(x, LEFT + (size - M), axis=axis)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.wrap_key_data(jax.random.key_data(x), impl=SMALLER)
        return x

    scalars = {name: x for name, x in state.scalars.items() if name != LEFT_OUT}
    return jax.tree.map(cut, state.replace(scalars=scalars), like)


def _close(one, other):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other),
                            strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5,
                                       err_msg=jax.tree_util.keystr(path))


def test_one_program_trains_folds_by_seeds_by_swept_values():
    """A member of it learns what its fold learns alone."""
    config = C.replace(C.Config(), TINY | {
        "leave_out": "all", "num_seeds": 2, "sweep": "varshare.beta=0.5,2", "run.log_every": 1})
    together = Learner.make(config)
    members = together.problem.config.members()
    assert len(members) == M * 2 * 2
    assert members[5].leave_out == "low_gravity"
    assert (members[5].varshare.beta, members[5].seed) == (0.5, 1)
    state, metrics = jax.jit(together.update_many)(together.init_seeds(), 1)
    left_out = np.isnan(metrics["loss"][:, 0]).argmax(1)
    np.testing.assert_array_equal(left_out, np.repeat(np.arange(M), 4))
    alone = Learner.make(members[5])
    single, _ = jax.jit(alone.update)(alone.init(jax.random.key(1)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[5], y, rtol=1e-4, atol=1e-5),
                 state.agent.variables, single.agent.variables)


@pytest.mark.parametrize(("changes", "told"), [
    ({"leave_out": "florty"}, "did you mean 'floaty'"),
    ({"leave_out": "short,short"}, "--leave_out=short,short: names a task twice"),
    ({"suite": "cartpole", "leave_out": "all"}, "--leave_out=all: cartpole has no other task"),
    ({"tasks": "short,qick"}, "did you mean 'quick'"),
    ({"tasks": "short", "without": "short"}, "--without=short: leaves no task of cartpole10")])
def test_errors(changes, told):
    with pytest.raises(UserError) as error:
        Learner.make(C.replace(C.Config(), TINY | changes))
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["cartpole10", "lunar_lander20", "mt3"])
def test_chosen_tasks_are_those_of_the_whole_suite(name):
    whole = suites.make(name)
    kept = (2, 0)
    names = [whole.task_names[m] for m in kept]
    config = C.Config(suite=name, tasks=",".join(names))
    chosen = suites.make(name, config)
    assert chosen.task_names == tuple(whole.task_names[m] for m in sorted(kept))
    keys = jax.random.split(jax.random.key(0), (whole.num_tasks, 2))
    np.testing.assert_array_equal(chosen.reset(keys[jnp.array([0, 2])])[1],
                                  whole.reset(keys)[1][jnp.array([0, 2])])
    for label, values in whole.task_parameters.items():
        assert chosen.task_parameters[label] == (values[0], values[2])
    if whole.score_range:
        assert chosen.score_range.random == tuple(whole.score_range.random[m] for m in (0, 2))
    assert math.isfinite(chosen.bytes_per_env())
