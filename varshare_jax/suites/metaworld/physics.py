"""What steps the scenes of a suite: the arrays that are their state, and who may move them."""

import abc
import os
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from varshare_jax.config import MetaWorldConfig
from varshare_jax.errors import UserError
from varshare_jax.suites.metaworld import scenes
from varshare_jax.suites.metaworld.tasks import HAND_HIGH, HAND_LOW, Snapshot, Task

_ACTION_SCALE = 0.01  # m per step


class State(NamedTuple):
    """What one env's physics remembers between steps; Q and V are those of the largest scene."""

    qpos: jax.Array  # [Q]
    qvel: jax.Array  # [V]
    warmstart: jax.Array  # [V], the last acceleration, where the solver starts
    mocap: jax.Array  # [3], where the hand is pulled to
    placed: jax.Array  # [3], position of the body that the task moves

    def padded(self, widths: tuple[int, int]) -> "State":
        """The state of a smaller scene with zeros up to Q and V of `widths`."""
        def pad(x: jax.Array, width: int) -> jax.Array:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])

        nq, nv = widths
        return self._replace(qpos=pad(self.qpos, nq), qvel=pad(self.qvel, nv),
                             warmstart=pad(self.warmstart, nv))

    def cut(self, sizes: tuple[int, int]) -> "State":
        """Without the padding, for a scene whose own Q and V are `sizes`."""
        nq, nv = sizes
        return self._replace(qpos=self.qpos[..., :nq], qvel=self.qvel[..., :nv],
                             warmstart=self.warmstart[..., :nv])


class Group(NamedTuple):
    """Tasks of one scene: their indices among the suite's."""

    scene: str
    body: str  # what the tasks move at their resets, '' for nothing
    tasks: tuple[int, ...]
    sizes: tuple[int, int]  # Q and V of this scene


class Physics(abc.ABC):
    """The scenes of M tasks, stepped as a pure function of their states.

    Attributes: `name` (of the engine), `groups` (tasks by scene), `sizes` (Q and V of each task's
    scene), `widths` (those of states, the largest), `tracing` (if set, hears how far JAX's tracing
    has come).
    """

    name: ClassVar[str]
    tracing: Callable[[str], None] | None = None

    def __init__(self, chosen: Sequence[Task]):
        self.groups = groups(chosen)
        self.sizes = [next(group.sizes for group in self.groups if m in group.tasks)
                      for m in range(len(chosen))]
        self.widths = tuple(max(column) for column in zip(*self.sizes, strict=True))

    @abc.abstractmethod
    def step(self, state: State, action: jax.Array) -> tuple[State, list[Snapshot]]:
        """Meta-World's step: five substeps in which `action` pulls the hand and the fingers.

        state [M, N, ...], action [M, N, 4] in [-1, 1] -> the state after, and of each task what
        there is to see then, [N, ...].
        """


def pulled(state: State, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where actions [..., 4] pull the hand [..., 3] and the two fingers [..., 2]."""
    action = jnp.clip(action, -1, 1)
    hand = jnp.clip(state.mocap + _ACTION_SCALE * action[..., :3], HAND_LOW, HAND_HIGH)
    return hand, jnp.stack([action[..., 3], -action[..., 3]], -1)


def groups(chosen: Sequence[Task]) -> list[Group]:
    """The scenes of some tasks, in the order in which they come."""
    found = []
    for scene, body in dict.fromkeys((task.scene, task.body) for task in chosen):
        model = scenes.original(scene)
        indices = tuple(m for m, task in enumerate(chosen) if (task.scene, task.body) == (
            scene, body))
        found.append(Group(scene, body, indices, (model.nq, model.nv)))
    return found


def resolve(options: MetaWorldConfig) -> str:
    """The engine that `options` ask for: `auto` is MuJoCo on a CPU, MJX on an accelerator.

    Raises UserError for an engine that JAX's device cannot run.
    """
    device = jax.default_backend()
    if options.physics == "auto":
        return "mujoco" if device == "cpu" else "mjx"
    if options.physics == "mujoco" and device != "cpu":
        raise UserError(f"--metaworld.physics=mujoco: runs on a CPU, but JAX computes on a "
                        f"{device}; allowed here: auto, mjx (or set JAX_PLATFORMS=cpu)")
    return options.physics


def threads(options: MetaWorldConfig) -> int:
    """Threads that step scenes in C. Raises UserError for more than there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if not 0 <= options.threads <= cores:
        raise UserError(f"--metaworld.threads={options.threads}: must be 0 (one for each core) or "
                        f"at most {cores}, the cores that this process may use")
    return options.threads or cores
