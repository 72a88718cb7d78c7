"""Losses against rlax, distrax and closed forms; what is differentiated and what is held."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from varshare_jax.algorithms import objectives as O

MULTIPLIERS = [1e-7, 1e-3, 0.5, 10.0, 500.0]


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_a_dual_is_what_its_parameter_was_made_for(multiplier):
    np.testing.assert_allclose(O.dual(O.dual_parameter(multiplier)), multiplier, rtol=2e-5)


@pytest.mark.parametrize("parameter", [-1e4, -100.0, 0.0, 1e4])
def test_a_dual_is_positive_whatever_its_parameter(parameter):
    value, slope = jax.value_and_grad(O.dual)(parameter)
    assert value > 0
    assert np.isfinite([value, slope]).all()


@pytest.mark.parametrize(("advantage", "selected"), [
    ([3.0, 1.0, 2.0, 0.0], [1, 0, 1, 0]),
    ([3.0, 1.0, 2.0, 0.0, -1.0], [1, 0, 1, 0, 0]),  # odd: the smaller half
    ([1.0, 2.0, 1.0, 0.0], [1, 1, 1, 0]),  # a tie with the smallest selected
    ([5.0, 5.0, 5.0], [1, 1, 1]),
    ([-7.0], [1]),
])
def test_top_half(advantage, selected):
    both = jnp.array([advantage, [-x for x in advantage]])
    np.testing.assert_array_equal(O.top_half(both)[0], np.array(selected, bool))
    np.testing.assert_array_equal(O.top_half(both[..., None])[0, :, 0], O.top_half(both)[0])


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_top_half_is_that_of_a_sort(scale):
    """Of either sign, with ties and zeros of both signs."""
    advantage = np.round(np.asarray(normal(17, 20, 101)), 1) * np.float32(scale)
    advantage[:3] = -np.abs(advantage[:3])
    smallest = np.sort(advantage)[:, -50]
    np.testing.assert_array_equal(O.top_half(advantage), advantage >= smallest[:, None])


def test_tasks_are_selected_apart():
    """A task whose advantages are all lower loses nothing to another."""
    advantage = jnp.stack([normal(0, 3, 4), normal(1, 3, 4) - 100])
    np.testing.assert_array_equal(O.top_half(advantage).sum((1, 2)), [6, 6])


@pytest.mark.parametrize("count", [8, 9])
@pytest.mark.parametrize("temperature", [0.03, 1.0, 40.0])
def test_vmpo_agrees_with_rlax(count, temperature):
    """Values and all gradients of the three losses, task by task."""
    rlax = pytest.importorskip("rlax", reason="needs varshare_jax[dev]")
    log_prob, kl = -jnp.abs(normal(0, 2, count)), jnp.abs(normal(2, 2, count))
    advantage = normal(1, 2, count)
    selected = O.top_half(advantage)
    duals = jnp.array([[temperature, 2 * temperature], [0.7, 3.0]])
    epsilons = 0.1, 0.02

    def ours(log_prob, kl, duals):
        loss = (O.vmpo_policy_loss(log_prob, advantage, selected, duals[0])
                + O.vmpo_temperature_loss(advantage, selected, duals[0], epsilons[0])
                + O.kl_penalty(kl, duals[1], epsilons[1]).mean(1))
        return loss.sum(), loss

    def theirs(log_prob, kl, duals):
        def of_task(log_prob, advantage, kl, duals):
            penalty = [rlax.LagrangePenalty(d, jnp.float32(e))
                       for d, e in zip(duals, epsilons, strict=True)]
            return rlax.vmpo_loss(log_prob, advantage, penalty[0], [(kl, penalty[1])])[0].mean()

        loss = jax.vmap(of_task)(log_prob, advantage, kl, duals.T)
        return loss.sum(), loss

    arguments = log_prob, kl, duals
    grads, loss = jax.jit(jax.grad(ours, (0, 1, 2), has_aux=True))(*arguments)
    their_grads, their_loss = jax.jit(jax.grad(theirs, (0, 1, 2), has_aux=True))(*arguments)
    np.testing.assert_allclose(loss, their_loss, rtol=1e-4)
    for mine, other in zip(grads, their_grads, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-6)


def test_vmpo_policy_loss_by_hand():
    """ψ = softmax of [2, 1] / η over the two largest of four."""
    advantage, log_prob = jnp.array([[1.0, -3.0, 2.0, 0.5]]), jnp.array([[-0.1, -9.0, -0.4, -8.0]])
    weight = np.exp(2 / 0.5) / (np.exp(2 / 0.5) + np.exp(1 / 0.5))
    loss = O.vmpo_policy_loss(log_prob, advantage, O.top_half(advantage), jnp.array([0.5]))
    np.testing.assert_allclose(loss, [weight * 0.4 + (1 - weight) * 0.1], rtol=1e-6)


def test_the_temperature_that_minimises_its_loss_holds_the_weights_to_the_bound():
    """There KL(ψ ‖ uniform over the selected) = ε, in each task its own."""
    advantage, epsilon = normal(3, 2, 6, 10) * jnp.array([1.0, 30.0])[:, None, None], 0.3
    found = []
    selected = O.top_half(advantage)
    loss = jax.jit(lambda log_t: O.vmpo_temperature_loss(advantage, selected, jnp.exp(log_t),
                                                         epsilon))
    for task in range(2):
        found.append(np.exp(scipy.optimize.minimize_scalar(
            lambda log_t, task=task: float(loss(jnp.full(2, log_t))[task]), bounds=(-6, 6)).x))
        chosen = np.asarray(advantage[task])[np.asarray(selected[task])]
        weights = np.exp(chosen / found[-1] - np.max(chosen / found[-1]))
        weights /= weights.sum()
        np.testing.assert_allclose((weights * np.log(weights * weights.size)).sum(), epsilon,
                                   rtol=0.02)
    assert found[1] > 10 * found[0]
    slope = jax.grad(lambda t: O.vmpo_temperature_loss(advantage, selected, t, epsilon).sum())(
        jnp.array(found, jnp.float32))
    np.testing.assert_allclose(slope, 0.0, atol=0.01)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("parameter", [-100.0, 100.0])
def test_vmpo_is_finite_at_extremes(scale, parameter):
    advantage, log_prob = scale * normal(4, 1, 7), -jnp.abs(normal(5, 1, 7))

    def loss(log_prob, parameter):
        selected, temperature = O.top_half(advantage), O.dual(parameter)
        return (O.vmpo_policy_loss(log_prob, advantage, selected, temperature)
                + O.vmpo_temperature_loss(advantage, selected, temperature, 0.1))[0]

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(log_prob, jnp.array([parameter]))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_kl_penalty_moves_each_side_alone():
    kl, multiplier = jnp.array([[0.1, 0.5], [0.2, 0.2]]), jnp.array([2.0, 5.0])
    of_kl, of_multiplier = jax.grad(
        lambda kl, m: O.kl_penalty(kl, m, 0.2).sum(), (0, 1))(kl, multiplier)
    np.testing.assert_allclose(of_kl, [[2, 2], [5, 5]])
    np.testing.assert_allclose(of_multiplier, [-0.2, 0.0], atol=1e-7)  # Σ (ε − KL)
    np.testing.assert_allclose(O.kl_penalty(kl, multiplier, 0.2), [[0.4, 0.4], [1, 1]])


def gaussian(mean: jax.Array, std: jax.Array) -> distrax.Independent:
    return distrax.Independent(distrax.Normal(mean, std), 1)


def test_gaussian_kl_parts_are_kls_with_one_thing_changed():
    old_mean, mean = normal(6, 2, 5, 3), normal(7, 2, 5, 3)
    old_std, std = jnp.exp(normal(8, 2, 5, 3)), jnp.exp(normal(9, 2, 5, 3))
    old = gaussian(old_mean, old_std)
    parts = O.kl_parts(old, gaussian(mean, std))
    np.testing.assert_allclose(parts["mean"], old.kl_divergence(gaussian(mean, old_std)),
                               rtol=1e-4)
    np.testing.assert_allclose(parts["covariance"], old.kl_divergence(gaussian(old_mean, std)),
                               rtol=1e-4, atol=1e-6)
    assert parts["mean"].shape == (2, 5)


def test_gaussian_kl_parts_move_mean_and_deviation_apart():
    old = gaussian(jnp.zeros((1, 3)), jnp.ones((1, 3)))

    def slope(part):
        kl = lambda mean, std: O.kl_parts(old, gaussian(mean, std))[part].sum()  # noqa: E731
        return jax.grad(kl, (0, 1))(jnp.full((1, 3), 0.5), jnp.full((1, 3), 2.0))

    np.testing.assert_allclose(slope("mean")[0], 0.5)
    np.testing.assert_allclose(slope("mean")[1], 0.0)
    np.testing.assert_allclose(slope("covariance")[0], 0.0)
    np.testing.assert_allclose(slope("covariance")[1], 1 / 2 - 1 / 8)  # 1/σ − σₜ²/σ³


def test_kl_of_discrete_policies_is_from_target_to_policy():
    old, new = normal(10, 2, 5, 4), normal(11, 2, 5, 4)
    p, q = jax.nn.softmax(old), jax.nn.softmax(new)
    kl = O.kl_parts(distrax.Categorical(logits=old), distrax.Categorical(logits=new))
    assert list(kl) == ["policy"]
    np.testing.assert_allclose(kl["policy"], (p * jnp.log(p / q)).sum(-1), rtol=1e-4)


def test_q_targets_by_hand():
    """Double Q takes the online network's action and the target network's value."""
    reward, discount = jnp.array([[1.0, 2.0]]), jnp.array([[0.9, 0.0]])  # the second terminated
    target_q = jnp.array([[[3.0, 5.0], [7.0, 8.0]]])
    online_q = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
    np.testing.assert_allclose(O.q_target(reward, discount, target_q), [[1 + 0.9 * 5, 2]])
    np.testing.assert_allclose(O.q_target(reward, discount, target_q, online_q),
                               [[1 + 0.9 * 3, 2]])


def test_q_learning_agrees_with_rlax():
    rlax = pytest.importorskip("rlax", reason="needs varshare_jax[dev]")
    q, online, target = normal(12, 2, 6, 3), normal(13, 2, 6, 3), normal(14, 2, 6, 3)
    action = jax.random.randint(jax.random.key(15), (2, 6), 0, 3)
    reward, discount = normal(16, 2, 6), jnp.full((2, 6), 0.9)
    error = jax.vmap(jax.vmap(rlax.double_q_learning))(q, action, reward, discount, target, online)
    ours = O.q_loss(q, action, O.q_target(reward, discount, target, online))
    np.testing.assert_allclose(ours, rlax.huber_loss(error), rtol=1e-4)
    assert (jnp.abs(error) > 1).any()
    assert (jnp.abs(error) < 1).any()


def test_q_loss_is_huber_and_holds_its_target():
    q, action = jnp.array([[[0.5, 9.0], [9.0, -4.0]]]), jnp.array([[0, 1]])
    target = jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(O.q_loss(q, action, target), [[0.125, 4.5]])
    slope = jax.grad(lambda q: O.q_loss(q, action, target).sum())(q)
    np.testing.assert_allclose(slope, [[[0.5, 0], [0, -1]]])
    of_next = jax.grad(lambda x: O.q_target(target, target, x, x).sum())(q)
    np.testing.assert_array_equal(of_next, 0.0)


def test_smoothed_actions_by_hand():
    """The noise is clipped first, then the action that it is added to."""
    action, noise = jnp.array([0.0, 0.0, 0.9, -0.9, 0.2]), jnp.array([1.0, -9.0, 9.0, -1.0, 0.0])
    np.testing.assert_allclose(O.smoothed(action, noise, 0.2, 0.5), [0.2, -0.5, 1, -1, 0.2],
                               rtol=1e-6)
    np.testing.assert_array_equal(O.smoothed(action, noise, 0.0, 0.5), action)


def test_soft_value_by_hand():
    """Σ π (Q - α log π), with each task's own α; at α = 0 the expectation of Q."""
    probability, q = np.array([[[0.25, 0.75]], [[0.25, 0.75]]]), np.array([[[4.0, 8.0]]] * 2)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    found = O.soft_value(probability, jnp.log(probability), q, jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(found, [[7.0], [7.0 + 2 * entropy]], rtol=1e-6)


def test_no_policy_has_a_higher_soft_value_than_the_softmax():
    """There it is α log Σ exp(Q / α)."""
    q, alpha = normal(18, 2, 5, 4), jnp.array([0.3, 2.0])
    best = jax.nn.softmax(q / alpha[:, None, None])
    highest = O.soft_value(best, jnp.log(best), q, alpha)
    np.testing.assert_allclose(
        highest, alpha[:, None] * jax.nn.logsumexp(q / alpha[:, None, None], axis=-1), rtol=1e-5)
    other = jax.nn.softmax(normal(19, 2, 5, 4))
    assert (O.soft_value(other, jnp.log(other), q, alpha) < highest).all()


def test_a_temperature_falls_where_entropy_is_above_its_target():
    """The slope is that of log α (H - H̄), which is descended."""
    np.testing.assert_allclose(O.temperature_slope(jnp.array([2.0, -3.0]), -1.0), [3, -2])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_a_target_moves_by_its_share(share, expected):
    moved = O.polyak({"a": jnp.ones(2)}, {"a": jnp.full(2, 5.0)}, share)
    np.testing.assert_allclose(moved["a"], expected)
