"""Every method trains by every algorithm, every torso, critic, trunk and kind of action space."""

import jax
import jax.numpy as jnp
import pytest
from conftest import FUZZ

from varshare_jax import config as C
from varshare_jax.algorithms import ALGORITHMS
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
TINIEST = {
    **{f"{algorithm}.{name}": value for algorithm in ("ppo", "vmpo") for name, value in
       {"num_envs": 2, "rollout_length": 4, "minibatches": 2, "epochs": 1}.items()},
    **{f"{algorithm}.{name}": value for algorithm in ("dqn", "sac", "ddpg", "mpo")
       for name, value in {"num_envs": 2, "rollout_length": 4, "learning_starts": 8,
                           "batch_size": 4, "gradient_steps": 2}.items()},
    "ddpg.twin": True, "ddpg.policy_delay": 2, "mpo.action_samples": 3,
    "ddpg.normalize_returns": True}  # Pendulum's losses are else beyond PaCo's threshold
ROWS = ((0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1), (0, 0, 1, 1, 0, 0), (0, 1, 0, 1, 0, 1))


def settings(row: tuple[int, ...]) -> dict:
    return {name: choices[i] for (name, choices), i in zip(CHOICES.items(), row, strict=True)}


def runs_of(method: str) -> list[tuple[str, tuple[int, ...]]]:
    """PPO and V-MPO with a row and its complement, between them every setting; DQN, which knows
    discrete actions; SAC with actions of either kind or TD3, in turn; MPO with either kind. These
    have scalar critics, and those of continuous actions hidden layers of their own.
    """
    number = sorted(METHODS).index(method)
    row = ROWS[number % len(ROWS)]
    pair = [row, tuple(1 - i for i in row)]
    first, second = pair if number // len(ROWS) % 2 else reversed(pair)
    names = list(CHOICES)

    def fixed(**values):
        return tuple({"critic": 0, **values}.get(names[i].rpartition(".")[2], x)
                     for i, x in enumerate(row))

    valued = (("sac", fixed(suite=0)), ("sac", fixed(suite=1, trunk=0)),
              ("ddpg", fixed(suite=1, trunk=0)))[number % 3]
    weighed = fixed(suite=0) if number % 2 else fixed(suite=1, trunk=0)
    return [("ppo", first), ("vmpo", second), ("dqn", fixed(suite=0)), valued, ("mpo", weighed)]


def test_all_pairs_of_settings_occur():
    runs = [run for method in METHODS for run in runs_of(method)]
    for a in range(len(CHOICES)):
        assert len({run for run in ((algorithm, row[a]) for algorithm, row in runs)
                    if run[0] in ("ppo", "vmpo")}) == 4
        for b in range(a):
            assert len({(row[a], row[b]) for _, row in runs}) == 4
    assert {algorithm for algorithm, _ in runs} == set(ALGORITHMS)


def runs_here(method: str) -> list[tuple[str, tuple[int, ...]]]:
    """One algorithm for each method in turn; all of them in `make fuzz`."""
    runs = runs_of(method)
    return runs if FUZZ > 1 else [runs[sorted(METHODS).index(method) // 3 % len(runs)]]


@pytest.mark.parametrize(("method", "algorithm", "row"),
                         [(m, *run) for m in sorted(METHODS) for run in runs_here(m)])
def test_trains(method, algorithm, row):
    """Three updates: losses stay finite and every parameter moves."""
    config = C.replace(C.Config(method=method, algorithm=algorithm, total_steps=10_000), {
        "network.hidden": (4, 4), "network.atoms": 5, "lora.rank": 1, **TINIEST, **settings(row),
        **({"varshare.estimator": "shared"} if method in DRAWS_ONCE else {})})
    learner = Learner.make(config)
    state = start = learner.init(jax.random.key(0))
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    update = jax.jit(learner.update, compiler_options=options)
    for _ in range(3):
        state, metrics = update(state)
        assert bool(jnp.isfinite(metrics["loss"]).all())
    assert all(m.shape == (learner.problem.suite.num_tasks,) for m in metrics.values())
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.agent.variables,
                         state.agent.variables)
    assert all(jax.tree.leaves(moved))
