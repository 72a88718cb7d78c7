"""Reading a task's Snapshot off the bodies of a scene, whichever engine moved them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.metaworld.tasks import Snapshot, Task

_POINTS = (("body", "hand"), ("body", "leftclaw"), ("body", "rightclaw"), ("body", "leftpad"),
           ("body", "rightpad"), ("site", "leftEndEffector"), ("site", "rightEndEffector"))


class Probe(NamedTuple):
    """Where the P points of a snapshot sit: on which bodies and where in their frames."""

    bodies: np.ndarray  # [P], indices
    offsets: np.ndarray  # [P, 3]
    quat: np.ndarray  # [4], of the observed frame in its body's
    joint: int  # index into qpos, -1 where the object is free

    @property
    def object(self) -> int:
        """Index of the observed frame's point."""
        return len(_POINTS)

    def read(self, positions: Any, quats: Any, qpos: Any) -> Snapshot:
        """Snapshot from all bodies' positions [B, 3] and quaternions [B, 4], and qpos [Q].

        Arrays of JAX, or of NumPy where MuJoCo has them.
        """
        found = positions[self.bodies] + rotate(quats[self.bodies], jnp.asarray(self.offsets))
        quat = multiply(quats[self.bodies[self.object]], jnp.asarray(self.quat))
        return assemble(found, quat, qpos, self.joint)


def points(task: Task) -> tuple[tuple[str, str], ...]:
    """The P points of a task's snapshot, each a kind (body, geom or site) and a name."""
    return (*_POINTS, task.frame, *(("site", name) for name in task.landmarks))


def probe(task: Task, model: Any) -> Probe:
    """The probe of a task in MuJoCo's model of its original scene."""
    placed = (_place(model, *point) for point in points(task))
    bodies, offsets, quats = zip(*placed, strict=True)
    joint = int(model.joint(task.joint).qposadr.item()) if task.joint else -1
    return Probe(np.array(bodies), np.array(offsets), np.array(quats[len(_POINTS)]), joint)


def assemble(found: jax.Array, quat: jax.Array, qpos: jax.Array, joint: int) -> Snapshot:
    """Snapshot from the positions [P, 3] of its points, the observed frame's quaternion [4] and
    qpos [Q], where `joint` is the index of the object's joint, -1 if it is free.
    """
    fixed, (obj, *landmarks) = found[:len(_POINTS)], found[len(_POINTS):]
    known = jnp.stack(landmarks) if landmarks else jnp.zeros((0, 3), found.dtype)
    return Snapshot._make([*fixed, obj, quat, known,
                           qpos[joint] if joint >= 0 else jnp.zeros_like(qpos[0])])


def in_model(found: Probe, original: Any, other: Any) -> Probe:
    """The same probe in a model where some bodies are fused with their parents."""
    names = {other.body(i).name for i in range(other.nbody)}
    bodies, offsets, quat = found.bodies.copy(), found.offsets.copy(), found.quat
    for i, body in enumerate(bodies):
        while not (name := original.body(body).name) or name not in names:
            turn = original.body_quat[body]
            offsets[i] = original.body_pos[body] + np.asarray(rotate(turn, offsets[i]))
            quat = np.asarray(multiply(turn, quat)) if i == found.object else quat
            body = original.body_parentid[body]
        bodies[i] = other.body(name).id
    return found._replace(bodies=bodies, offsets=offsets, quat=quat)


def probes(chosen: Sequence[Task], original: Any, other: Any) -> list[Probe]:
    """The probes of tasks of one scene in such a model."""
    return [in_model(probe(task, original), original, other) for task in chosen]


def _place(model: Any, kind: str, name: str) -> tuple[int, np.ndarray, np.ndarray]:
    item = getattr(model, kind)(name)
    if kind == "body":
        return item.id, np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
    return int(item.bodyid.item()), item.pos.copy(), item.quat.copy()


def rotate(quat: Any, vector: Any) -> jax.Array:
    """Vectors [..., 3] turned by unit quaternions [..., 4], real part first."""
    real, axis = quat[..., :1], quat[..., 1:]
    twice = 2 * jnp.cross(axis, vector)
    return vector + real * twice + jnp.cross(axis, twice)


def multiply(a: Any, b: Any) -> jax.Array:
    """Product of two quaternions [4], real part first."""
    real = a[0] * b[0] - jnp.dot(a[1:], b[1:])
    return jnp.concatenate([real[None], a[0] * b[1:] + b[0] * a[1:] + jnp.cross(a[1:], b[1:])])
