"""The registry of algorithms: a new one is one file and one line here, or an entry point elsewhere.
"""

from varshare_jax.algorithms.base import Algorithm, AlgorithmConfig, Problem
from varshare_jax.algorithms.dqn import DQN
from varshare_jax.algorithms.ppo import PPO
from varshare_jax.algorithms.vmpo import VMPO
from varshare_jax.settings import registered

ALGORITHMS: dict[str, Algorithm] = {kind.settings.section: kind() for kind in (
    PPO, VMPO, DQN, *registered("algorithms").values())}

__all__ = ["ALGORITHMS", "Algorithm", "AlgorithmConfig", "Problem"]
