"""Pictures of a state by MuJoCo's own renderer, in the original scene with all its meshes."""

from typing import Any

import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.suites.metaworld import scenes
from varshare_jax.suites.metaworld.tasks import Task

_CAMERA = "corner2"


def picture(task: Task, qpos: np.ndarray, placed: np.ndarray, target: np.ndarray, width: int,
            height: int) -> np.ndarray:
    """RGB [height, width, 3] (uint8) of one env.

    `placed` [3] is where the body that the task moves stands, `target` [3] its goal. Raises
    UserError where MuJoCo finds no way to draw.
    """
    import mujoco

    model = mujoco.MjModel.from_xml_path(scenes.path(task.scene))
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    if task.body:
        model.body(task.body).pos = placed
    if any(model.site(i).name == "goal" for i in range(model.nsite)):
        model.site("goal").pos = target
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    with _renderer(model, width, height) as renderer:
        renderer.update_scene(data, _CAMERA)
        return renderer.render()[::-1, ::-1]  # this camera hangs upside down


def _renderer(model: Any, width: int, height: int) -> Any:
    import mujoco

    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # each of the three backends raises errors of its own
        raise UserError(
            f"rendering: MuJoCo cannot open a window here ({error}); without a display set "
            f"MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts (Debian: apt install "
            f"libegl1 or libosmesa6)") from error
