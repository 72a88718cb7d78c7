"""Multi-task reinforcement learning in JAX: VarShare and its baselines on one PPO.

    import varshare_jax as vs
    result = vs.train(vs.Config(suite="cartpole10", method="varshare", num_seeds=4))

Those who write their own loop take `vs.Learner.make(config)`: its `init` and `update` are pure
functions of one seed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from varshare_jax.algorithms.ppo import PPOConfig
    from varshare_jax.config import Config
    from varshare_jax.errors import UserError
    from varshare_jax.learner import Learner
    from varshare_jax.methods.l2_soft import L2SoftConfig
    from varshare_jax.methods.varshare import VarShareConfig
    from varshare_jax.networks.settings import NetworkConfig
    from varshare_jax.runner import Result, train

__version__ = "0.1.0"

__all__ = ["Config", "L2SoftConfig", "Learner", "NetworkConfig", "PPOConfig", "Result",
           "UserError", "VarShareConfig", "train"]

_HOMES = {"Config": "config", "L2SoftConfig": "methods.l2_soft", "Learner": "learner",
          "NetworkConfig": "networks.settings", "PPOConfig": "algorithms.ppo",
          "Result": "runner", "UserError": "errors", "VarShareConfig": "methods.varshare",
          "train": "runner"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    A package that adds a method imports `varshare_jax.methods.base`, and `config` imports that
    package: were everything imported here, neither could come first.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
