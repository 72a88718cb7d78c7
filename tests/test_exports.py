"""Programs of training lower for CUDA and TPU: nothing in them is a CPU's alone.

Only tracing and lowering, which need neither. `jax.export` refuses callbacks and every custom call
whose form it does not know to last, so this also proves that none is left.
"""

import jax
import jax.numpy as jnp
import pytest

from varshare_jax import suites
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.learner import Learner
from varshare_jax.suites import metaworld

PLATFORMS = "cuda", "tpu"
MEMBERS = {"mt1": "mt1:reach", "gymnax": "gymnax:Pendulum-v1", "brax": "brax_halfcheetah9",
           "cartpole_family": "cartpole_family:tasks=2,spread=0.5,seed=1"}
# MJX traces six scenes for mt10, each as long as mt1's one; there is nothing else in them.
# Brax's are of one class, of which nine robots with contacts show the most.
SUITES = dict.fromkeys([*(name for name in suites.SUITES if not metaworld.owns(name)),
                        *MEMBERS.values()])


def export(learner):
    """A chunk of updates as the runner compiles it, lowered for accelerators."""
    state, count = jax.eval_shape(learner.init_seeds), jax.ShapeDtypeStruct((), jnp.int32)
    chunk = jax.jit(learner.update_many, donate_argnums=0)
    return jax.export.export(chunk, platforms=PLATFORMS)(state, count)


def test_every_family_has_a_member_here():
    assert MEMBERS.keys() == suites.FAMILIES.keys()


@pytest.mark.parametrize("suite", SUITES)
def test_updates_on_every_suite_lower_for_accelerators(tiny, suite):
    if metaworld.owns(suite):
        pytest.importorskip("mujoco.mjx", reason="needs varshare_jax[metaworld]")
    if suite.startswith("brax"):
        pytest.importorskip("brax", reason="needs varshare_jax[brax]")
    assert export(Learner.make(tiny(suite=suite, **{"metaworld.physics": "mjx"}))
                  ).platforms == PLATFORMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_lowers_for_accelerators(tiny, algorithm):
    """How two seeds start, and their updates."""
    suite = "gymnax:Pendulum-v1" if algorithm == "ddpg" else "cartpole10"
    learner = Learner.make(tiny(algorithm=algorithm, suite=suite, num_seeds=2))
    start = jax.export.export(jax.jit(learner.init_seeds), platforms=PLATFORMS)()
    assert start.platforms == export(learner).platforms == PLATFORMS


def test_what_calls_the_host_is_found_out(tiny):
    """MuJoCo's engine is in C: the check that the others pass must refuse it."""
    pytest.importorskip("metaworld", reason="needs varshare_jax[metaworld]")
    learner = Learner.make(tiny(suite="mt1:reach", **{"metaworld.physics": "mujoco"}))
    with pytest.raises(ValueError, match="varshare_metaworld"):
        export(learner)
