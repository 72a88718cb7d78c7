"""Hard sharing: one trunk for all tasks, an output head for each (Caruana 1997)."""

import dataclasses

from varshare_jax.methods.base import Method
from varshare_jax.networks.layers import Parametrization, from_initializer


@dataclasses.dataclass(frozen=True)
class SharedTrunk(Parametrization):
    """Hidden layers are shared; heads belong to their task."""

    def __call__(self, module, name, init, shape, head):
        return from_initializer(module, "task" if head else "shared", name, init, shape)


class HardSharing(Method):
    """Multi-head network: fewest parameters, fully exposed to conflicting gradients."""

    name = "hard_sharing"

    def parametrization(self) -> SharedTrunk:
        return SharedTrunk()
