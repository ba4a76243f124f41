"""What a controller's buttons and axes ask for: deadman, requests and directions, and what is refused."""

from math import inf, nan

import pytest

from syvla.config import TeleopConfig
from syvla.control.gamepad import CHORD_NS, CONTROLS, GRIPPER_M_S, SPEEDS, Asked, Button, Controls, refusal
from syvla.messages import Mode
from syvla.protocols import GamepadState

MS = 1_000_000
LB, RB = Button.LEFT_SHOULDER, Button.RIGHT_SHOULDER


class Pad:
    """A controller and those who follow it."""

    def __init__(self, dead_zone: float = 0.15) -> None:
        self.controls = Controls(TeleopConfig(dead_zone=dead_zone))
        self.mode: Mode | None = Mode.ENABLED
        self.now_ns = 0
        self.read()

    def read(self, *down: int, axes: tuple[float, ...] = (0.0,) * 6, ms: int = 5) -> Asked:
        """The next sample with these buttons down."""
        self.now_ns += ms * MS
        return self.controls.read(state(*down, axes=axes, now_ns=self.now_ns), self.mode)

    def strike(self, button: int) -> "Pad":
        """Press and let go."""
        self.read(button)
        self.read()
        return self


def state(*down: int, axes: tuple[float, ...] = (0.0,) * 6, now_ns: int = 0) -> GamepadState:
    return GamepadState(now_ns, axes, [button in down for button in range(len(Button))])


def test_the_deadman_takes_over_in_the_sample_in_which_it_goes_down() -> None:
    pad = Pad()
    assert (pad.read().deadman, pad.read().request) == (False, "none")
    asked = pad.read(LB)
    assert (asked.deadman, asked.request) == (True, "override")
    assert pad.read(LB).request == "override", "until the robot says that it is so"
    pad.mode = Mode.OVERRIDE
    assert pad.read(LB) == pad.read(LB)
    assert pad.read(LB).request == "none"
    assert not pad.read().deadman
    assert pad.read().request == "none", "letting go does not give back"


def test_start_gives_back_and_a_deadman_that_is_still_held_does_not_take_over_again() -> None:
    pad = Pad()
    pad.read(LB)
    pad.mode = Mode.OVERRIDE
    pad.read(LB)
    assert pad.read(LB, Button.START).request == "policy"
    asked = pad.read(LB)
    assert (asked.deadman, asked.request) == (False, "policy"), "until the robot says that it is so"
    pad.mode = Mode.ENABLED
    assert (pad.read(LB).deadman, pad.read(LB).request) == (False, "none")
    pad.read()
    assert pad.read(LB).request == "override"


def test_start_outside_an_override_is_nothing_and_stays_nothing() -> None:
    pad = Pad()
    assert pad.read(Button.START).request == "none"
    pad.mode = Mode.OVERRIDE
    assert pad.read(Button.START).request == "none"


@pytest.mark.parametrize("mode", [None, Mode.DISABLED, Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT])
def test_nobody_takes_over_where_nothing_may_move(mode: Mode | None) -> None:
    pad = Pad()
    pad.mode = mode
    assert pad.read(LB).request == "none"


def test_a_hold_ends_the_grip_and_a_new_one_may_be_taken_while_it_lasts() -> None:
    pad = Pad()
    pad.read(LB)
    pad.mode = Mode.OVERRIDE
    assert pad.read(LB).deadman
    pad.mode = Mode.HOLD
    assert not pad.read(LB).deadman
    pad.mode = Mode.ENABLED
    assert pad.read(LB).request == "none", "held through a hold, it was pressed for something else"
    pad.mode = Mode.HOLD
    pad.read()
    pad.read(LB)
    pad.mode = Mode.ENABLED
    assert pad.read(LB).request == "override"


def test_what_was_down_when_the_controller_was_plugged_in_means_nothing_until_it_is_let_go() -> None:
    pad = Pad()
    pad.controls.forget()
    everything = [button for button in Button if button is not Button.B]
    asked = pad.read(*everything)
    assert (asked.deadman, asked.request, asked.clear) == (False, "none", False)
    pad.read()
    assert pad.read(LB).deadman


