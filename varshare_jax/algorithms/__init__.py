"""The registry of algorithms: a new one is one file and one line here, or an entry point elsewhere.
"""

from varshare_jax.algorithms.base import Algorithm, AlgorithmConfig, Problem
from varshare_jax.algorithms.dqn import DQN
from varshare_jax.algorithms.ppo import PPO
from varshare_jax.algorithms.vmpo import VMPO
from varshare_jax.settings import Registry


def _adopt(name: str, kind: type[Algorithm]) -> Algorithm:
    if kind.settings.section != name:
        raise ValueError(f"its section of settings is {kind.settings.section}")
    return kind()


ALGORITHMS: Registry = Registry("algorithms", {
    kind.settings.section: kind() for kind in (PPO, VMPO, DQN)}, _adopt)

__all__ = ["ALGORITHMS", "Algorithm", "AlgorithmConfig", "Problem"]
