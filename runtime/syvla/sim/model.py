"""The compiled MuJoCo model of both arms, the table and one layout of things on it.

Generalised positions come in the order left arm (8), right arm (8), free objects (7 each), rails (1 each); the
arms' part does not depend on the layout. Poses and colours of a scene are put into a compiled model.
"""

import math

import mujoco
import numpy as np

from syvla.control.kinematics import Base
from syvla.messages import ARMS
from syvla.sim.piper_mjcf import ARM_DOF, BIT_LEFT, BIT_OBJECT, BIT_RIGHT, BIT_WORLD, piper
from syvla.sim.scene import Container, FreeObject, Scene

TIMESTEP_NS = 2_500_000
ARMS_QPOS = 2 * ARM_DOF

_HIGH_EYE = "0.80 0 0.95"  # across the table from the arms, looking down at both hands
_HIGH_AXES = "0 1 0 -0.8733 0 0.4872"

_MAT_PIXELS = (150, 100)  # along y, along x: one for each centimetre
_MAT_RGB = (0.63, 0.58, 0.53)
_MAT_ALONG_Y = (0.15, 0.0, -0.15)  # from the middle to the left edge
_MAT_ALONG_X = (0.0, 0.13, 0.0)  # and to the far edge
_MAT_CHECK = 0.015

_HEAD = f"""
<mujoco model="cobot_magic_twin">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_NS / 1e9!r}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="20"
          ls_iterations="50" tolerance="1e-7">
    <flag sleep="enable" multiccd="disable" autoreset="disable"/>
  </option>
  <size memory="8M"/>
  <statistic center="0.3 0 0.1" extent="1"/>
  <visual>
    <global offwidth="1280" offheight="960"/>
    <quality numslices="20" numstacks="10" offsamples="0"/>
    <map znear="0.01" zfar="10"/>
    <headlight ambient="0.42 0.42 0.43" diffuse="0.22 0.22 0.22" specular="0.05 0.05 0.05"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.87 0.90 0.94" rgb2="0.66 0.72 0.80"
             width="64" height="64"/>
    <texture name="table" type="2d" builtin="flat" rgb1="0.64 0.58 0.52" width="{_MAT_PIXELS[1]}"
             height="{_MAT_PIXELS[0]}"/>
    <material name="table" texture="table" specular="0.05" shininess="0.1"/>
  </asset>
"""
_WORLD = f"""
    <light directional="true" pos="0.2 0.6 2" dir="0.25 -0.45 -1" diffuse="0.50 0.50 0.48" specular="0.2 0.2 0.2"
           castshadow="false"/>
    <light directional="true" pos="0.5 -1 2" dir="-0.3 0.6 -1" diffuse="0.16 0.17 0.20" specular="0 0 0"
           castshadow="false"/>
    <geom name="table" type="plane" pos="0.32 0 0" size="0.50 0.75 0.02" material="table" friction="0.9 0.01 0.002"
          contype="{BIT_WORLD}" conaffinity="{BIT_OBJECT | BIT_LEFT | BIT_RIGHT}"/>
    <camera name="cam_high" pos="{_HIGH_EYE}" xyaxes="{_HIGH_AXES}" fovy="42"/>
"""


