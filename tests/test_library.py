"""The package as a library: what its top names do with a run."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import varshare_jax as vs
from benchmarks import accelerator
from varshare_jax import algorithms, methods
from varshare_jax.algorithms import ALGORITHMS
from varshare_jax.methods import METHODS
from varshare_jax.methods.adapting import Adapting
from varshare_jax.playing.evaluation import act
from varshare_jax.suites import SUITES
from varshare_jax.variational import settings
from varshare_jax.variational.controllers import CONTROLLERS


def test_every_name_can_be_had():
    for name in vs.__all__:
        assert getattr(vs, name) is not None
    with pytest.raises(AttributeError, match="no attribute nothing"):
        vs.nothing  # noqa: B018


def test_the_settings_are_read_without_jax():
    """Naming what there is imports none of it; a method's module comes when it is taken."""
    script = ("import sys, varshare_jax as vs; config = vs.Config(method='paco')\n"
              "assert 'jax' not in sys.modules, 'jax'\n"
              "from varshare_jax.methods import METHODS\n"
              "assert 'varshare' in METHODS and 'jax' not in sys.modules\n"
              "assert METHODS['pcgrad'].combiner == 'pcgrad' and 'jax' in sys.modules")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_sections_are_those_that_methods_and_algorithms_read():
    """The lists in the rooms' `settings` forget none and have none that nobody reads."""
    read = {section for method in (Adapting, *(entry.method for entry in METHODS.values()))
            for section in method.settings}
    assert read == set(methods.sections())
    assert [each.settings for each in ALGORITHMS.values()] == [*algorithms.sections()]
    assert tuple(CONTROLLERS) == settings.CONTROLLERS


def test_a_loaded_policy_acts_and_gives_its_parameters(untrained):
    """By task names or indices, one observation or many; what it composes is what acts."""
    policy = vs.load(str(untrained))
    suite = policy.problem.suite
    obs = np.random.default_rng(0).normal(size=(5, suite.observation_size))
    name = suite.task_names[3]
    actions = policy.act(obs, task=name, seed=1)
    assert actions.shape == (5,)
    np.testing.assert_array_equal(policy.act(obs, 3, 1), actions)
    assert policy.act(obs[2], 3, 1) == actions[2]
    params, stats = policy.params(name, seed=1), policy.of_seed(1).stats["obs"]
    seen = jnp.clip((obs - stats.mean[3]) / stats.std[3], -10, 10)
    outputs = policy.problem.network.module.apply({"params": params}, seen, ("actor",))
    np.testing.assert_array_equal(outputs["actor"].mode(), actions)
    for call, said in ((lambda: policy.act(obs, "nobody"), "task=nobody: unknown"),
                       (lambda: policy.act(obs, 10), "task=10: unknown"),
                       (lambda: policy.params(0, seed=2), "seed=2: the run has 2 seeds")):
        with pytest.raises(vs.UserError, match=said):
            call()


def test_a_policy_can_be_exported(untrained):
    """The recipe of docs/usage.md, but for the bytes, which need another package."""
    policy = vs.load(untrained)
    obs = jax.ShapeDtypeStruct((1, policy.problem.suite.observation_size), jnp.float32)
    play = jax.jit(functools.partial(act, policy.problem, policy.of_seed(0), 3))
    seen = np.ones((1, obs.shape[1]), np.float32)
    np.testing.assert_array_equal(jax.export.export(play)(obs).call(seen), policy.act(seen, 3))


def test_the_accelerator_check_asks_for_what_there_is():
    """Nobody sees it run in full without an accelerator."""
    checks = list(accelerator.checks())
    for check in checks:
        for changes in ({}, check.tiny or {}):
            settings = vs.config.replace(vs.Config(), {**check.settings, **changes}).validate()
            assert settings.suite in SUITES or ":" in settings.suite, check.name
    agree = {check.name for check in checks if check.section == "agreement"}
    assert agree >= {*ALGORITHMS, *METHODS}
