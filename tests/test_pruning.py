import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import network_of, quick_compile

from varshare_jax import config as C
from varshare_jax.cli import prune
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS
from varshare_jax.playing import policies
from varshare_jax.playing.pruning import KEPT, files, prune_run
from varshare_jax.playing.scoring import evaluate_run
from varshare_jax.types import Discrete, Player
from varshare_jax.variational import residuals, sparsity
from varshare_jax.variational.gaussian import Gaussian, rho_of
from varshare_jax.variational.settings import RULES

# Two tasks with three residuals each; σ = 0.1 and 1, so that the two rules disagree.
MEANS = jnp.array([[0.5, -0.2, 0.0], [0.1, -3.0, 0.3]])
TASK = {"layer": Gaussian(MEANS, jnp.full((2, 3), rho_of(0.1)).at[:, 0].set(rho_of(1.0)))}


def variables_of(method: str):
    config = C.replace(C.Config(method=method), {"network.hidden": (4, 4), "lora.rank": 1})
    network = network_of(config, 3, 2, Discrete(2))
    return zeros(jax.eval_shape(network.init, jax.random.key(0)))


def zeros(shapes, *leading):
    return jax.tree.map(lambda x: jnp.zeros((*leading, *x.shape), x.dtype), shapes)


def test_magnitude_and_signal_to_noise_drop_different_residuals():
    by_magnitude = sparsity.prune(TASK, 0.25, "magnitude")["layer"]
    np.testing.assert_array_equal(by_magnitude, jnp.array([[0.5, 0, 0], [0, -3, 0.3]]))
    by_snr = sparsity.prune(TASK, 1.5, "snr")["layer"]  # |μ|/σ: 0.5 2 0, 0.1 30 3
    np.testing.assert_array_equal(by_snr, jnp.array([[0, -0.2, 0], [0, -3, 0.3]]))
    np.testing.assert_allclose(sparsity.kept({"a": by_magnitude, "b": by_snr}), [2 / 6, 4 / 6])


def test_a_threshold_of_zero_keeps_all_and_an_infinite_one_nothing():
    for rule in RULES:
        np.testing.assert_array_equal(sparsity.prune(TASK, 0.0, rule)["layer"], MEANS)
        np.testing.assert_array_equal(sparsity.prune(TASK, jnp.inf, rule)["layer"], 0 * MEANS)


@pytest.mark.parametrize(("size", "bytes_each"), [(256, 5), (257, 6), (65536, 6), (65537, 8)])
def test_sparse_vectors_come_back_and_cost_what_is_said(size, bytes_each):
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((3, size)) < 0.1, rng.normal(size=(3, size)), 0).astype(np.float32)
    rows[1], rows[2, -1] = 0, 1  # a task without any, and the last index of all
    sparse = sparsity.to_sparse(rows)
    np.testing.assert_array_equal(sparsity.from_sparse(sparse, size), rows)
    assert sparse.indices.nbytes + sparse.values.nbytes == bytes_each * sparse.counts.sum()
    assert sparsity.stored_bytes(int(sparse.counts.sum()), size) == bytes_each * sparse.counts.sum()


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_with_a_residual_for_every_weight_have_residuals(method):
    variables = variables_of(method)
    has = residuals.mirrors(variables)
    assert has == (method in ("varshare", "varshare_trust_region", "l2_soft"))
    assert bool(residuals.relative_size(variables)) == has


def test_relative_size_compares_sums_of_magnitudes_layer_by_layer():
    shared = {"actor": {"0": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.array([2.0, 0.0])}}}
    task = jax.tree.map(lambda p: Gaussian(jnp.stack([0 * p, 1 + 0 * p]), jnp.ones((2, *p.shape))),
                        shared)
    found = residuals.relative_size({"shared": shared, "task": task})
    assert list(found) == ["relative_mu/actor_0"]
    np.testing.assert_allclose(found["relative_mu/actor_0"], [0.0, 4 / 4])


@pytest.fixture(scope="module")
def pruned(untrained, tmp_path_factory):
    """A run pruned by magnitude, however much that costs it."""
    folder = tmp_path_factory.mktemp("pruned") / "run"
    shutil.copytree(untrained, folder)
    with quick_compile():
        return folder, prune_run(folder, rule="magnitude", max_lost=1.0, episodes=1, quiet=True)


