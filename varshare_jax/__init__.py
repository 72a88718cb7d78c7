"""Multi-task reinforcement learning in JAX: VarShare and its baselines on one PPO.

    import varshare_jax as vs
    result = vs.train(vs.Config(suite="cartpole10", method="varshare", num_seeds=4))

Those who write their own loop take `vs.Learner.make(config)`: its `init` and `update` are pure
functions of one seed.
"""

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
