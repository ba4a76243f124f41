"""A game controller through SDL2: found by name or GUID, unplugged and plugged in again at any time."""

import logging
import warnings
from typing import Any

from syvla.clock import to_ns
from syvla.control.gamepad import Button
from syvla.errors import DriverError
from syvla.protocols import GamepadState

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says which shared library it has taken
    import sdl2

LOOK_AGAIN_NS = to_ns(0.2)  # for a controller, while none is there
_AXES = (
    sdl2.SDL_CONTROLLER_AXIS_LEFTX,
    sdl2.SDL_CONTROLLER_AXIS_LEFTY,
    sdl2.SDL_CONTROLLER_AXIS_RIGHTX,
    sdl2.SDL_CONTROLLER_AXIS_RIGHTY,
    sdl2.SDL_CONTROLLER_AXIS_TRIGGERLEFT,
    sdl2.SDL_CONTROLLER_AXIS_TRIGGERRIGHT,
)
_HINTS = (
    (sdl2.SDL_HINT_JOYSTICK_ALLOW_BACKGROUND_EVENTS, b"1"),  # there is no window that could have the focus
    (sdl2.SDL_HINT_NO_SIGNAL_HANDLERS, b"1"),  # Ctrl-C is the host's
    (sdl2.SDL_HINT_VIDEODRIVER, b"dummy"),
)
_log = logging.getLogger(__name__)


class Joystick:
    """A :class:`~syvla.protocols.Gamepad`: the controller called ``wanted`` (its name or GUID), or the first one.

    One thread owns it. DriverError if SDL cannot be had; a controller that is not there is none.
    """

    def __init__(self, wanted: str = "") -> None:
        self._wanted = wanted
        self._controller: Any = None
        self._look_ns: int | None = None
        for hint, value in _HINTS:
            sdl2.SDL_SetHint(hint, value)
        if sdl2.SDL_Init(sdl2.SDL_INIT_GAMECONTROLLER) != 0:
            raise DriverError(f"SDL does not start: {sdl2.SDL_GetError().decode(errors='replace')}")

    def read(self, now_ns: int) -> GamepadState | None:
        """What the controller says now; None while there is none."""
        sdl2.SDL_PumpEvents()
        sdl2.SDL_FlushEvents(sdl2.SDL_FIRSTEVENT, sdl2.SDL_LASTEVENT)  # nobody reads them, and they would pile up
        if self._controller is not None and not sdl2.SDL_GameControllerGetAttached(self._controller):
            _log.warning("the controller was unplugged")
            self._release()
            self._look_ns = None
        if self._controller is None and not self._look(now_ns):
            return None
        axes = [sdl2.SDL_GameControllerGetAxis(self._controller, axis) for axis in _AXES]
        return GamepadState(
            now_ns,
            [value / (32767.0 if value > 0 else 32768.0) for value in axes],
            [bool(sdl2.SDL_GameControllerGetButton(self._controller, button)) for button in Button],
        )

    def close(self) -> None:
        """Let the controller go."""
        self._release()
        sdl2.SDL_QuitSubSystem(sdl2.SDL_INIT_GAMECONTROLLER)

    def _release(self) -> None:
        if self._controller is not None:
            sdl2.SDL_GameControllerClose(self._controller)
            self._controller = None

    def _look(self, now_ns: int) -> bool:
        """Open the controller that is wanted, if it is there."""
        if self._look_ns is not None and now_ns < self._look_ns:
            return False
        self._look_ns = now_ns + LOOK_AGAIN_NS
        for index in range(sdl2.SDL_NumJoysticks()):
            name, guid = _identity(index)
            if not sdl2.SDL_IsGameController(index) or self._wanted not in ("", name, guid):
                continue
            self._controller = sdl2.SDL_GameControllerOpen(index) or None
            if self._controller is not None:
                _log.warning("controller %r, GUID %s", name, guid)
                return True
        return False


def _identity(index: int) -> tuple[str, str]:
    """The name and the GUID of the joystick with this number."""
    text = (sdl2.SDL_JoystickNameForIndex(index) or b"").decode(errors="replace")
    return text, "".join(f"{byte:02x}" for byte in sdl2.SDL_JoystickGetDeviceGUID(index).data)