def test_b_holds_for_as_long_as_it_is_down_and_whatever_else_is() -> None:
    pad = Pad()
    for _ in range(3):
        assert pad.read(Button.B, LB).request == "hold"
    pad.controls.forget()
    assert pad.read(Button.B).request == "hold"


@pytest.mark.parametrize("order", [(Button.BACK, Button.START), (Button.START, Button.BACK)])
@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT])
def test_the_chord_clears_once_what_latched(order: tuple[Button, Button], mode: Mode) -> None:
    pad = Pad()
    pad.mode = mode
    assert not pad.read(order[0]).clear
    assert pad.read(*order).clear
    assert not pad.read(*order).clear
    pad.read()
    pad.read(order[0])
    assert pad.read(*order).clear


def test_the_chord_is_two_fresh_presses_close_together_and_only_where_something_latched() -> None:
    pad = Pad()
    pad.mode = Mode.HOLD
    pad.read(Button.BACK)
    assert not pad.read(Button.BACK, Button.START, ms=CHORD_NS // MS + 1).clear
    pad.read()
    assert not pad.read(Button.START).clear
    assert not pad.read(Button.BACK).clear
    pad.read()
    for mode in (None, Mode.DISABLED, Mode.ENABLED, Mode.OVERRIDE):
        pad.mode = mode
        assert not pad.read(Button.BACK, Button.START).clear
        pad.read()


# ---------------------------------------------------------------- sticks and triggers


def full(axis: int, way: float) -> tuple[float, ...]:
    return tuple(way if number == axis else 0.0 for number in range(6))


@pytest.mark.parametrize(
    ("axis", "way", "down", "hand", "part", "sign"),
    [
        (1, -1.0, (), 0, 0, 1),  # up is forward
        (1, 1.0, (), 0, 0, -1),
        (0, -1.0, (), 0, 1, 1),  # to the left
        (0, 1.0, (), 0, 1, -1),
        (3, -1.0, (), 1, 0, 1),
        (2, 1.0, (), 1, 1, -1),
        (1, -1.0, (RB,), 0, 2, 1),  # up
        (3, 1.0, (RB,), 1, 2, -1),
        (0, -1.0, (RB,), 0, 5, 1),  # turn to the left
        (2, 1.0, (RB,), 1, 5, -1),
        (1, -1.0, (Button.X,), 0, 4, 1),  # lean forward
        (0, 1.0, (Button.X,), 0, 3, 1),  # lean to the right
        (2, -1.0, (Button.X,), 1, 3, -1),
    ],
)
def test_each_stick_moves_its_own_hand(
    axis: int, way: float, down: tuple[Button, ...], hand: int, part: int, sign: int
) -> None:
    twist = Pad().read(*down, axes=full(axis, way)).jog.twist
    speed = SPEEDS[0].linear_m_s if part < 3 else SPEEDS[0].angular_rad_s
    wanted = [[0.0] * 6, [0.0] * 6]
    wanted[hand][part] = sign * speed
    assert [list(row) for row in twist] == [pytest.approx(row) for row in wanted]


def test_one_hand_alone_has_both_sticks_and_is_no_faster_for_it() -> None:
    pad = Pad().strike(Button.A)
    assert pad.controls.setting.startswith("left hand")
    left, right = pad.read(axes=(0.0, -1.0, -1.0, -1.0, 0.0, 0.0)).jog.twist
    assert list(right) == [0.0] * 6
    assert left[0] > 0
    assert left[2] > 0
    assert left[5] > 0
    assert sum(v * v for v in left[:3]) ** 0.5 == pytest.approx(SPEEDS[0].linear_m_s)
    left, right = pad.strike(Button.A).read(axes=full(1, -1.0)).jog.twist
    assert list(left) == [0.0] * 6
    assert right[0] == pytest.approx(SPEEDS[0].linear_m_s)
    assert pad.strike(Button.A).controls.setting.startswith("both hands")


def test_the_dead_zone_is_round_and_motion_begins_at_its_edge_from_nothing() -> None:
    pad = Pad(dead_zone=0.2)
    for x, y in ((0.2, 0.0), (0.0, -0.2), (-0.14, 0.14)):
        assert [list(row) for row in pad.read(axes=(x, y, x, y, 0.0, 0.0)).jog.twist] == [[0.0] * 6] * 2
    forward, left = pad.read(axes=(0.0, -0.21, 0.0, 0.0, 0.0, 0.0)).jog.twist[0][:2]
    assert 0.0 < forward < 0.02 * SPEEDS[0].linear_m_s
    assert left == 0.0
    corner = pad.read(axes=(1.0, 1.0, 0.0, 0.0, 0.0, 0.0)).jog.twist[0]
    assert sum(v * v for v in corner) ** 0.5 == pytest.approx(SPEEDS[0].linear_m_s), "a corner is no faster"


def test_triggers_close_and_open_the_grippers() -> None:
    pad = Pad(dead_zone=0.1)
    assert list(pad.read(axes=(0.0, 0.0, 0.0, 0.0, 1.0, 0.1)).jog.gripper_m_s) == pytest.approx([-GRIPPER_M_S, 0.0])
    assert list(pad.read(RB, axes=(0.0, 0.0, 0.0, 0.0, 0.0, 0.55)).jog.gripper_m_s) == pytest.approx(
        [0.0, GRIPPER_M_S / 2]
    )


def test_buttons_choose_axes_and_speed() -> None:
    pad = Pad()
    assert pad.controls.setting == "both hands, axes of the base, slow"
    assert not pad.read().jog.in_hand
    pad.strike(Button.Y).strike(Button.DPAD_UP).strike(Button.DPAD_UP).strike(Button.DPAD_UP)
    assert pad.controls.setting == "both hands, axes of the hand, fast"
    assert pad.read().jog.in_hand
    assert pad.read(axes=full(1, -1.0)).jog.twist[0][0] == pytest.approx(0.25), "ISO 10218-1's reduced speed"
    for _ in range(4):
        pad.strike(Button.DPAD_DOWN)
    assert pad.controls.setting.endswith("slow")


def test_back_and_the_d_pad_begin_and_end_episodes_once_and_change_nothing_else() -> None:
    pad = Pad()
    assert pad.read(Button.DPAD_UP).episode is None
    pad.read()
    setting = pad.controls.setting
    for button, action in zip(
        (Button.DPAD_UP, Button.DPAD_RIGHT, Button.DPAD_LEFT, Button.DPAD_DOWN),
        ("start", "success", "failure", "discard"),
        strict=True,
    ):
        assert pad.read(Button.BACK).episode is None
        asked = pad.read(Button.BACK, button)
        assert (asked.episode, asked.request, asked.clear) == (action, "none", False)
        assert pad.read(Button.BACK, button).episode is None, "once for a press"
        pad.read()
    assert pad.controls.setting == setting
    pad.controls.forget()
    pad.read(Button.BACK)
    assert pad.read(Button.BACK, Button.DPAD_UP).episode is None, "BACK was down when the controller was plugged in"


def test_every_button_that_does_something_is_in_the_table() -> None:
    words = " ".join(control for control, _ in CONTROLS)
    for name in ("LB", "RB", "START", "BACK", "B", "A", "X", "Y", "stick", "triggers", "D-pad"):
        assert name in words.split() or name in words


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("way", [nan, inf, -inf, 1.01, -1.01])
@pytest.mark.parametrize("axis", range(6))
def test_an_axis_that_cannot_be_is_refused_not_clamped(axis: int, way: float) -> None:
    assert f"axis {axis} must be" in str(refusal(state(axes=full(axis, way))))


def test_a_trigger_is_not_negative_and_a_stick_may_be() -> None:
    assert refusal(state(axes=(-1.0, 1.0, -1.0, 1.0, 0.0, 1.0))) is None
    assert "axis 5 must be 0..1, not -0.5" in str(refusal(state(axes=full(5, -0.5))))


def test_what_has_too_few_axes_or_buttons_is_refused() -> None:
    assert "it has 0 axes" in str(refusal(GamepadState(0, (), ())))
    assert "it has 3 buttons" in str(refusal(GamepadState(0, (0.0,) * 6, (False,) * 3)))
    assert refusal(GamepadState(0, (0.0,) * 6, (False,) * 21)) is None
