"""Every method trains with every torso, critic, trunk and kind of action space."""

import jax
import jax.numpy as jnp
import pytest

from varshare_jax import config as C
from varshare_jax.learner import Learner
from varshare_jax.methods import METHODS

CHOICES = {
    "network.torso": ("mlp", "bronet"),
    "network.critic": ("scalar", "categorical"),
    "network.trunk": ("separate", "shared"),
    "network.layer_norm": (False, True),
    "suite": ("cartpole10", "gymnax:Pendulum-v1"),
    "varshare.estimator": ("shared", "local"),
}
DRAWS_ONCE = ("varshare_lora", "varshare_horseshoe")  # have no per-example estimator
ROWS = ((0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1), (0, 0, 1, 1, 0, 0), (0, 1, 0, 1, 0, 1))


def settings(row: tuple[int, ...]) -> dict:
    return {name: choices[i] for (name, choices), i in zip(CHOICES.items(), row, strict=True)}


def rows_of(method: str) -> list[tuple[int, ...]]:
    """One row and its complement: between them, every setting of every choice."""
    row = ROWS[sorted(METHODS).index(method) % len(ROWS)]
    return [row, tuple(1 - i for i in row)]


def test_all_pairs_of_settings_occur():
    rows = [row for method in METHODS for row in rows_of(method)]
    for a in range(len(CHOICES)):
        for b in range(a):
            assert len({(row[a], row[b]) for row in rows}) == 4


@pytest.mark.parametrize(("method", "row"), [(m, r) for m in sorted(METHODS) for r in rows_of(m)])
def test_trains(method, row):
    """Two gradient steps: losses stay finite and every parameter with a gradient moves."""
    config = C.replace(C.Config(method=method, total_steps=10_000), {
        "network.hidden": (4, 4), "network.atoms": 5, "ppo.num_envs": 2, "ppo.rollout_length": 4,
        "ppo.minibatches": 2, "ppo.epochs": 1, "lora.rank": 1, **settings(row),
        **({"varshare.estimator": "shared"} if method in DRAWS_ONCE else {})})
    learner = Learner.make(config)
    state = learner.init(jax.random.key(0))
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    after, metrics = jax.jit(learner.update, compiler_options=options)(state)
    assert bool(jnp.isfinite(metrics["loss"]).all())
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.agent.variables,
                         after.agent.variables)
    assert all(jax.tree.leaves(moved))
