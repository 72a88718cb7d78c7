"""Critics and PopArt: projections, and statistics that move without moving values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varshare_jax.algorithms import popart
from varshare_jax.networks.critics import CategoricalCritic, ScalarCritic


@pytest.mark.parametrize(("atoms", "bound"), [(101, 10.0), (2, 1.0), (51, 3.0)])
def test_projection_is_a_distribution_with_the_target_as_its_mean(atoms, bound):
    critic = CategoricalCritic(atoms, bound)
    targets = jnp.linspace(-bound, bound, 173)
    probabilities = critic.project(targets)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    assert (probabilities >= 0).all()
    assert (jnp.count_nonzero(probabilities > 1e-6, axis=-1) <= 2).all()
    np.testing.assert_allclose(probabilities @ critic.atoms, targets, atol=1e-5 * bound)


def test_targets_beyond_the_support_are_its_ends():
    critic = CategoricalCritic(11, 2.0)
    np.testing.assert_allclose(critic.project(jnp.array([-7.0, 7.0])) @ critic.atoms, [-2, 2])


def test_cross_entropy_is_least_at_the_target():
    """Its gradient vanishes where the predicted distribution is the projected target."""
    critic = CategoricalCritic(11, 2.0)
    target = jnp.array([0.37])
    logits = jnp.log(critic.project(target) + 1e-9)
    error = lambda x: critic.error(x, target, target, None).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(error)(logits), 0.0, atol=1e-6)
    np.testing.assert_allclose(critic.value(logits), target, atol=1e-5)
    assert error(jnp.zeros((1, 11))) > error(logits)


def test_scalar_error_is_clipped_like_the_policy():
    critic, clip = ScalarCritic(), 0.2
    output, target, old = jnp.array([[1.0], [1.0]]), jnp.array([0.0, 2.0]), jnp.array([0.5, 0.5])
    np.testing.assert_allclose(critic.error(output, target, old, None), [0.5, 0.5])
    # Clipped to 0.7: nearer to the first target, farther from the second; the larger error counts.
    np.testing.assert_allclose(critic.error(output, target, old, clip), [0.5, 0.5 * 1.3**2],
                               rtol=1e-6)


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_popart_keeps_every_value_while_its_statistics_move(rate):
    keys = jax.random.split(jax.random.key(0), 4)
    stats = popart.ValueStats(jnp.array([3.0, -200.0]), jnp.array([10.0, 90_000.0]))
    layer = {"scale": jax.random.uniform(keys[0], (2,)) + 0.5, "shift": jnp.array([0.3, -1.0])}
    output = jax.random.normal(keys[1], (2, 5, 7))
    targets = 40 * jax.random.normal(keys[2], (2, 5, 7)) + jnp.array([0.0, 900.0])[:, None, None]
    before = stats.restore(popart.apply_layer(layer, output))
    new, new_layer = popart.follow(stats, layer, targets, jnp.float32(rate))
    after = new.restore(popart.apply_layer(new_layer, output))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)
    assert np.abs(new.std - stats.std).min() > 1
    if rate == 1.0:
        np.testing.assert_allclose(new.mean, targets.mean((1, 2)), rtol=1e-4)
        np.testing.assert_allclose(new.std, targets.std((1, 2)), rtol=1e-2)
        standard = new.standardize(targets)
        np.testing.assert_allclose(standard.std((1, 2)), 1.0, rtol=1e-2)
