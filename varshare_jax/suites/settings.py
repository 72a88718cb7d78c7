"""The settings of suites. Nothing here imports JAX."""

import dataclasses

from varshare_jax.settings import Section, field


@dataclasses.dataclass(frozen=True)
class MetaWorldConfig(Section):
    """The suites mt10, mt3 and mt1:<task>."""

    section = "metaworld"

    physics: str = field("auto", "engine that steps the scenes: mujoco on a CPU, mjx on any "
                                 "device, warp on NVIDIA's (and, slowly, a CPU); auto: mujoco "
                                 "where JAX computes on a CPU, else mjx",
                         choices=("auto", "mjx", "mujoco", "warp"))
    threads: int = field(0, "threads that step scenes in C; 0: one for each core", least=0)
    reward: str = field("v2", "version of Meta-World's rewards", choices=("v1", "v2"))
    horizon: int = field(500, "steps of an episode", above=0)
    training_horizon: int = field(0, "steps after which a training episode is truncated, "
                                     "unless horizon comes first; 0: horizon alone", least=0)
    stagger: bool = field(True, "end the first training episode of each env at a time of its own, "
                                "so that a rollout shows all parts of an episode")
    observe_goal: bool = field(True, "show the goal, as MT benchmarks do; else zeros in its place")
    one_hot: bool = field(False, "append the task's one-hot code to its observations")
