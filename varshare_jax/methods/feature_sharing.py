"""Feature sharing: input maps and output heads of each task around hidden layers that all share.

D'Eramo et al. 2020, "Sharing Knowledge in Multi-Task Deep Reinforcement Learning",
arXiv 2401.09561, section 4.1.
"""

from varshare_jax.errors import UserError
from varshare_jax.methods.base import Method
from varshare_jax.networks.heads import is_head


class FeatureSharing(Method):
    """What a task observes and does is its own: the first layer of every torso, and the heads."""

    offers = "an input map and output heads"

    def split(self, params, key):
        torsos = {name: branch for name, branch in params.items() if not is_head(name)}
        heads = {name: branch for name, branch in params.items() if is_head(name)}
        shared = {name: {layer: x for layer, x in branch.items() if not _maps_input(layer)}
                  for name, branch in torsos.items()}
        maps = {name: {layer: x for layer, x in branch.items() if _maps_input(layer)}
                for name, branch in torsos.items()}
        return shared, maps | heads

    def compose(self, shared, task, index):
        return task | {name: shared[name] | task[name] for name in shared}

    def validate(self):
        super().validate()
        hidden = self.config.network.hidden
        if len(hidden) < 2:
            raise UserError(f"--network.hidden={hidden[0]}: the first layer is each task's own in "
                            f"method {self.name}, so two are needed for any to be shared")


def _maps_input(layer: str) -> bool:
    """Whether a part of a torso is its first layer, or what normalises that."""
    return layer.partition("_")[0] == "0"
