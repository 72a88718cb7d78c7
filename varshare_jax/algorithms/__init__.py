"""The registry of algorithms: a new one is one file, its section in `settings` and one line here,
or an entry point elsewhere.
"""

from typing import Any

from varshare_jax.algorithms.settings import SECTIONS, AlgorithmConfig
from varshare_jax.settings import At, Registry


def _adopt(name: str, kind: Any) -> Any:
    if kind.settings.section != name:
        raise ValueError(f"its section of settings is {kind.settings.section}")
    return kind()


ALGORITHMS: Registry = Registry("algorithms", {
    "ppo": At("varshare_jax.algorithms.ppo:PPO"),
    "vmpo": At("varshare_jax.algorithms.vmpo:VMPO"),
    "dqn": At("varshare_jax.algorithms.dqn:DQN"),
    "sac": At("varshare_jax.algorithms.sac:SAC"),
    "ddpg": At("varshare_jax.algorithms.ddpg:DDPG"),
    "mpo": At("varshare_jax.algorithms.mpo:MPO"),
}, _adopt)
"""A name -> its `Algorithm`."""


def sections() -> tuple[type[AlgorithmConfig], ...]:
    """Sections of settings of all algorithms, in the order of their flags."""
    return *SECTIONS, *(algorithm.settings for algorithm in ALGORITHMS.registered())
