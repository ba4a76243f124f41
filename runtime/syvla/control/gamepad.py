"""What a game controller asks for: its buttons and axes in, a deadman, a jog and requests out. Knows no device."""

import enum
from math import hypot, isfinite
from typing import Literal, NamedTuple

from syvla.clock import to_ns
from syvla.config import TeleopConfig
from syvla.control.mode import LATCHED
from syvla.messages import Mode
from syvla.protocols import GamepadState, Jog

EpisodeAction = Literal["start", "success", "failure", "discard"]


class Button(enum.IntEnum):
    """Buttons by their number."""

    A = 0
    B = 1
    X = 2
    Y = 3
    BACK = 4
    GUIDE = 5
    START = 6
    LEFT_STICK = 7
    RIGHT_STICK = 8
    LEFT_SHOULDER = 9
    RIGHT_SHOULDER = 10
    DPAD_UP = 11
    DPAD_DOWN = 12
    DPAD_LEFT = 13
    DPAD_RIGHT = 14


AXES = 6
LEFT_TRIGGER, RIGHT_TRIGGER = 4, 5
DEADMAN = Button.LEFT_SHOULDER

CONTROLS = (
    ("LB, held", "take over; let go, the arms stand and wait"),
    ("START", "give back to the policy"),
    ("B", "hold"),
    ("BACK + START", "clear what latched: a fault first, then a hold"),
    ("left, right stick", "move the left, right hand: forward, back, to the sides"),
    ("  with RB", "up, down, turn about the vertical"),
    ("  with X", "tilt forward, back, sideways"),
    ("triggers", "close the left, right gripper; with RB, open it"),
    ("A", "both hands; left alone; right alone: the left stick moves it, the right one lifts and turns"),
    ("Y", "directions of the arm's base, or of the hand"),
    ("D-pad up, down", "faster, slower"),
    ("BACK + D-pad", "up: begin to record an episode; right: it is a success; left: a failure; down: discard it"),
)
EPISODE_BUTTONS: tuple[tuple[Button, EpisodeAction], ...] = (
    (Button.DPAD_UP, "start"),
    (Button.DPAD_RIGHT, "success"),
    (Button.DPAD_LEFT, "failure"),
    (Button.DPAD_DOWN, "discard"),
)


class Speed(NamedTuple):
    """A full stick's speed; 0.25 m/s is the most that ISO 10218-1 allows a hand that is moved by hold-to-run."""

    name: str
    linear_m_s: float
    angular_rad_s: float


SPEEDS = (Speed("slow", 0.05, 0.25), Speed("medium", 0.12, 0.6), Speed("fast", 0.25, 1.2))
GRIPPER_M_S = 0.1
ARM_CHOICES = ("both hands", "left hand", "right hand")
CHORD_NS = to_ns(0.5)  # two buttons of one chord go down within this time


class Asked(NamedTuple):
    """What a person asks for."""

    deadman: bool
    request: Literal["none", "override", "policy", "hold"]
    clear: bool  # the chord that clears what latched was struck just now
    episode: EpisodeAction | None  # what is to happen to the recording
    jog: Jog


def refusal(state: GamepadState) -> str | None:
    """Why ``state`` is no sample of a game controller, or None."""
    if len(state.axes) != AXES:
        return f"it has {len(state.axes)} axes; a game controller has {AXES}"
    if len(state.buttons) < len(Button):
        return f"it has {len(state.buttons)} buttons; a game controller has at least {len(Button)}"
    for number, value in enumerate(state.axes):
        least = -1.0 if number < LEFT_TRIGGER else 0.0
        if not (isfinite(value) and least <= value <= 1.0):
            return f"axis {number} must be {least:g}..1, not {value}"
    return None


