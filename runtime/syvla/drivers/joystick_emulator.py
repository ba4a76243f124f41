"""A game controller under SDL's own interface: it is plugged in, moved and unplugged inside one process."""

import warnings
from typing import Any

from syvla.control.gamepad import AXES, LEFT_TRIGGER, Button
from syvla.errors import DriverError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says which shared library it has taken
    import sdl2

_FULL = 32767


class VirtualController:
    """SDL's virtual joystick as a game controller; SDL must run. What is set is seen at the next event pump."""

    def __init__(self, name: str = "virtual") -> None:
        description = sdl2.SDL_VirtualJoystickDesc(
            version=sdl2.SDL_VIRTUAL_JOYSTICK_DESC_VERSION,
            type=sdl2.SDL_JOYSTICK_TYPE_GAMECONTROLLER,
            naxes=AXES,
            nbuttons=len(Button),
            name=name.encode(),
        )
        index = sdl2.SDL_JoystickAttachVirtualEx(description)
        self._joystick: Any = sdl2.SDL_JoystickOpen(index) if index >= 0 else None
        if not self._joystick:
            raise DriverError(f"SDL makes no virtual controller: {sdl2.SDL_GetError().decode(errors='replace')}")
        self._instance = sdl2.SDL_JoystickInstanceID(self._joystick)
        for axis in range(AXES):
            self.move(axis, 0.0)

    def press(self, *buttons: int) -> None:
        """Hold these buttons down."""
        for button in buttons:
            sdl2.SDL_JoystickSetVirtualButton(self._joystick, button, 1)

    def release(self, *buttons: int) -> None:
        """Let these buttons go."""
        for button in buttons:
            sdl2.SDL_JoystickSetVirtualButton(self._joystick, button, 0)

    def move(self, axis: int, way: float) -> None:
        """Move a stick's axis to -1..1, or a trigger to 0..1."""
        way = 2.0 * way - 1.0 if axis >= LEFT_TRIGGER else way
        sdl2.SDL_JoystickSetVirtualAxis(self._joystick, axis, round(way * _FULL) if way > -1.0 else -_FULL - 1)

    def unplug(self) -> None:
        """Pull it out."""
        for index in range(sdl2.SDL_NumJoysticks()):
            if sdl2.SDL_JoystickGetDeviceInstanceID(index) == self._instance:
                sdl2.SDL_JoystickDetachVirtual(index)
                return
