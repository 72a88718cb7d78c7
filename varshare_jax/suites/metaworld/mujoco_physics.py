"""Scenes in MuJoCo itself, in C on the cores of a CPU, called from within compiled programs.

The scenes are the originals but for what only serves to be seen (`scenes.plain`). Every call takes
all that matters of a state and gives all of it back: what `MjData` holds between calls is scratch.
"""

import functools
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.metaworld import host_call, scenes, snapshots, tasks
from varshare_jax.suites.metaworld.physics import (
    ACTION_SCALE,
    Group,
    Physics,
    State,
    groups,
    rounded_off,
)
from varshare_jax.suites.metaworld.scenes import FRAME_SKIP
from varshare_jax.suites.metaworld.tasks import HAND_HIGH, HAND_LOW, Snapshot, Task

_ROWS = 8  # envs that a thread steps before it looks for others


class MujocoPhysics(Physics):
    """All scenes in one call of the host per step, with `threads` cores at work in it.

    Calls of several devices share these threads, so they never use more cores together.
    """

    name = "mujoco"

    def __init__(self, chosen: Sequence[Task], threads: int):
        super().__init__(chosen)
        self._host = _host(tuple(task.name for task in chosen), threads)
        self._readings = [_Reading.of(task) for task in chosen]

    def step(self, state, action):
        seen = max(reading.size for reading in self._readings)
        packed = state.packed
        shapes = packed.shape, state.rest.shape, (*action.shape[:2], seen)
        packed, rest, values = host_call.call(self._host, shapes, packed, state.rest,
                                              state.placed, action)
        nq, nv = self.widths
        moved = jnp.split(packed, np.cumsum([nq, nv, nv]), -1)
        after = State._make([*moved, state.placed, rest])
        return after, [jax.vmap(reading.snapshot)(values[m], after.qpos[m])
                       for m, reading in enumerate(self._readings)]


class _Reading(NamedTuple):
    """A task's sensors: P positions, then the observed frame's quaternion."""

    points: int
    joint: int  # index of the object's joint in qpos, -1 where it is free

    @classmethod
    def of(cls, task: Task) -> "_Reading":
        probe = snapshots.probe(task, scenes.original(task.scene))
        return cls(len(probe.bodies), probe.joint)

    @property
    def size(self) -> int:
        return 3 * self.points + 4

    def snapshot(self, values: jax.Array, qpos: jax.Array) -> Snapshot:
        """Snapshot of one env; `values` may go on after this task's."""
        positions, quat = values[:3 * self.points], values[3 * self.points:self.size]
        return snapshots.assemble(positions.reshape(-1, 3), quat, qpos, self.joint)


@functools.cache
def _host(names: tuple[str, ...], threads: int) -> str:
    """Makes the host's part of these tasks; returns the name by which programs call it."""
    host = _Host([tasks.get(name) for name in names], threads)
    called = hashlib.sha256(repr((names, threads)).encode()).hexdigest()[:16]
    host_call.register(f"varshare_metaworld_{called}", host.step)
    return f"varshare_metaworld_{called}"


class _Host:
    """The scenes of all tasks, on however many threads."""

    def __init__(self, chosen: Sequence[Task], threads: int):
        self._scenes = [_Scene(group, chosen) for group in groups(chosen)]
        self._widths = [max(sizes) for sizes in zip(*(
            scene.group.sizes for scene in self._scenes), strict=True)]
        self._seen = max(_Reading.of(task).size for task in chosen)
        self._threads = _threads(threads)

    def step(self, packed: np.ndarray, rest: np.ndarray, placed: np.ndarray,
             action: np.ndarray) -> tuple[np.ndarray, ...]:
        """Arrays [..., M, N, X] -> the next packed state, its rest, and all tasks' sensors."""
        shape, rest = packed.shape[:-1], rest.astype(float)
        exact = packed + rest[..., 0, :] + rest[..., 1, :]
        given = [x.reshape(-1, *x.shape[-3:]) for x in (exact, placed, action)]
        state, seen = given[0], np.zeros((*given[0].shape[:-1], self._seen))
        jobs = [self._start(scene, *given) for scene in self._scenes]
        for scene, (moving, running) in zip(self._scenes, jobs, strict=True):
            for job in running:
                job.result()
            own = list(scene.group.tasks)
            block = lambda x, own=own: x.reshape(len(state), len(own), -1, x.shape[-1])  # noqa: E731
            for columns, part in zip(self._columns(scene), scene.parts(moving), strict=True):
                state[:, own, :, columns] = block(part)
            for i, (m, columns) in enumerate(zip(own, scene.columns, strict=True)):
                seen[:, m, :, :columns.stop - columns.start] = block(moving.seen)[:, i, :, columns]
        rest = np.moveaxis(rounded_off(state), 0, -2)
        return (state.reshape(packed.shape), rest.reshape(*shape, *rest.shape[-2:]),
                seen.reshape(*shape, -1))

    def _start(self, scene: "_Scene", state: np.ndarray, placed: np.ndarray,
               action: np.ndarray) -> tuple["_Moving", list[Future]]:
        """Sets threads to work on one scene."""
        own = list(scene.group.tasks)
        rows = [x[:, own].reshape(-1, x.shape[-1]) for x in (state, placed, action)]
        moving = scene.load([rows[0][:, columns] for columns in self._columns(scene)], *rows[1:])
        starts = range(0, len(moving.state), _ROWS)
        return moving, [self._threads.submit(scene.step, moving, slice(start, start + _ROWS))
                        for start in starts]

    def _columns(self, scene: "_Scene") -> list[slice]:
        """Where a scene's qpos, qvel, warmstart and mocap stand in a packed state."""
        (nq, nv), (q, v) = self._widths, scene.group.sizes
        starts, lengths = (0, nq, nq + nv, nq + 2 * nv), (q, v, v, 3)
        return [slice(a, a + n) for a, n in zip(starts, lengths, strict=True)]