class Controls:
    """Follows a controller from sample to sample.

    A button counts when it goes down after it was seen up: one that was held while the controller was plugged in means
    nothing until it is let go. The deadman moreover must be pressed anew after the arms were given back or came to
    hold. B alone counts however it came to be down.
    """

    def __init__(self, config: TeleopConfig) -> None:
        self._dead_zone = config.dead_zone
        self._speed = 0
        self._arms = 0
        self._in_hand = False
        self._armed = False
        self._giving_back = False
        self._mode: Mode | None = None
        self.forget()

    @property
    def setting(self) -> str:
        """In words: which arms, which axes, how fast."""
        return (
            f"{ARM_CHOICES[self._arms]}, axes of the {'hand' if self._in_hand else 'base'}, {SPEEDS[self._speed].name}"
        )

    def forget(self) -> None:
        """The controller is not there, or makes no sense: whatever is down when it comes back is to be let go first."""
        self._down = [True] * len(Button)
        self._fresh = [False] * len(Button)
        self._pressed_ns = [0] * len(Button)
        self._armed = self._giving_back = False

    def read(self, state: GamepadState, mode: Mode | None) -> Asked:
        """What ``state``, which was not refused, asks for while the gate is in ``mode`` (None: not known)."""
        pressed = self._press(state)
        if mode in LATCHED and self._mode not in LATCHED:
            self._armed = False
        self._mode = mode
        episode = None
        if self._fresh[Button.BACK]:
            episode = next((action for button, action in EPISODE_BUTTONS if button in pressed), None)
        else:
            self._set(pressed)
        if Button.START in pressed and mode is Mode.OVERRIDE:
            self._armed, self._giving_back = False, True
        if not self._fresh[DEADMAN]:
            self._armed = False
        elif DEADMAN in pressed:
            self._armed, self._giving_back = True, False
        if mode is not Mode.OVERRIDE:
            self._giving_back = False
        request: Literal["none", "override", "policy", "hold"] = "none"
        if state.buttons[Button.B]:
            request = "hold"
        elif self._giving_back:  # until it is seen to have happened: of two samples the robot may read the last alone
            request = "policy"
        elif self._armed and mode is Mode.ENABLED:
            request = "override"
        return Asked(self._armed, request, mode in LATCHED and self._chord(pressed), episode, self._jog(state))

    def _press(self, state: GamepadState) -> set[int]:
        """The buttons that went down."""
        pressed = set()
        for button in range(len(Button)):
            down = bool(state.buttons[button])
            if down and not self._down[button]:
                pressed.add(button)
                self._fresh[button] = True
                self._pressed_ns[button] = state.sampled_ns
            elif not down:
                self._fresh[button] = False
            self._down[button] = down
        return pressed

    def _chord(self, pressed: set[int]) -> bool:
        """Whether BACK and START have just been struck together."""
        pair = (Button.BACK, Button.START)
        struck = any(button in pressed for button in pair) and all(self._fresh[button] for button in pair)
        return struck and abs(self._pressed_ns[pair[0]] - self._pressed_ns[pair[1]]) <= CHORD_NS

    def _set(self, pressed: set[int]) -> None:
        if Button.A in pressed:
            self._arms = (self._arms + 1) % len(ARM_CHOICES)
        if Button.Y in pressed:
            self._in_hand = not self._in_hand
        if Button.DPAD_UP in pressed:
            self._speed = min(self._speed + 1, len(SPEEDS) - 1)
        if Button.DPAD_DOWN in pressed:
            self._speed = max(self._speed - 1, 0)

    # ------------------------------------------------------------ sticks and triggers

    def _jog(self, state: GamepadState) -> Jog:
        left, right = self._stick(*state.axes[0:2]), self._stick(*state.axes[2:4])
        lifts, tilts = state.buttons[Button.RIGHT_SHOULDER], state.buttons[Button.X]
        if self._arms == 0:
            both = (self._twist(left, lifts, tilts), self._twist(right, lifts, tilts))
        else:
            moved, turned = self._twist(left, lifts, tilts), self._twist(right, True, tilts)
            one = self._bounded([a + b for a, b in zip(moved, turned, strict=True)])
            both = (one, [0.0] * 6) if self._arms == 1 else ([0.0] * 6, one)
        sign = 1.0 if lifts else -1.0
        triggers = (self._trigger(state.axes[LEFT_TRIGGER]), self._trigger(state.axes[RIGHT_TRIGGER]))
        return Jog(both, [sign * GRIPPER_M_S * way for way in triggers], self._in_hand)

    def _stick(self, x: float, y: float) -> tuple[float, float]:
        """How far a stick is pushed forward and to the left, 0..1 together; a round dead zone in the middle."""
        way = hypot(x, y)
        if way <= self._dead_zone:
            return 0.0, 0.0
        scale = min((way - self._dead_zone) / (1.0 - self._dead_zone), 1.0) / way
        return -y * scale, -x * scale

    def _trigger(self, way: float) -> float:
        return max(way - self._dead_zone, 0.0) / (1.0 - self._dead_zone)

    def _twist(self, stick: tuple[float, float], lifts: bool, tilts: bool) -> list[float]:
        """What one stick does: forward, left, up [m/s], and turning about these [rad/s]."""
        forward, left = stick
        linear, angular = SPEEDS[self._speed][1:]
        if tilts:  # what leans forward turns about the left axis, what leans left against the forward one
            return [0.0, 0.0, 0.0, -left * angular, forward * angular, 0.0]
        if lifts:
            return [0.0, 0.0, forward * linear, 0.0, 0.0, left * angular]
        return [forward * linear, left * linear, 0.0, 0.0, 0.0, 0.0]

    def _bounded(self, twist: list[float]) -> list[float]:
        """Two sticks together are no faster than one."""
        _, linear, angular = SPEEDS[self._speed]
        move = min(1.0, linear / max(hypot(*twist[:3]), 1e-12))
        turn = min(1.0, angular / max(hypot(*twist[3:]), 1e-12))
        return [*(move * v for v in twist[:3]), *(turn * v for v in twist[3:])]
