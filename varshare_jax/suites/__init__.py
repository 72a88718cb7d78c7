"""The registry of suites."""

from collections.abc import Callable

from varshare_jax.config import MetaWorldConfig
from varshare_jax.errors import unknown
from varshare_jax.suites import (
    cartpole,
    cartpole_conflict,
    cartpole_family,
    cartpole_hard,
    gymnax,
    lunar_lander,
    metaworld,
)
from varshare_jax.suites.base import Suite

SUITES: dict[str, Callable[[], Suite]] = {
    "cartpole10": lambda: cartpole.CartPoleSuite("cartpole10", cartpole.TASKS),
    "cartpole": lambda: cartpole.CartPoleSuite("cartpole", (cartpole.NOMINAL,)),
    "cartpole10_hard": cartpole_hard.make,
    "cartpole_conflict": cartpole_conflict.make,
    "cartpole_family": lambda: cartpole_family.make("cartpole_family"),
    "lunar_lander20": lambda: lunar_lander.LunarLanderSuite("lunar_lander20", lunar_lander.TASKS),
    "lunar_lander20_continuous": lambda: lunar_lander.LunarLanderSuite(
        "lunar_lander20_continuous", lunar_lander.TASKS, continuous=True),
    "lunar_lander": lambda: lunar_lander.LunarLanderSuite(
        "lunar_lander", (lunar_lander.NOMINAL,)),
}

__all__ = ["SUITES", "Suite", "make"]


def make(name: str, metaworld_options: MetaWorldConfig | None = None) -> Suite:
    """The suite of that name, any gymnax environment as `gymnax:<id>`, a task as `mt1:<task>`.

    `cartpole_family:<settings>` takes settings of its own. Raises UserError for an unknown suite
    and for settings that are not allowed.
    """
    family, _, env_id = name.partition(":")
    if name in metaworld.BENCHMARKS or family == "mt1":
        return metaworld.make(name, metaworld_options or MetaWorldConfig())
    if family == "gymnax" and env_id:
        return gymnax.single(env_id)
    if family == "cartpole_family":
        return cartpole_family.make(name)
    if name not in SUITES:
        raise unknown("--suite", name,
                      [*SUITES, *metaworld.BENCHMARKS, "mt1:<task>", "gymnax:<id>"])
    return SUITES[name]()