class _Moving(NamedTuple):
    """Envs on their way through a step: MuJoCo's states [B, X] and what is seen in them."""

    state: np.ndarray
    seen: np.ndarray


class _Scene:
    """One scene, and the memory that threads work in."""

    def __init__(self, group: Group, chosen: Sequence[Task]):
        import mujoco

        self.group, sensors = group, []
        self.columns: list[slice] = []
        for task in (chosen[m] for m in group.tasks):
            points, start = snapshots.points(task), self.columns[-1].stop if self.columns else 0
            sensors += [("pos", *point) for point in points] + [("quat", *task.frame)]
            self.columns.append(slice(start, start + _Reading.of(task).size))
        self._model = scenes.plain(group.scene, group.body, sensors)
        self._local = threading.local()
        self._mujoco, kind = mujoco, mujoco.mjtState
        self._kind = int(kind.mjSTATE_FULLPHYSICS) | int(kind.mjSTATE_WARMSTART) | int(
            kind.mjSTATE_CTRL) | int(kind.mjSTATE_MOCAP_POS)
        nq, nv = group.sizes
        sizes = 1, nq, nv, nv, 2, 3 * self._model.nmocap
        _, *self._parts = (slice(end - n, end) for n, end in zip(sizes, np.cumsum(sizes),
                                                                 strict=True))
        self._mocap = [int(self._model.body_mocapid[self._model.body(name).id])
                       for name in ("mocap", group.body) if name]

    def load(self, parts: Sequence[np.ndarray], placed: np.ndarray,
             action: np.ndarray) -> _Moving:
        """MuJoCo's states before the step, from rows [B, X]."""
        size = self._mujoco.mj_stateSize(self._model, self._kind)
        state, action = np.zeros((len(action), size)), np.clip(action.astype(float), -1, 1)
        *moving, hand = parts
        for columns, part in zip(self._parts, moving, strict=False):
            state[:, columns] = part
        state[:, self._parts[3]] = action[:, 3:] * [1, -1]
        pulled = np.clip(hand + ACTION_SCALE * action[:, :3], HAND_LOW, HAND_HIGH)
        for index, position in zip(self._mocap, (pulled, placed), strict=False):
            start = self._parts[4].start + 3 * index
            state[:, start:start + 3] = position
        return _Moving(state, np.zeros((len(state), self._model.nsensordata)))

    def parts(self, moving: _Moving) -> list[np.ndarray]:
        """qpos, qvel, warmstart and the place that the hand is pulled to, [B, X]."""
        start = self._parts[4].start + 3 * self._mocap[0]
        return [moving.state[:, columns] for columns in (*self._parts[:3], slice(start, start + 3))]

    def step(self, moving: _Moving, rows: slice) -> None:
        """Steps some rows in place. Their order is all the same to the result."""
        mujoco, model, kind = self._mujoco, self._model, self._kind
        if not hasattr(self._local, "data"):
            self._local.data = mujoco.MjData(model)
        data = self._local.data
        for state, seen in zip(moving.state[rows], moving.seen[rows], strict=True):
            mujoco.mj_setState(model, data, state, kind)
            mujoco.mj_step(model, data, FRAME_SKIP)
            mujoco.mj_getState(model, data, state, kind)
            mujoco.mj_kinematics(model, data)  # a step leaves them as of its last substep's start
            mujoco.mj_sensorPos(model, data)
            seen[:] = data.sensordata


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """The threads of all scenes and suites of the process that ask for so many.

    They start now: threads inherit how tiny numbers are rounded, and XLA's flush them to zero.
    """
    pool, everyone = ThreadPoolExecutor(count, "metaworld"), threading.Barrier(count)
    for _ in range(count):
        pool.submit(everyone.wait)
    return pool
