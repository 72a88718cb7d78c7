"""Soft modularization: a router weighs the modules of every layer, for each task and state.

Yang et al. 2020, "Multi-Task Reinforcement Learning with Soft Modularization", arXiv 2003.13661.
The network is `networks/soft_modules.py`; docs/method.md lists where the paper and its code
differ and what this one does.
"""

from varshare_jax.methods.base import Method
from varshare_jax.methods.settings import SoftModularizationConfig
from varshare_jax.networks.heads import is_head
from varshare_jax.networks.soft_modules import SoftModules


class SoftModularization(Method):
    """Everything is shared; a task owns the row of the embedding that its router reads."""

    settings = (SoftModularizationConfig,)
    offers = "an embedding that routes"

    def torso(self):
        settings = self.config.soft_modularization
        return SoftModules(super().torso(), settings.layers, settings.modules,
                           self.config.network.activation)

    def split(self, params, key):
        task = {name: params[name]["task_embedding"] for name in params if not is_head(name)}
        shared = params | {name: {k: v for k, v in params[name].items() if k != "task_embedding"}
                           for name in task}
        return shared, task

    def compose(self, shared, task, index):
        return shared | {name: shared[name] | {"task_embedding": z} for name, z in task.items()}
