"""Scenes in MuJoCo itself, in C on the cores of a CPU, called from within compiled programs.

The scenes are the originals but for what only serves to be seen (`scenes.plain`). Every call takes
all that matters of a state and gives all of it back: what `MjData` holds between calls is scratch.
"""

import atexit
import copy
import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from varshare_jax.suites.metaworld import host_call, scenes, snapshots, tasks
from varshare_jax.suites.metaworld.physics import Group, Physics, State, groups, pulled
from varshare_jax.suites.metaworld.scenes import FRAME_SKIP
from varshare_jax.suites.metaworld.tasks import Snapshot, Task


class MujocoPhysics(Physics):
    """All scenes in one call of the host per step, with `threads` cores at work in it.

    Calls of several devices take turns, so that they never use more cores than these together.
    """

    name = "mujoco"

    def __init__(self, chosen: Sequence[Task], threads: int):
        super().__init__(chosen)
        self._host = _host(tuple(task.name for task in chosen), threads)
        self._readings = [_Reading.of(task) for task in chosen]

    def step(self, state, action):
        hand, grip = pulled(state, action)
        seen = max(reading.size for reading in self._readings)
        shapes = [*(x.shape for x in state[:3]), (*action.shape[:2], seen)]
        *moved, values = host_call.call(self._host, shapes, *state[:3], hand, grip, state.placed)
        after = State(*moved, hand, state.placed)
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
    """The scenes of all tasks, one after another."""

    def __init__(self, chosen: Sequence[Task], threads: int):
        self._scenes = [_Scene(group, chosen, threads) for group in groups(chosen)]
        self._width = max(_Reading.of(task).size for task in chosen)

    def step(self, qpos: np.ndarray, qvel: np.ndarray, warmstart: np.ndarray, hand: np.ndarray,
             grip: np.ndarray, placed: np.ndarray) -> list[np.ndarray]:
        """Arrays [..., M, N, X] -> the next qpos, qvel and warmstart, and all tasks' sensors."""
        given = [x.reshape(-1, *x.shape[-3:]) for x in (qpos, qvel, warmstart, hand, grip, placed)]
        found = [np.zeros_like(x) for x in given[:3]]
        found.append(np.zeros((*given[0].shape[:3], self._width), np.float32))
        for scene in self._scenes:
            own = list(scene.group.tasks)
            rows = [x[:, own].reshape(-1, x.shape[-1]) for x in given]
            *moved, sensors = scene.step(*rows)
            blocks = [x.reshape(-1, len(own), qpos.shape[-2], x.shape[-1])
                      for x in (*moved, sensors)]
            for result, block in zip(found[:3], blocks[:3], strict=True):
                result[:, own, :, :block.shape[-1]] = block
            for i, (m, columns) in enumerate(zip(own, scene.columns, strict=True)):
                values = blocks[3][:, i, :, columns]
                found[3][:, m, :, :values.shape[-1]] = values
        return [x.reshape(*qpos.shape[:-1], x.shape[-1]) for x in found]


class _Scene:
    """One scene and the memory that threads work in."""

    def __init__(self, group: Group, chosen: Sequence[Task], threads: int):
        import mujoco

        self.group = group
        sensors, self.columns = [], []
        for task in (chosen[m] for m in group.tasks):
            points, start = snapshots.points(task), self.columns[-1].stop if self.columns else 0
            sensors += [("pos", *point) for point in points] + [("quat", *task.frame)]
            self.columns.append(slice(start, start + _Reading.of(task).size))
        self._model = scenes.plain(group.scene, group.body, sensors)
        self._still = copy.copy(self._model)
        flags = mujoco.mjtDisableBit
        self._still.opt.disableflags |= flags.mjDSBL_CONSTRAINT | flags.mjDSBL_ACTUATION
        self._pool = _pool(threads)
        self._datas = [mujoco.MjData(self._model) for _ in range(threads)]
        state = mujoco.mjtState
        self._control = int(state.mjSTATE_CTRL) | int(state.mjSTATE_MOCAP_POS)
        self._mocap = [int(self._model.body_mocapid[self._model.body(name).id])
                       for name in ("mocap", group.body) if name]

    def step(self, qpos: np.ndarray, qvel: np.ndarray, warmstart: np.ndarray, hand: np.ndarray,
             grip: np.ndarray, placed: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rows [B, X], padded as states are -> qpos, qvel, warmstart, sensors of this scene.

        The last acceleration is what the velocity did in the last substep. Sensors are read in a
        further step without any forces from outside, because MuJoCo reads them before it moves.
        """
        nq, nv = self.group.sizes
        state = np.zeros((len(qpos), 1 + nq + nv))
        state[:, 1:1 + nq], state[:, 1 + nq:] = qpos[:, :nq], qvel[:, :nv]
        control = np.empty((len(qpos), FRAME_SKIP, 2 + 3 * len(self._mocap)))
        control[:, :, :2] = grip[:, None]
        for index, position in zip(self._mocap, (hand, placed), strict=False):
            control[:, :, 2 + 3 * index:5 + 3 * index] = position[:, None]
        with self._pool.lock:
            path, _ = self._pool.rollout(
                self._model, self._datas, state, control, control_spec=self._control,
                initial_warmstart=warmstart[:, :nv].astype(float), nstep=FRAME_SKIP)
            _, sensors = self._pool.rollout(
                self._still, self._datas, path[:, -1], control[:, :1],
                control_spec=self._control, nstep=1)
        velocity = path[:, -2:, 1 + nq:]
        acceleration = (velocity[:, 1] - velocity[:, 0]) / self._model.opt.timestep
        return path[:, -1, 1:1 + nq], velocity[:, 1], acceleration, sensors[:, 0]


class _Pool(NamedTuple):
    """Threads of MuJoCo's and the lock of whoever uses them."""

    rollout: Any
    lock: threading.Lock


@functools.cache
def _pool(threads: int) -> _Pool:
    """One pool for all scenes and suites of the process that step with so many threads."""
    from mujoco.rollout import Rollout

    pool = Rollout(nthread=threads if threads > 1 else 0)
    atexit.register(pool.close)
    return _Pool(pool.rollout, threading.Lock())
