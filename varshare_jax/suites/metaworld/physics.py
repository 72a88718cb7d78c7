"""What steps the scenes of a suite: the arrays that are their state, and who may move them."""

import abc
import os
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing

from varshare_jax.errors import UserError
from varshare_jax.suites.metaworld import scenes
from varshare_jax.suites.metaworld.tasks import Snapshot, Task
from varshare_jax.suites.settings import MetaWorldConfig

ACTION_SCALE = 0.01  # m per step


class State(NamedTuple):
    """What one env's physics remembers between steps; Q and V are those of the largest scene.

    Contacts make much of little: how a puck lies on the table depends on the last bits of the
    float64 numbers that MuJoCo computes with, and grasps differ by millimetres after them. So
    `rest` keeps what float32 rounds off; MJX leaves it at zero.
    """

    qpos: jax.Array  # [Q]
    qvel: jax.Array  # [V]
    warmstart: jax.Array  # [V], the last acceleration, where the solver starts
    mocap: jax.Array  # [3], where the hand is pulled to
    placed: jax.Array  # [3], position of the body that the task moves
    rest: jax.Array  # [2, Q + 2 V + 3], what the first four lack of their float64 values

    def padded(self, widths: tuple[int, int]) -> "State":
        """The state of a smaller scene with zeros up to Q and V of `widths`; `rest` is zero."""
        def pad(x: jax.Array, width: int) -> jax.Array:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])

        nq, nv = widths
        after = self._replace(qpos=pad(self.qpos, nq), qvel=pad(self.qvel, nv),
                              warmstart=pad(self.warmstart, nv))
        packed = after.packed[..., None, :]
        return after._replace(rest=jnp.concatenate([jnp.zeros_like(packed)] * 2, -2))

    def cut(self, sizes: tuple[int, int]) -> "State":
        """Without the padding and the rest, for a scene whose own Q and V are `sizes`."""
        nq, nv = sizes
        return self._replace(qpos=self.qpos[..., :nq], qvel=self.qvel[..., :nv],
                             warmstart=self.warmstart[..., :nv], rest=self.rest[..., :0])

    @property
    def packed(self) -> jax.Array:
        """The first four in one array [Q + 2 V + 3]."""
        return jnp.concatenate(self[:4], -1)


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


def rounded_off(values: np.typing.ArrayLike) -> np.ndarray:
    """What float32 cannot hold of float64 `values` [...], in two parts [2, ...] that can be added.

    The three together are exact, within float32's range of exponents.
    """
    exact = np.asarray(values, float)
    first = exact - exact.astype(np.float32)
    return np.stack([first, first - first.astype(np.float32)]).astype(np.float32)


def groups(chosen: Sequence[Task]) -> list[Group]:
    """The scenes of some tasks, in the order in which they come."""
    found = []
    for scene, body in dict.fromkeys((task.scene, task.body) for task in chosen):
        model = scenes.original(scene)
        indices = tuple(m for m, task in enumerate(chosen) if (task.scene, task.body) == (
            scene, body))
        found.append(Group(scene, body, indices, (model.nq, model.nv)))
    return found


def threads(options: MetaWorldConfig) -> int:
    """Threads that step scenes in C. Raises UserError for more than there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if not 0 <= options.threads <= cores:
        raise UserError(f"--metaworld.threads={options.threads}: must be 0 (one for each core) or "
                        f"at most {cores}, the cores that this process may use")
    return options.threads or cores
