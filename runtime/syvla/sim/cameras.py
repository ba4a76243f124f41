"""The twin's cameras: rendered from the positions in ``sim/state``, in the twin's own process or in any other."""

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from syvla.clock import to_ns
from syvla.config import RigConfig
from syvla.control.kinematics import Base
from syvla.errors import ConfigError, DriverError, MessageError
from syvla.message import Float64, UInt8
from syvla.messages import CameraFrame, SimState
from syvla.sim.model import TwinModel
from syvla.sim.scene import Scene, Task, task_named
from syvla.topics import CAMERAS

_MAX_GEOMS = 500
_MOST_COMING = 64  # states that a camera has yet to show


class TwinCameras:
    """A CameraSource and StateFollower: every camera sees the newest state that was followed, once.

    A camera with a delay in ``rig.cameras`` shows a state so much later, with the stamp of then. One thread owns an
    instance: the OpenGL context belongs to the thread of the first ``read``.
    """

    def __init__(self, rig: RigConfig, tasks: Mapping[str, Task], cameras: Sequence[str] = CAMERAS) -> None:
        """Cameras of the size in ``rig.cameras``; ``tasks`` are those that a state may name."""
        unknown = [name for name in cameras if name not in CAMERAS]
        if unknown:
            raise ConfigError(f"no camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
        self._width, self._height = rig.cameras.width, rig.cameras.height
        self._bases = (Base.of(rig.left), Base.of(rig.right))
        self._tasks = tasks
        self._models: dict[tuple[object, ...], TwinModel] = {}
        self._episode: tuple[str, str, int] | None = None
        self._twin: TwinModel
        self._delays_ns = {camera: to_ns(rig.cameras.delay_s.get(camera, 0.0)) for camera in cameras}
        self._coming: dict[str, deque[tuple[SimState, TwinModel]]] = {
            camera: deque(maxlen=_MOST_COMING) for camera in cameras
        }
        self._frame_ids = dict.fromkeys(cameras, 0)
        self._renderer: _Renderer | None = None

    def follow(self, state: SimState) -> None:
        """See ``state`` from now on. ConfigError for an unknown task, MessageError for positions of another layout."""
        episode = (state.task, state.split, state.seed)
        if episode != self._episode:
            self._twin = self._lay(state)
            self._episode = episode
        if state.qpos.shape != self._twin.data.qpos.shape:
            raise MessageError(
                f"SimState.qpos must have shape {self._twin.data.qpos.shape} for {state.task}, not {state.qpos.shape}"
            )
        for coming in self._coming.values():
            coming.append((state, self._twin))

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        """One frame of each camera that has a new state to show, now that its delay is over."""
        posed: SimState | None = None
        frames = []
        for camera, coming in self._coming.items():
            delay_ns, due = self._delays_ns[camera], None
            while coming and (not delay_ns or coming[0][0].stamp_ns + delay_ns <= now_ns):
                due = coming.popleft()
            if due is None:
                continue
            state, twin = due
            if state is not posed:
                twin.data.qpos[:] = state.qpos
                mujoco.mj_kinematics(twin.model, twin.data)
                mujoco.mj_camlight(twin.model, twin.data)
                posed = state
            if self._renderer is None:
                self._renderer = _Renderer(twin.model, self._width, self._height)
            frames.append(
                CameraFrame(
                    camera=camera,
                    frame_id=self._frame_ids[camera],
                    exposure_ns=state.stamp_ns + delay_ns,
                    rgb=self._renderer.render(twin.model, twin.data, camera),
                )
            )
            self._frame_ids[camera] += 1
        return tuple(frames)

    def place_in_image(self, camera: str, points_m: Float64) -> Float64:
        """Where points (N, 3) of the world appear in the newest image: (N, 2) as shares of its width and height.

        NaN for a point that is not in front of the camera. What stands between is not considered.
        """
        twin = self._twin
        row = twin.model.camera(camera).id
        relative = (np.asarray(points_m) - twin.data.cam_xpos[row]) @ twin.data.cam_xmat[row].reshape(3, 3)
        ahead = np.where(relative[:, 2:] < 0.0, -relative[:, 2:], np.nan)  # a camera looks along its -z
        half_height = math.tan(math.radians(float(twin.model.cam_fovy[row])) / 2.0)
        half_width = half_height * self._width / self._height
        return np.asarray(0.5 + 0.5 * relative[:, :2] / ahead * (1.0 / half_width, -1.0 / half_height))

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _lay(self, state: SimState) -> TwinModel:
        scene = Scene()
        if state.task:
            scene = task_named(self._tasks, state.task, state.split).reset(state.seed, state.split).scene
        twin = self._models.get(scene.layout)
        if twin is None:
            twin = self._models[scene.layout] = TwinModel(*self._bases, scene)
        twin.place(scene)
        return twin


class _Renderer:
    """One off-screen OpenGL context for all models of the twin: they share materials and quality.

    mujoco.Renderer makes a context for each model, which takes 40 ms and more.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        if not hasattr(mujoco, "GLContext"):
            raise DriverError(
                f"the twin's cameras need OpenGL (MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}): "
                "install libosmesa6 or libegl1"
            )
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._option = mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), dtype=np.uint8)

    def render(self, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> UInt8:
        """What ``camera`` sees: (height, width, 3) uint8."""
        self._gl.make_current()
        self._camera.fixedcamid = model.camera(camera).id
        mujoco.mjv_updateScene(
            model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return np.ascontiguousarray(self._pixels[::-1])  # OpenGL's rows go upwards

    def close(self) -> None:
        """Free the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
