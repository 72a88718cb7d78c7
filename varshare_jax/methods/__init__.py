"""The registry of methods: a new one is one file and one line here."""

from varshare_jax.config import Config
from varshare_jax.errors import unknown
from varshare_jax.methods.base import Method, MultiTaskNetwork
from varshare_jax.methods.cagrad import CAGrad
from varshare_jax.methods.contextual import Contextual
from varshare_jax.methods.hard_sharing import HardSharing
from varshare_jax.methods.independent import Independent
from varshare_jax.methods.l2_soft import L2Soft
from varshare_jax.methods.one_hot import OneHot
from varshare_jax.methods.paco import PaCo
from varshare_jax.methods.pcgrad import PCGrad
from varshare_jax.methods.soft_modularization import SoftModularization
from varshare_jax.methods.varshare import VarShare
from varshare_jax.methods.varshare_horseshoe import VarShareHorseshoe
from varshare_jax.methods.varshare_lora import VarShareLoRA
from varshare_jax.methods.varshare_trust_region import VarShareTrustRegion

METHODS: dict[str, type[Method]] = {method.name: method for method in (
    VarShare, Independent, HardSharing, Contextual, OneHot, L2Soft, PaCo, SoftModularization,
    PCGrad, CAGrad, VarShareLoRA, VarShareHorseshoe, VarShareTrustRegion)}

__all__ = ["METHODS", "Method", "MultiTaskNetwork", "make"]


def make(config: Config, num_tasks: int) -> Method:
    """The method that `config` names; raises UserError for an unknown or impossible one."""
    if config.method not in METHODS:
        raise unknown("--method", config.method, METHODS)
    method = METHODS[config.method](config, num_tasks)
    method.validate()
    return method
