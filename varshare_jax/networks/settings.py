"""The settings of networks."""

import dataclasses

from varshare_jax.errors import UserError
from varshare_jax.settings import Section, field

_ACTIVATIONS = "tanh", "relu", "elu", "silu", "gelu"


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Section):
    """The network of one task; every method uses the same."""

    section = "network"

    hidden: tuple[int, ...] = field((64, 64), "widths of the hidden layers, comma-separated; "
                                              "bronet: one for the input layer, then one a block")
    torso: str = field("mlp", "hidden layers: plain or residual blocks",
                       choices=("mlp", "bronet"))
    trunk: str = field("separate", "whether actor and critic have hidden layers of their own",
                       choices=("separate", "shared"))
    activation: str = field("tanh", "activation of the hidden layers",
                            choices=_ACTIVATIONS)
    last_activation: str = field("same", "activation of the last hidden layer of an mlp",
                                 choices=("same", *_ACTIVATIONS, "sigmoid"))
    layer_norm: bool = field(False, "LayerNorm before every activation of an mlp")
    critic: str = field("scalar", "what the critic puts out: a value, trained by squared error, "
                                  "or a distribution over atoms, by cross-entropy (never "
                                  "clipped)", choices=("scalar", "categorical"))
    atoms: int = field(101, "values of a categorical critic's support")
    value_bound: float = field(10.0, "a categorical critic's support is [-value_bound, "
                                     "value_bound], in units of the normalised returns", above=0)
    initial_log_std: float = field(0.0, "initial log standard deviation of continuous actions")

    def check(self) -> None:
        if not self.hidden or min(self.hidden) <= 0:
            raise UserError(f"--network.hidden={self.hidden}: widths must be positive")
        if self.torso == "bronet" and len(set(self.hidden)) > 1:
            raise UserError(f"--network.hidden={self.hidden}: widths of a bronet must be equal")
        if self.torso == "bronet" and self.last_activation != "same":
            raise UserError(f"--network.last_activation={self.last_activation}: a bronet ends in "
                            "no activation of its own; use same")
        if self.critic == "categorical" and self.atoms < 2:
            raise UserError(f"--network.atoms={self.atoms}: must be at least 2")
