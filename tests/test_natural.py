"""σ that follows the curvature of the loss: closed forms, and what Adam makes of the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import toy

from varshare_jax import config as C
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.variational import natural
from varshare_jax.variational.gaussian import Gaussian, is_gaussian, rho_of

CURVATURE = (0.1, 1.0, 10.0, 100.0)
M, N = 4, 2048  # tasks, the n of the ELBO
FAST = 0.02  # of the running curvature


@functools.cache
def toys(posterior: str, estimator: str = "shared", draws: int = 1):
    return toy(tasks=M, curvature=CURVATURE, outputs=8, varshare__posterior=posterior,
               varshare__estimator=estimator, varshare__draws=draws,
               varshare__curvature_rate=FAST, ppo__max_grad_norm=1e9)


def sigma(made, updates=300, rate=1e-3, departures=0.0, **scalars) -> np.ndarray:
    """σ of every curvature after training, geometric means over tasks and outputs, [4]."""
    start = made.start()
    after = made.train(start, made.targets(start, np.full(M, departures)), updates, rate, **scalars)
    return np.exp(np.log(after.variables["task"]["critic_head"]["kernel"].std).mean((0, 2)))


def analytic(beta=1.0, sigma_prior=0.1) -> np.ndarray:
    return 1 / np.sqrt(N * np.array(CURVATURE) / beta + 1 / sigma_prior**2)


@pytest.mark.parametrize(("estimator", "draws"), [("shared", 1), ("shared", 4), ("flipout", 1),
                                                  ("local", 1)])
def test_sigma_reaches_the_analytic_posterior_over_three_decades(estimator, draws):
    np.testing.assert_allclose(sigma(toys("natural", estimator, draws)), analytic(), rtol=0.1)


@pytest.mark.parametrize(("beta", "sigma_prior"), [(1.0, 0.01), (100.0, 0.1), (0.1, 0.3)])
def test_sigma_depends_on_the_price_and_the_prior_as_the_formula_says(beta, sigma_prior):
    found = sigma(toys("natural"), rate=1e-4, varshare__beta=beta,
                  varshare__sigma_prior=sigma_prior)
    np.testing.assert_allclose(found, analytic(beta, sigma_prior), rtol=0.1)


def test_adam_has_not_arrived_then():
    """ρ moves by the learning rate: 300 steps of 1e-3 change σ by e^0.3 at most. At thirty times
    that rate it arrives where σ is wide; where it is narrow, noise in steps of 0.03 is left."""
    slow = sigma(toys("adam"))
    np.testing.assert_array_less(np.abs(np.log(slow / 0.01)), 0.31)
    fast = sigma(toys("adam"), varshare__rho_rate=30.0)
    np.testing.assert_array_less(np.abs(np.log(fast / analytic())), np.abs(
        np.log(slow / analytic())))


def test_sigma_does_not_depend_on_the_learning_rate():
    """Twice the rate, the means at their optimum in both runs: the same σ, to within 5 %. Adam's
    σ, after as many steps, are apart by 10 % and more."""
    rates = 0.01, 0.005
    one, other = (sigma(toys("natural"), rate=rate, departures=0.2) for rate in rates)
    np.testing.assert_allclose(one, other, rtol=0.05)
    one, other = (sigma(toys("adam"), rate=rate, departures=0.2) for rate in rates)
    assert np.abs(np.log(one / other)).max() > 0.1


def test_without_a_signal_sigma_becomes_the_priors_at_the_rate_of_the_mean():
    made = toy(tasks=M, curvature=(0.0,), varshare__posterior="natural",
               varshare__curvature_rate=FAST)
    for updates in (50, 300):
        h = (1 / 0.01**2 - 1 / 0.1**2) / N * (1 - FAST)**updates
        np.testing.assert_allclose(sigma(made, updates), 1 / np.sqrt(N * h + 1 / 0.1**2), rtol=1e-3)
    np.testing.assert_allclose(sigma(made, 2000), 0.1, rtol=1e-3)


def test_each_task_and_layer_has_its_own_prior():
    """σ_prior of each task, as the controller of experiment 4 gives it."""
    made = toy(tasks=M, curvature=(0.0,), varshare__posterior="natural",
               varshare__curvature_rate=FAST, varshare__controller="sigma_adaptive")
    start, std = made.start(), jnp.array([0.01, 0.05, 0.1, 0.3])
    controller = start.memory["controller"] | {"sigma_prior": std}
    start = start.replace(memory=start.memory | {"controller": controller})
    after = made.train(start, made.targets(start, np.zeros(M)), 2000, 1e-3)
    found = after.variables["task"]["critic_head"]["kernel"].std
    np.testing.assert_allclose(found, np.broadcast_to(std[:, None, None], found.shape), rtol=1e-2)


def test_the_estimate_is_steins():
    """(∂loss/∂ρ) / (softplus'(ρ) σ) is ε ∂loss/∂w / σ, whose mean is the curvature: here w⁴'s 12 w²
    in expectation, 12 (μ² + σ²)."""
    q = Gaussian(jnp.full(20_000, 0.5), jnp.full(20_000, rho_of(0.2)))
    noise = jax.random.normal(jax.random.key(0), q.mean.shape)
    slope = jax.grad(lambda q: jnp.sum((q.mean + q.std * noise) ** 4))(q)
    found = natural.estimates({"w": q}, {"w": slope})["w"]
    weight = q.mean + q.std * noise
    np.testing.assert_allclose(found, 4 * weight**3 * noise / q.std, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.mean(), 12 * (0.5**2 + 0.2**2), rtol=0.03)


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-3])
@pytest.mark.parametrize("h", [-1.0, 0.0, 1e-6, 1e30])
def test_sigma_stays_within_the_prior_and_finite(h, weight):
    q = natural.settled(Gaussian(jnp.zeros(()), jnp.zeros(())), jnp.float32(h), 0.1,
                        jnp.float32(weight))
    assert 0.99e-4 <= float(q.std) <= 0.1 * (1 + 1e-5)
    if h <= 0:
        np.testing.assert_allclose(q.std, 0.1, rtol=1e-5)


@functools.cache
def trained():
    """Three updates of PPO: its learner, the state before and after, metrics."""
    config = C.replace(C.Config(method="varshare", total_steps=10_000), {
        "network.hidden": (4, 4), "ppo.num_envs": 2, "ppo.rollout_length": 4, "ppo.minibatches": 2,
        "ppo.epochs": 1, "varshare.posterior": "natural", "varshare.estimator": "local",
        "varshare.draws": 2, "varshare.controller": "triggered"})
    learner = Learner.make(config)
    state = start = learner.init(jax.random.key(0))
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    update = jax.jit(learner.update, compiler_options=options)
    for _ in range(3):
        state, metrics = update(state)
    return learner, start, state, metrics


def test_a_policy_trains():
    learner, start, after, metrics = trained()
    assert bool(jnp.isfinite(metrics["loss"]).all())
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (
        start.agent.variables, after.agent.variables)), strict=True))
    tasks = learner.problem.suite.num_tasks
    layers = {f"curvature/{name}" for name in ("actor_0", "actor_1", "actor_head", "critic_0",
                                               "critic_1", "critic_head")}
    assert layers <= metrics.keys()
    assert all(metrics[name].shape == (tasks,) for name in layers)


def test_curvatures_are_saved_task_by_task_and_are_what_sigma_follows():
    learner, _, after, _ = trained()
    curvature = after.agent.optimizer.curvature["task"]
    assert all(h.shape[0] == learner.problem.suite.num_tasks for h in jax.tree.leaves(curvature))
    again = learner.problem.network.settle(after.agent.variables, curvature, after.agent.memory,
                                           after.scalars, learner.problem.samples)
    for q, other in zip(*(jax.tree.leaves(t, is_leaf=is_gaussian) for t in (
            again, after.agent.variables["task"])), strict=True):
        assert q.std.max() <= 0.1 * (1 + 1e-5)
        np.testing.assert_array_equal(q.mean, other.mean)


def test_posteriors_start_at_sigma_init():
    _, start, _, _ = trained()
    for q in jax.tree.leaves(start.agent.variables["task"], is_leaf=is_gaussian):
        np.testing.assert_allclose(q.std, 0.01, rtol=1e-4)


@pytest.mark.parametrize(("method", "settings", "flag"), [
    ("varshare_horseshoe", {}, "posterior"), ("varshare_trust_region", {}, "posterior"),
    ("varshare", {"varshare.learn_sigma": False}, "posterior")])
def test_what_has_no_such_posterior_is_refused(method, settings, flag):
    config = C.replace(C.Config(method=method), {"varshare.posterior": "natural", **settings})
    with pytest.raises(UserError, match=f"--varshare.{flag}=natural"):
        Learner.make(config)
