"""The MuJoCo twin: world, cameras, tasks, and the reference policy.

MuJoCo chooses its off-screen renderer while it is imported, so the choice is made here, before any module of this
package imports it: the ``MUJOCO_GL`` of the environment, or the software renderer OSMesa where there is one, or EGL.
"""

import ctypes.util
import os


def _choose_renderer() -> None:
    if os.environ.get("MUJOCO_GL"):
        return
    found = [name for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")) if ctypes.util.find_library(library)]
    # Without either the physics still runs; a camera then says what is missing.
    os.environ["MUJOCO_GL"] = found[0] if found else "disabled"


_choose_renderer()
