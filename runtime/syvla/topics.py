"""The one table of topics: name, type, rate, when it is stale, whether it is recorded."""

from typing import NamedTuple

from syvla import messages as m
from syvla.errors import ConfigError
from syvla.message import Message


class Topic(NamedTuple):
    """One row. ``rate_hz`` None: an event; ``stale_after_s`` None: it does not age; ``writer`` is the one stage."""

    name: str
    type: type[Message]
    rate_hz: float | None
    stale_after_s: float | None
    writer: str
    recorded: bool = True
    every: bool = False  # every single message counts, also for a stage that otherwise reads the latest

    @property
    def of_one_process(self) -> bool:
        """Whether another sender means that its process began anew; an event may be anybody's word."""
        return self.rate_hz is not None


CAMERAS: tuple[str, ...] = m.CAMERAS
REPLAYED: tuple[str, ...] = ("planner", "expert", "robot")  # whose steps can be repeated from a recording
STAGES: tuple[str, ...] = ("twin", "cameras", "planner", "expert", "robot", "teleop", "recorder", "console")
# Of a planner on another machine these are overtaken by its own newer ones: their numbers have holes that mean nothing.
OVERTAKEN: tuple[str, ...] = ("thought", "intent", "health/planner")

_ROWS = (
    *(Topic(f"camera/{camera}", m.CameraFrame, 30.0, 0.2, "cameras") for camera in CAMERAS),
    Topic("cameras", m.CamerasState, 20.0, None, "cameras"),  # how old it may get is the rig's
    *(Topic(f"arm/{arm}", m.ArmState, 200.0, 0.05, "robot") for arm in m.ARMS),
    Topic("observation", m.Observation, None, None, "planner", recorded=False),  # these two: to another machine
    Topic("observation/jpeg", m.CompressedObservation, None, None, "planner", recorded=False),
    Topic("task", m.Task, None, None, "console"),
    Topic("thought", m.Thought, None, None, "planner"),
    Topic("intent", m.Intent, 3.0, 1.0, "planner"),
    Topic("playback", m.PlaybackControl, None, None, "console"),
    Topic("playback/state", m.PlaybackState, 20.0, 0.5, "expert"),
    Topic("chunk", m.ActionChunk, 20.0, 0.5, "expert"),
    Topic("teleop", m.TeleopCommand, 200.0, 0.15, "teleop"),
    Topic("teleop/operator", m.OperatorCommand, None, None, "teleop", every=True),
    Topic("operator", m.OperatorCommand, None, None, "console", every=True),  # a hold must not be overtaken by a resume
    Topic("robot/operator", m.OperatorCommand, None, None, "robot", every=True),  # asked of its process by a service
    Topic("episode", m.EpisodeControl, None, None, "console", every=True),
    Topic("teleop/episode", m.EpisodeControl, None, None, "teleop", every=True),
    Topic("command", m.JointCommand, 200.0, 0.05, "robot"),
    Topic("splice", m.Splice, 20.0, None, "robot"),
    Topic("safety", m.SafetyState, 20.0, 0.2, "robot"),
    *(Topic(f"health/{stage}", m.Health, 2.0, 2.0, stage) for stage in STAGES),
    *(Topic(f"steps/{stage}", m.Steps, None, None, stage) for stage in REPLAYED),
    *(Topic(f"memory/{stage}", m.StageMemory, 1.0, None, stage) for stage in REPLAYED),
    Topic("recording", m.RecordingState, 1.0, 3.0, "recorder", recorded=False),
    Topic("sim/reset", m.SimReset, None, None, "console"),
    Topic("sim/state", m.SimState, 60.0, 0.2, "twin"),
    Topic("sim/truth", m.SimTruth, 20.0, 0.5, "twin"),
)

TOPICS: dict[str, Topic] = {row.name: row for row in _ROWS}


def topic(name: str) -> Topic:
    """The row called ``name``; ConfigError with the valid names otherwise."""
    try:
        return TOPICS[name]
    except KeyError:
        raise ConfigError(f"no topic {name!r}; there are {', '.join(sorted(TOPICS))}") from None
