"""Independent learning: one whole network per task, the single-task oracle."""

import dataclasses

from varshare_jax.methods.base import Method
from varshare_jax.networks.layers import Parametrization, from_initializer


@dataclasses.dataclass(frozen=True)
class PerTask(Parametrization):
    """Every tensor belongs to its task."""

    def __call__(self, module, name, init, shape, head):
        return from_initializer(module, "task", name, init, shape)


class Independent(Method):
    """Nothing shared, no interference: the upper bound of plasticity."""

    name = "independent"

    def parametrization(self) -> PerTask:
        return PerTask()
