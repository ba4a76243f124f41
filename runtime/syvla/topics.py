"""The one table of topics: name, type, rate, when it is stale, whether it is recorded."""

from typing import NamedTuple

from syvla import messages as m
from syvla.errors import ConfigError


class Topic(NamedTuple):
    """One row. ``rate_hz`` is nominal, None for an event; ``stale_after_s`` None means it does not age."""

    name: str
    type: type[m.Message]
    rate_hz: float | None
    stale_after_s: float | None
    recorded: bool = True


CAMERAS: tuple[str, ...] = ("cam_high", "cam_left_wrist", "cam_right_wrist")
STAGES: tuple[str, ...] = ("twin", "cameras", "planner", "expert", "robot", "teleop", "recorder", "console")

_ROWS = (
    *(Topic(f"camera/{camera}", m.CameraFrame, 30.0, 0.2) for camera in CAMERAS),
    *(Topic(f"arm/{arm}", m.ArmState, 200.0, 0.05) for arm in m.ARMS),
    Topic("task", m.Task, None, None),
    Topic("thought", m.Thought, None, None),
    Topic("intent", m.Intent, 3.0, 1.0),
    Topic("chunk", m.ActionChunk, 20.0, 0.5),
    Topic("teleop", m.TeleopCommand, 50.0, 0.15),
    Topic("operator", m.OperatorCommand, None, None),
    Topic("episode", m.EpisodeControl, None, None),
    Topic("command", m.JointCommand, 200.0, 0.05),
    Topic("splice", m.Splice, 20.0, None),
    Topic("safety", m.SafetyState, 20.0, 0.2),
    *(Topic(f"health/{stage}", m.Health, 2.0, 2.0) for stage in STAGES),
    Topic("sim/reset", m.SimReset, None, None),
    Topic("sim/state", m.SimState, 60.0, 0.2),
    Topic("sim/truth", m.SimTruth, 20.0, 0.5),
)

TOPICS: dict[str, Topic] = {row.name: row for row in _ROWS}


def topic(name: str) -> Topic:
    """The row called ``name``; ConfigError with the valid names otherwise."""
    try:
        return TOPICS[name]
    except KeyError:
        raise ConfigError(f"no topic {name!r}; there are {', '.join(sorted(TOPICS))}") from None
