"""The registry of suites."""

from collections.abc import Callable

from varshare_jax.config import Config, MetaWorldConfig, replace
from varshare_jax.errors import unknown
from varshare_jax.suites import cartpole, gymnax, lunar_lander, metaworld
from varshare_jax.suites.base import Suite

SUITES: dict[str, Callable[[], Suite]] = {
    "cartpole10": lambda: cartpole.CartPoleSuite("cartpole10", cartpole.TASKS),
    "cartpole": lambda: cartpole.CartPoleSuite("cartpole", (cartpole.NOMINAL,)),
    "lunar_lander20": lambda: lunar_lander.LunarLanderSuite("lunar_lander20", lunar_lander.TASKS),
    "lunar_lander20_continuous": lambda: lunar_lander.LunarLanderSuite(
        "lunar_lander20_continuous", lunar_lander.TASKS, continuous=True),
    "lunar_lander": lambda: lunar_lander.LunarLanderSuite(
        "lunar_lander", (lunar_lander.NOMINAL,)),
}

__all__ = ["SUITES", "Suite", "make", "settle"]


def settle(config: Config, required: bool = True) -> Config:
    """`config` with what depends on the machine made explicit: the engine of Meta-World's scenes.

    Raises UserError for one that JAX's device cannot run; if not `required` it takes another.
    """
    if not metaworld.owns(config.suite):
        return config
    physics = metaworld.physics_here(config.metaworld, required)
    return replace(config, {"metaworld.physics": physics})


def make(name: str, metaworld_options: MetaWorldConfig | None = None) -> Suite:
    """The suite of that name, any gymnax environment as `gymnax:<id>`, a task as `mt1:<task>`.

    Raises UserError for an unknown one.
    """
    family, _, env_id = name.partition(":")
    if metaworld.owns(name):
        return metaworld.make(name, metaworld_options or MetaWorldConfig())
    if family == "gymnax" and env_id:
        return gymnax.single(env_id)
    if name not in SUITES:
        raise unknown("--suite", name,
                      [*SUITES, *metaworld.BENCHMARKS, "mt1:<task>", "gymnax:<id>"])
    return SUITES[name]()
