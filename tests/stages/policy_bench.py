"""An inbox that is filled by hand, and what the stages of a policy find in it."""

import numpy as np

from syvla.message import Message
from syvla.messages import (
    ArmName,
    ArmState,
    CameraFrame,
    Intent,
    SimTruth,
    Task,
)
from syvla.protocols import Header, Inbox, Received

MS = 1_000_000


def arm(name: ArmName, measured_ns: int, position: float = 0.1, velocity: float = 0.0) -> ArmState:
    return ArmState(
        arm=name,
        measured_ns=measured_ns,
        position_rad=np.full(6, position),
        velocity_rad_s=np.full(6, velocity),
        effort_nm=np.zeros(6),
        gripper_width_m=0.02,
        enabled=True,
    )


def frame(camera: str, exposure_ns: int) -> CameraFrame:
    return CameraFrame(camera=camera, frame_id=1, exposure_ns=exposure_ns, rgb=np.zeros((4, 4, 3), np.uint8))


def task(task_id: int = 1) -> Task:
    return Task(task_id=task_id, instruction="tidy up", issued_ns=0)


def intent(intent_id: int, observation_ns: int, task_id: int = 1) -> Intent:
    return Intent(
        intent_id=intent_id,
        task_id=task_id,
        observation_ns=observation_ns,
        chain_of_thought="so",
        feature_query_states=np.zeros((20, 4), np.float16),
        model_id="echo",
    )


def truth(stamp_ns: int) -> SimTruth:
    return SimTruth(
        stamp_ns=stamp_ns,
        reset_id=1,
        task="t",
        instruction="tidy up",
        progress=0.0,
        success=False,
        names=(),
        pose=np.zeros((0, 7)),
        held_by=(),
        inside=(),
        hands_m=np.zeros((2, 3)),
    )


class Topics:
    """An inbox that is filled by hand."""

    def __init__(self) -> None:
        self.latest: dict[str, Received] = {}
        self._fresh: dict[str, Received] = {}

    def put(self, topic: str, message: Message, epoch: int = 0) -> "Topics":
        """Deliver a message."""
        received = Received(Header(topic, epoch, 0, 0, 0), message, 0, lambda: ())
        self.latest[topic] = self._fresh[topic] = received
        return self

    def arms(self, now_ns: int) -> "Topics":
        """Deliver feedback of both arms."""
        return self.put("arm/left", arm("left", now_ns)).put("arm/right", arm("right", now_ns))

    def take(self) -> Inbox:
        """What a step gets."""
        fresh, self._fresh = list(self._fresh.values()), {}
        return Inbox(self.latest, fresh)
