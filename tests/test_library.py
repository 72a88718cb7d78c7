"""The package as a library: what its top names do with a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import varshare_jax as vs
from varshare_jax.playing.evaluation import act


def test_every_name_can_be_had():
    for name in vs.__all__:
        assert getattr(vs, name) is not None
    with pytest.raises(AttributeError, match="no attribute nothing"):
        vs.nothing  # noqa: B018


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