class TwinModel:
    """A compiled layout and where its things are in MuJoCo's arrays."""

    def __init__(self, left: Base, right: Base, scene: Scene) -> None:
        """Compile ``scene`` between two arms."""
        arms = (
            piper("left", left, BIT_LEFT, "cam_left_wrist"),
            piper("right", right, BIT_RIGHT, "cam_right_wrist"),
        )
        things = [_object(o) for o in scene.objects] + [_container(c) for c in scene.containers]
        xml = (
            _HEAD
            + "<worldbody>"
            + "".join(arm.body for arm in arms)
            + _WORLD
            + "".join(things)
            + "</worldbody><actuator>"
            + "".join(arm.actuators for arm in arms)
            + "</actuator></mujoco>"
        )
        self.layout = scene.layout
        self.model = mujoco.MjModel.from_xml_string(xml)
        self._print_mat()
        self.data = mujoco.MjData(self.model)
        self.bodies = np.array([self.model.body(f"thing/{name}").id for name in scene.names], dtype=np.int64)
        self.gains = self.model.actuator_gainprm.copy()
        self.biases = self.model.actuator_biasprm.copy()
        self.pads = [self.model.geom(f"{arm}/pad_{finger}").id for arm in ARMS for finger in "ab"]
        self.thing_of_geom = {self.model.geom(f"thing/{o.name}").id: row for row, o in enumerate(scene.objects)}

    def _print_mat(self) -> None:
        """The table's mat: its colour tells the place, so that a patch of it does not look like all others.

        A vision tower with relative positions alone takes long to learn from the borders where a patch is.
        """
        texture = self.model.texture("table")
        y, x = (np.linspace(-1.0, 1.0, n) for n in _MAT_PIXELS)
        y, x = y[:, None, None], x[None, :, None]
        check = np.sign(np.sin(7.5 * math.pi * y) * np.sin(5.0 * math.pi * x))
        rgb = np.array(_MAT_RGB) + y * _MAT_ALONG_Y + x * _MAT_ALONG_X + _MAT_CHECK * check
        first = int(texture.adr[0])
        self.model.tex_data[first : first + rgb.size] = np.round(255.0 * rgb).ravel()

    def place(self, scene: Scene) -> None:
        """Put the things of ``scene`` where it says, at rest, in its colours; the arms go to zero."""
        if scene.layout != self.layout:
            raise ValueError("the scene has another layout than the compiled model")
        model, data = self.model, self.data
        for container in scene.containers:
            body = model.body(f"thing/{container.name}")
            body.pos[:2] = container.centre_m
            first = int(body.geomadr[0])
            model.geom_rgba[first : first + int(body.geomnum[0])] = _container_colours(container)
        for thing in scene.objects:
            model.geom(f"thing/{thing.name}").rgba[:] = thing.rgba
        mujoco.mj_resetData(model, data)
        for row, thing in enumerate(scene.objects):
            start = ARMS_QPOS + 7 * row
            half = thing.yaw_rad / 2.0
            data.qpos[start : start + 7] = (*thing.position_m, math.cos(half), 0.0, 0.0, math.sin(half))


def _object(thing: FreeObject) -> str:
    x, y, z = (s / 2.0 for s in thing.size_m)
    size, turn, condim = {
        "box": (f"{x!r} {y!r} {z!r}", "", 4),
        "cylinder": (f"{x!r} {z!r}", "", 6),  # or a can that was knocked over rolls for ever
        "sphere": (f"{x!r}", "", 6),
        "capsule": (f"{y!r} {x - y!r}", 'euler="0 1.5707963267948966 0"', 6),
    }[thing.shape]
    return (
        f'<body name="thing/{thing.name}" pos="{x!r} 0 {z!r}"><freejoint/>'
        f'<geom name="thing/{thing.name}" type="{thing.shape}" size="{size}" {turn} mass="{thing.mass_kg!r}"'
        f' contype="{BIT_OBJECT}" conaffinity="{BIT_WORLD | BIT_OBJECT | BIT_LEFT | BIT_RIGHT}"'
        f' condim="{condim}" friction="0.9 0.01 0.002" solref="0.01 1"/></body>'
    )


def _container(thing: Container) -> str:
    (x, y), t, h = (s / 2.0 for s in thing.inner_m), thing.wall_thickness_m / 2.0, thing.wall_height_m / 2.0
    contact = f'contype="{BIT_WORLD}" conaffinity="{BIT_OBJECT | BIT_LEFT | BIT_RIGHT}" friction="0.5 0.01 0.002"'
    walls = "".join(
        f'<geom type="box" pos="{px!r} {py!r} {h!r}" size="{sx!r} {sy!r} {h!r}" {contact}/>'
        for px, py, sx, sy in (
            (x + t, 0.0, t, y + 2 * t),
            (-x - t, 0.0, t, y + 2 * t),
            (0.0, y + t, x, t),
            (0.0, -y - t, x, t),
        )
    )
    joint = ""
    if thing.slide is not None:
        axis = {"x": "1 0 0", "y": "0 1 0"}[thing.slide.axis]
        low, high = thing.slide.range_m
        joint = (
            f'<inertial mass="{thing.slide.mass_kg!r}" pos="0 0 {h!r}" diaginertia="2e-3 2e-3 2e-3"/>'
            f'<joint name="thing/{thing.name}" type="slide" axis="{axis}" range="{low!r} {high!r}"'
            f' frictionloss="{thing.slide.friction_n!r}" damping="{thing.slide.damping_n_s_m!r}"/>'
        )
    return (
        f'<body name="thing/{thing.name}">{joint}'
        f'<geom type="box" pos="0 0 0.0005" size="{x!r} {y!r} 0.0005" contype="0" conaffinity="0"/>{walls}</body>'
    )


def _container_colours(thing: Container) -> list[tuple[float, float, float, float]]:
    """A lighter floor, then four walls."""
    r, g, b, a = thing.rgba
    floor = (0.5 + 0.5 * r, 0.5 + 0.5 * g, 0.5 + 0.5 * b, a)
    return [floor, *[thing.rgba] * 4]
