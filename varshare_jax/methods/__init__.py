"""The registry of methods: a new one is one file and one line here."""

from varshare_jax.config import Config
from varshare_jax.errors import unknown
from varshare_jax.methods.base import Method, MultiTaskNetwork
from varshare_jax.methods.hard_sharing import HardSharing
from varshare_jax.methods.independent import Independent
from varshare_jax.methods.l2_soft import L2Soft
from varshare_jax.methods.varshare import VarShare

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (VarShare, Independent, HardSharing, L2Soft)
}

__all__ = ["METHODS", "Method", "MultiTaskNetwork", "make"]


def make(config: Config) -> Method:
    """The method that `config` names; raises UserError for an unknown one."""
    if config.method not in METHODS:
        raise unknown("--method", config.method, METHODS)
    return METHODS[config.method](config)
