"""The SDL driver, on SDL's own virtual controller."""

from collections.abc import Iterator

import pytest

from syvla.control.gamepad import Button, refusal
from syvla.drivers.joystick import LOOK_AGAIN_NS, Joystick
from syvla.drivers.joystick_emulator import VirtualController
from syvla.protocols import GamepadState


class Sdl:
    """A driver, and time that passes between its looks for a controller."""

    def __init__(self, wanted: str = "") -> None:
        self.joystick = Joystick(wanted)
        self.now_ns = 0

    def read(self) -> GamepadState | None:
        """After long enough to look again."""
        self.now_ns += LOOK_AGAIN_NS
        return self.joystick.read(self.now_ns)

    def state(self) -> GamepadState:
        state = self.read()
        assert state is not None
        assert refusal(state) is None
        return state


@pytest.fixture
def sdl() -> Iterator[Sdl]:
    found = Sdl()
    yield found
    found.joystick.close()


def test_without_a_controller_there_is_none_and_one_is_found_when_it_is_plugged_in(sdl: Sdl) -> None:
    assert sdl.read() is None
    VirtualController()
    state = sdl.state()
    assert state.sampled_ns == sdl.now_ns
    assert list(state.axes) == [0.0] * 6
    assert not any(state.buttons)


@pytest.mark.parametrize("button", list(Button))
def test_every_button_has_its_number(sdl: Sdl, button: Button) -> None:
    controller = VirtualController()
    sdl.read()
    controller.press(button)
    assert [number for number, down in enumerate(sdl.state().buttons) if down] == [button]
    controller.release(button)
    assert not any(sdl.state().buttons)


@pytest.mark.parametrize("axis", range(6))
def test_every_axis_has_its_number_and_its_whole_way(sdl: Sdl, axis: int) -> None:
    controller = VirtualController()
    sdl.read()  # SDL takes an axis's first value for where it rests
    for way in (1.0, 0.5, 0.0, *((-0.5, -1.0) if axis < 4 else ())):
        controller.move(axis, way)
        axes = list(sdl.state().axes)
        assert axes.pop(axis) == pytest.approx(way, abs=1e-4)
        assert axes == [0.0] * 5


def test_unplugged_there_is_none_at_once_and_it_comes_back_when_it_is_plugged_in(sdl: Sdl) -> None:
    controller = VirtualController()
    controller.press(Button.LEFT_SHOULDER)
    assert sdl.state().buttons[Button.LEFT_SHOULDER]
    controller.unplug()
    assert sdl.joystick.read(sdl.now_ns + 1) is None
    assert sdl.read() is None
    VirtualController()
    assert not any(sdl.state().buttons)


def test_the_controller_that_is_wanted_is_opened_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    one, other = Sdl("one"), Sdl("other")
    VirtualController("other")
    assert one.read() is None
    assert other.read() is not None
    assert "controller 'other'" in caplog.text
    guid = caplog.text.rsplit("GUID ", 1)[1].split()[0]
    by_guid = Sdl(guid)
    assert by_guid.read() is not None
    for sdl in (one, other, by_guid):
        sdl.joystick.close()


def test_nothing_piles_up_that_nobody_reads(sdl: Sdl) -> None:
    import sdl2

    controller = VirtualController()
    for i in range(300):
        controller.move(0, (i % 2) * 0.5)
        sdl.state()
    assert sdl2.SDL_PeepEvents(None, 0, sdl2.SDL_PEEKEVENT, sdl2.SDL_FIRSTEVENT, sdl2.SDL_LASTEVENT) <= 2
