"""Closed forms and estimators against distrax and finite samples."""

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax.variational.estimators import ESTIMATORS
from varshare_jax.variational.gaussian import Gaussian, kl_divergence, rho_of, sample_tree


def _gaussian(key, *shape, std=0.3):
    return Gaussian(jax.random.normal(key, shape), jnp.full(shape, rho_of(std)))


@pytest.mark.parametrize("prior_std", [0.01, 0.1, 1.0])
def test_kl_equals_distrax(prior_std):
    key = jax.random.key(0)
    q = Gaussian(jax.random.normal(key, (7, 5)), jax.random.uniform(key, (7, 5), minval=-5.0))
    expected = distrax.Normal(q.mean, nn.softplus(q.rho)).kl_divergence(
        distrax.Normal(0.0, prior_std))
    np.testing.assert_allclose(kl_divergence(q, prior_std), expected, rtol=2e-5, atol=2e-5)


def test_kl_gradients():
    """∂KL/∂μ = μ/σ_prior²; ∂KL/∂σ = σ/σ_prior² − 1/σ."""
    mu, rho, prior = 0.7, 0.2, 0.5
    grads = jax.grad(lambda q: kl_divergence(q, prior))(Gaussian(mu, rho))
    sigma = float(nn.softplus(rho))
    np.testing.assert_allclose(grads.mean, mu / prior**2, rtol=1e-5)
    by_sigma = grads.rho / float(nn.sigmoid(rho))
    np.testing.assert_allclose(by_sigma, sigma / prior**2 - 1 / sigma, rtol=1e-5)


def test_kl_is_zero_at_the_prior():
    assert float(kl_divergence(Gaussian(jnp.float32(0), rho_of(0.1)), 0.1)) == pytest.approx(0)


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.1, 3.0, 50.0])
def test_rho_inverts_softplus(std):
    assert float(nn.softplus(rho_of(std))) == pytest.approx(std, rel=1e-3)


def test_sample_tree_moments_and_independence():
    tree = {"a": _gaussian(jax.random.key(1), 3, std=0.2), "b": _gaussian(jax.random.key(2), 2),
            "plain": jnp.ones(2)}
    draws = jax.vmap(lambda k: sample_tree(tree, k))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_array_equal(draws["plain"], np.ones((20_000, 2)))
    flat = np.concatenate([draws["a"], draws["b"]], 1)
    expected_mean = np.concatenate([tree["a"].mean, tree["b"].mean])
    np.testing.assert_allclose(flat.mean(0), expected_mean, atol=0.01)
    expected_cov = np.diag([0.2**2] * 3 + [0.3**2] * 2)
    np.testing.assert_allclose(np.cov(flat.T), expected_cov, atol=4e-3)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_share_mean_and_marginal_variance(name):
    """y = x W + b with W, b Gaussian: mean x μ + μ_b, variance x² σ² + σ_b², by moments."""
    keys = jax.random.split(jax.random.key(3), 3)
    kernel, bias = _gaussian(keys[0], 6, 4), _gaussian(keys[1], 4, std=0.5)
    x = jax.random.normal(keys[2], (3, 6))
    draw = jax.jit(jax.vmap(lambda k: ESTIMATORS[name](x, kernel, bias, k)))
    y = draw(jax.random.split(jax.random.key(4), 40_000))
    variance = jnp.square(x) @ jnp.square(kernel.std) + jnp.square(bias.std)
    np.testing.assert_allclose(y.mean(0), x @ kernel.mean + bias.mean, atol=0.03)
    np.testing.assert_allclose(y.var(0), variance, rtol=0.05)
    across = np.corrcoef(np.asarray(y[:, 0, 0]), np.asarray(y[:, 1, 0]))[0, 1]
    assert abs(across) < 0.03, "examples of a batch must be uncorrelated"


def test_shared_draw_correlates_examples():
    """The contrast to the above: one draw for the batch makes outputs move together."""
    kernel = _gaussian(jax.random.key(0), 6, 1)
    x = jnp.ones((2, 6))
    y = jax.vmap(lambda k: x @ sample_tree({"k": kernel}, k)["k"])(
        jax.random.split(jax.random.key(1), 500))
    np.testing.assert_allclose(y[:, 0], y[:, 1], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_without_noise_are_the_mean(name):
    kernel = Gaussian(jnp.ones((3, 2)), jnp.full((3, 2), -40.0))
    bias = Gaussian(jnp.ones(2), jnp.full(2, -40.0))
    x = jnp.arange(6.0).reshape(2, 3)
    y = ESTIMATORS[name](x, kernel, bias, jax.random.key(0))
    np.testing.assert_allclose(y, x @ kernel.mean + 1, atol=1e-4)