def test_the_curve_holds_every_threshold_with_kept_shares_bytes_and_returns(pruned):
    folder, result = pruned
    assert json.loads(files(folder, "magnitude").curve.read_text()) == result
    assert files(folder, "magnitude").figure.read_bytes().startswith(b"\x89PNG")
    assert len(result["curve"]) == len(KEPT)
    for share, point in zip(KEPT, result["curve"], strict=True):
        assert np.mean(point["kept"]) == pytest.approx(share, abs=2e-3)
        size = result["bytes_unpruned"]["means_per_task"] / 4
        np.testing.assert_allclose(point["bytes"], 5 * np.array(point["kept"]) * size, rtol=1e-5)
        assert np.shape(point["return"]) == (2, 10)
    assert result["curve"][-1]["threshold"] is None
    losses = [point["lost"] for point in result["curve"]]
    assert losses[0] == 0.0
    assert all(lost <= 1.0 for lost in losses[:result["chosen"] + 1])


def test_the_console_shows_every_threshold_and_task(pruned, capsys):
    prune._print(pruned[1])
    lines = capsys.readouterr().out.splitlines()
    assert sum("%" in line for line in lines) == len(KEPT) + 1 + 10
    assert [line.endswith("<- chosen") for line in lines].count(True) == 1


def test_the_actor_is_counted_apart(pruned):
    """Returns depend on the actor alone: how much of it is left is what they speak of."""
    folder, result = pruned
    policy = policies.load(folder)
    sizes = {name: sum(x.size for x in jax.tree.leaves(branch))
             for name, branch in policy.of_seed(0).variables["shared"].items()}
    acting = sizes["actor"] + sizes["actor_head"]
    threshold = result["curve"][4]["threshold"]
    task = sparsity.prune(policy.player.variables["task"], threshold, "magnitude")
    kept = np.sum([np.count_nonzero(x, axis=tuple(range(2, x.ndim))) for name in (
        "actor", "actor_head") for x in jax.tree.leaves(task[name])], 0)
    np.testing.assert_allclose(result["curve"][4]["kept_acting"], kept / acting, rtol=1e-5)
    np.testing.assert_allclose(result["curve"][4]["bytes_acting"], 5 * kept, rtol=1e-5)


def test_what_the_file_plays_is_what_the_curve_says(pruned):
    folder, result = pruned
    with quick_compile():
        scores = evaluate_run(files(folder, "magnitude").policy, episodes=1)
        whole = evaluate_run(folder, episodes=1)
    assert scores["return"] == result["curve"][result["chosen"]]["return"]
    assert whole["return"] == result["curve"][0]["return"]


def test_the_file_holds_the_shared_network_and_the_pruned_means(pruned):
    folder, result = pruned
    whole, sparse = policies.load(folder), policies.load(files(folder, "magnitude").policy)
    jax.tree.map(np.testing.assert_array_equal, whole.player.variables["shared"],
                 sparse.player.variables["shared"])
    threshold = result["curve"][result["chosen"]]["threshold"]
    expected = sparsity.prune(whole.player.variables["task"],
                             jnp.inf if threshold is None else threshold, "magnitude")
    jax.tree.map(np.testing.assert_array_equal, expected, sparse.player.variables["task"])
    assert sparse.update == whole.update


@pytest.mark.parametrize(("method", "rule", "words"), [
    ("l2_soft", "snr", "--by=snr: residuals of l2_soft have no standard deviations"),
    ("hard_sharing", "magnitude", "tasks of hard_sharing own no residual")])
def test_what_cannot_be_pruned_is_named(tiny, monkeypatch, method, rule, words):
    problem = Learner.make(tiny(method=method, suite="cartpole")).problem
    variables = zeros(jax.eval_shape(problem.network.init, jax.random.key(0)), 1)
    monkeypatch.setattr("varshare_jax.playing.pruning.load",
                        lambda path: policies.Policy(problem, Player(variables, {}), 1))
    with pytest.raises(UserError, match=words):
        prune_run("runs/x", rule=rule, quiet=True)


def test_what_cannot_be_played_is_named(pruned, tmp_path):
    folder, _ = pruned
    sparse = files(folder, "magnitude").policy
    with pytest.raises(UserError, match=r"--weights=sample: .* holds means alone"):
        evaluate_run(sparse, weights="sample")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(sparse.read_bytes()[:-500])
    for damaged in (cut, folder / "config.json"):
        with pytest.raises(UserError, match="not a file of varshare-prune, or damaged"):
            policies.load(damaged)


def test_loading_a_run_leaves_the_compile_cache_that_it_names_alone(untrained, tmp_path):
    """What lies in a cache is executed, and a run's folder may be anybody's."""
    folder, cache = tmp_path / "run", tmp_path / "cache"
    shutil.copytree(untrained, folder)
    stored = json.loads((folder / "config.json").read_text())
    stored["run"]["compile_cache"] = str(cache)
    (folder / "config.json").write_text(json.dumps(stored))
    before = jax.config.jax_compilation_cache_dir
    policies.load(folder)
    assert jax.config.jax_compilation_cache_dir == before != str(cache)
    assert not cache.exists()
