"""The mode machine: every transition in one table, and every reason for one in another."""

import enum
from typing import NamedTuple

from syvla.messages import Mode, Reason


class Event(enum.Enum):
    """What can change the mode."""

    ENABLED = "enabled"  # the operator asked and both arms answered
    OVERRIDE = "override"  # a person takes over, deadman held
    POLICY = "policy"  # the person hands back
    HOLD = "hold"
    SOFT_STOP = "soft_stop"
    FAULT = "fault"
    CLEAR_FAULT = "clear_fault"  # the operator's, and only when the cause of the fault is gone
    RESUME = "resume"  # the operator's, and only when the cause of the hold is gone


# What is not listed leaves the mode as it is. Nothing leads back to DISABLED: disabling drops an arm.
TRANSITIONS: dict[tuple[Mode, Event], Mode] = {
    (Mode.DISABLED, Event.ENABLED): Mode.ENABLED,
    (Mode.ENABLED, Event.OVERRIDE): Mode.OVERRIDE,
    (Mode.ENABLED, Event.HOLD): Mode.HOLD,
    (Mode.ENABLED, Event.SOFT_STOP): Mode.SOFT_STOP,
    (Mode.ENABLED, Event.FAULT): Mode.FAULT,
    (Mode.OVERRIDE, Event.POLICY): Mode.ENABLED,
    (Mode.OVERRIDE, Event.HOLD): Mode.HOLD,
    (Mode.OVERRIDE, Event.SOFT_STOP): Mode.SOFT_STOP,
    (Mode.OVERRIDE, Event.FAULT): Mode.FAULT,
    (Mode.HOLD, Event.SOFT_STOP): Mode.SOFT_STOP,
    (Mode.HOLD, Event.FAULT): Mode.FAULT,
    (Mode.HOLD, Event.RESUME): Mode.ENABLED,
    (Mode.SOFT_STOP, Event.FAULT): Mode.FAULT,
    (Mode.SOFT_STOP, Event.RESUME): Mode.ENABLED,
    (Mode.FAULT, Event.CLEAR_FAULT): Mode.HOLD,
}

MOVING = frozenset({Mode.ENABLED, Mode.OVERRIDE})  # modes in which an arm may be commanded to a new pose
LATCHED = frozenset({Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT})


def next_mode(mode: Mode, event: Event) -> Mode:
    """The mode after ``event``."""
    return TRANSITIONS.get((mode, event), mode)


class Cause(NamedTuple):
    """What a reason does to the mode, and what the operator does next."""

    event: Event
    next_step: str


CAUSES: dict[str, Cause] = {
    # holds
    "operator_hold": Cause(Event.HOLD, "Resume when ready."),
    "operator_soft_stop": Cause(Event.SOFT_STOP, "Resume when ready."),
    "process_lost": Cause(Event.HOLD, "See the log of that process and start it again, then resume."),
    "stopping": Cause(Event.HOLD, "The runtime is shutting down; the arms keep holding with torque on."),
    "chunk_not_finite": Cause(Event.HOLD, "Look at the policy that made this chunk, then resume."),
    "clamped": Cause(Event.HOLD, "The policy asks for poses beyond the joint limits; look at it, then resume."),
    "command_stale": Cause(Event.HOLD, "Check that the expert runs and keeps up, then resume."),
    "chunk_missing": Cause(Event.HOLD, "Nothing came from the policy; state a task and resume when it runs."),
    "intent_stale": Cause(Event.HOLD, "Check that the planner runs and keeps up, then resume."),
    "feedback_stale": Cause(Event.HOLD, "Check the arm's power and CAN cable, then resume."),
    "teleop_stale": Cause(Event.HOLD, "Plug the joystick in again; resume lets the policy go on."),
    "teleop_lost": Cause(Event.HOLD, "Plug the joystick or leader arms in again; resume lets the policy go on."),
    "teleop_not_finite": Cause(Event.HOLD, "Check the joystick or leader arms, then resume."),
    "teleop_hold": Cause(Event.HOLD, "The joystick asked for it; resume when ready."),
    "camera_lost": Cause(Event.HOLD, "Check the camera's cable and that the cameras' process runs, then resume."),
    "camera_frozen": Cause(Event.HOLD, "Unplug the camera and plug it in again, then resume."),
    "arm_distance_hold": Cause(Event.HOLD, "Resume, then move the arms apart: only motion that does so will pass."),
    "missed_ticks": Cause(Event.HOLD, "Check the load of the robot's computer, then resume."),
    # faults
    "device_fault": Cause(Event.FAULT, "Put the device right, clear the fault, then resume."),
    "driver_error": Cause(Event.FAULT, "Check the CAN interface, clear the fault, then resume."),
    "feedback_lost": Cause(Event.FAULT, "Check the arm's power and CAN cable, clear the fault, then resume."),
    "feedback_not_finite": Cause(Event.FAULT, "Check the arm's driver, clear the fault, then resume."),
    "feedback_from_future": Cause(Event.FAULT, "Check the driver's time stamps, clear the fault, then resume."),
    "torque_off": Cause(Event.FAULT, "Support the arm, enable its torque, clear the fault, then resume."),
}

# What only warns, and what the operator does next.
WARNINGS: dict[str, str] = {
    "not_enabled": "Enable.",
    "enabling": "Wait for both arms to answer.",
    "enable_timeout": "Check the arms' power, CAN cables and faults, then enable again.",
    "outside_limits": "Move the arm by hand inside its joint limits.",
    "waiting_for_chunk": "The arms stand until the policy sends a chunk made from now on.",
    "chunk_first_step": "The policy starts too far from the arms' pose; look at it if this repeats.",
    "chunk_from_future": "The policy's clock is ahead of the robot's; check its host.",
    "intent_old": "The planner is slow; the arms hold at the intent's time to live.",
    "intent_slow_down": "The planner is late; the arms move slowly.",
    "feedback_late": "Check the arm's CAN cable if this repeats.",
    "arm_distance_slow": "The arms are close and move slowly.",
    "resume_refused": "Remove what still holds the arms, then resume.",
}


def reason(code: str, detail: str) -> Reason:
    """The reason ``code`` in plain words; KeyError if it is in neither table."""
    next_step = WARNINGS[code] if code in WARNINGS else CAUSES[code].next_step
    return Reason(code=code, detail=detail, next_step=next_step)
