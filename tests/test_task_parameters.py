"""What a finished run stores of the tasks' own parameters, and what it logs of them."""

import json

import jax
import numpy as np

from varshare_jax.learner import Learner
from varshare_jax.playing import policies
from varshare_jax.runs import task_parameters


def test_what_posteriors_have_become_is_stored(untrained, tmp_path):
    policy = policies.load(untrained)
    task_parameters.write(tmp_path, policy.problem.network, policy.player.variables)
    stored = json.loads((tmp_path / "posterior.json").read_text())
    gram = np.array(stored["gram"])
    lengths = np.sqrt(np.einsum("saa->sa", gram))
    cosines = json.loads((tmp_path / "similarity.json").read_text())
    np.testing.assert_allclose(gram / lengths[:, :, None] / lengths[:, None], cosines, atol=1e-3)
    assert stored["residual"]
    layer = policy.player.variables["task"]["actor"]["0"]
    spread = np.log1p(np.exp(np.concatenate([np.ravel(q.rho) for q in layer.values()])))
    sigma = stored["sigma"]["actor_0"]
    assert sum(sigma["counts"]) == spread.size
    assert sigma["edges"][0] <= spread.min() <= spread.max() <= sigma["edges"][-1]


def test_a_method_whose_tasks_own_nothing_stores_nothing(tiny, tmp_path):
    network = Learner.make(tiny(method="one_hot")).problem.network
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: np.zeros((2, *x.shape)), shapes)
    task_parameters.write(tmp_path, network, zeros)
    assert json.loads((tmp_path / "posterior.json").read_text()) == {
        "gram": [], "residual": False, "sigma": {}}


def test_training_logs_how_large_residuals_are(tiny):
    for method, logged in (("varshare", True), ("l2_soft", True), ("hard_sharing", False)):
        learner = Learner.make(tiny(method=method, suite="cartpole"))
        state = jax.eval_shape(learner.init, jax.random.key(0))
        metrics = jax.eval_shape(learner.update, state)[1]
        assert ("relative_mu/actor_0" in metrics) == logged
        assert all(metric.shape == (1,) for metric in metrics.values())


def test_cosine_similarity_of_vectors():
    found = task_parameters.cosine_similarity([[1.0, 0.0], [3.0, 3.0], [-2.0, 0.0], [0.0, 0.0]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[:3, :3], [[1, half, -1], [half, 1, -half], [-1, -half, 1]])
    assert np.isnan(found[3]).all()
