"""Multi-task reinforcement learning in JAX: VarShare and its baselines on one PPO.

    import varshare_jax as vs
    vs.train(vs.Config(suite="cartpole10", method="varshare", num_seeds=4, run_dir="runs/x"))
    action = vs.load("runs/x").act(obs, task="heavy_cart")

Those who write their own loop take `vs.Learner.make(config)`: its `init` and `update` are pure
functions of one seed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from varshare_jax.algorithms.settings import PPOConfig
    from varshare_jax.config import Config, with_presets
    from varshare_jax.errors import UserError
    from varshare_jax.learner import Learner
    from varshare_jax.methods.base import Method
    from varshare_jax.methods.settings import L2SoftConfig, VarShareConfig
    from varshare_jax.networks.settings import NetworkConfig
    from varshare_jax.playing.policies import Policy, load
    from varshare_jax.playing.scoring import evaluate_run as evaluate
    from varshare_jax.runner import Result, train
    from varshare_jax.runs.settings import RunConfig
    from varshare_jax.suites.base import Suite

__version__ = "0.1.0"

_HOMES = {
    "Config": "config", "L2SoftConfig": "methods.settings", "Learner": "learner",
    "Method": "methods.base", "NetworkConfig": "networks.settings",
    "PPOConfig": "algorithms.settings", "Policy": "playing.policies", "Result": "runner",
    "RunConfig": "runs.settings", "Suite": "suites.base", "UserError": "errors",
    "VarShareConfig": "methods.settings",
    "evaluate": "playing.scoring", "load": "playing.policies", "train": "runner",
    "with_presets": "config"}

__all__ = ["Config", "L2SoftConfig", "Learner", "Method", "NetworkConfig", "PPOConfig", "Policy",
           "Result", "RunConfig", "Suite", "UserError", "VarShareConfig", "evaluate", "load",
           "train", "with_presets"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    A package that adds a method imports `varshare_jax.methods.base`, and `config` imports that
    package: were everything imported here, neither could come first.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    there = "evaluate_run" if name == "evaluate" else name
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), there)
    globals()[name] = found
    return found
