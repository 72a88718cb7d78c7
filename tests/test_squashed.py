"""Gaussians squashed by tanh against distrax, an integral, and where float32 ends."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from varshare_jax.networks.heads import LOG_STD_RANGE, SquashedPolicyHead
from varshare_jax.networks.squashed import SquashedNormal


def parameters(*shape: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Means, deviations and standard normal noise."""
    loc, log_std, noise = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
    return loc, jnp.exp(log_std / 2), noise


def test_densities_are_those_of_distrax():
    loc, scale, noise = parameters(2, 5, 3)
    theirs = distrax.Transformed(distrax.MultivariateNormalDiag(loc, scale),
                                 distrax.Block(distrax.Tanh(), 1))
    ours = SquashedNormal(loc, scale)
    action, log_prob = ours.squash(noise)
    np.testing.assert_array_equal(action, jnp.tanh(loc + scale * noise))
    np.testing.assert_allclose(log_prob, theirs.log_prob(action), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.log_prob(action), log_prob, rtol=1e-3, atol=1e-3)
    assert (ours.batch_shape, ours.event_shape, log_prob.shape) == ((2, 5), (3,), (2, 5))


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.5), (0.7, 1.0), (-1.0, 0.1)])
def test_densities_integrate_to_one(loc, scale):
    policy = SquashedNormal(jnp.array([loc]), jnp.array([scale]))
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    density = np.exp(jax.vmap(policy.log_prob)(jnp.float32(grid)[:, None]))
    np.testing.assert_allclose(scipy.integrate.trapezoid(density, grid), 1.0, atol=2e-3)


def test_samples_come_with_their_densities():
    """Means of many are those of tanh(u); entropies those of quadrature."""
    policy = SquashedNormal(jnp.array([0.4]), jnp.array([0.8]))
    action, log_prob = policy.sample_and_log_prob(seed=jax.random.key(0), sample_shape=40_000)
    np.testing.assert_array_equal(
        action, policy.sample(seed=jax.random.key(0), sample_shape=40_000))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    raw, weights = 0.4 + 0.8 * nodes, weights / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(action.mean(), weights @ np.tanh(raw), atol=0.01)
    entropy = np.log(0.8 * np.sqrt(2 * np.pi * np.e)) + weights @ np.log(1 - np.tanh(raw) ** 2)
    np.testing.assert_allclose(-log_prob.mean(), entropy, atol=0.02)
    np.testing.assert_allclose(policy.mode(), np.tanh([0.4]), rtol=1e-6)


@pytest.mark.parametrize("loc", [-30.0, 0.0, 30.0])
def test_what_rounds_to_a_bound_has_a_density_and_a_gradient(loc):
    def total(loc):
        action, log_prob = SquashedNormal(loc, jnp.array([0.5])).squash(jnp.array([1.0]))
        return log_prob + action.sum()

    value, slope = jax.value_and_grad(total)(jnp.array([loc]))
    assert np.isfinite([value, *slope]).all()
    policy = SquashedNormal(jnp.array([loc]), jnp.array([0.5]))
    assert np.isfinite(policy.log_prob(jnp.array([[1.0], [-1.0]]))).all()


def test_deviations_are_the_heads_and_bounded():
    head = SquashedPolicyHead(2, initial_log_std=-1.0)
    policy = head.read(None, jnp.array([0.5, -0.5, 1.0, 1e3]))
    np.testing.assert_array_equal(policy.loc, [0.5, -0.5])
    np.testing.assert_allclose(policy.scale, [1.0, np.exp(LOG_STD_RANGE[1])], rtol=1e-6)
