"""What an algorithm is given: the tasks, the network lifted over them, the settings."""

from typing import NamedTuple

from varshare_jax.config import Config
from varshare_jax.methods.base import MultiTaskNetwork
from varshare_jax.suites.base import Suite


class Problem(NamedTuple):
    """Static: nothing in here is traced."""

    config: Config
    suite: Suite
    network: MultiTaskNetwork

    @property
    def num_updates(self) -> int:
        return self.config.num_updates(self.suite.num_tasks)
