"""Every type that crosses the wire.

A message that exists is well formed: a wrong dtype, shape, length or (where declared) a value that is not
finite raises :class:`~syvla.errors.MessageError` naming the type and the field. Instants are monotonic
nanoseconds of the robot's host. Two arms are always in the order left, right; a joint vector of both arms is
left joint 1..6 then right joint 1..6.
"""

import enum
from typing import ClassVar, Literal

import msgspec

from syvla.errors import MessageError
from syvla.message import ArraySpec, Float16, Float32, Float64, Int64, Message, UInt8, UInt16

ARM_JOINTS = 6
BOTH_ARMS_JOINTS = 12
PROPRIOCEPTION = 14
FEATURE_QUERIES = 20
MAX_TEXT = 8192
MAX_NAME = 128
ArmName = Literal["left", "right"]
ARMS: tuple[ArmName, ArmName] = ("left", "right")
CameraName = Literal["cam_high", "cam_left_wrist", "cam_right_wrist"]
CAMERAS: tuple[CameraName, ...] = ("cam_high", "cam_left_wrist", "cam_right_wrist")


# ---------------------------------------------------------------- senses


class CameraFrame(Message, frozen=True):
    """One image, stamped at the middle of its exposure. ``depth_mm`` is aligned to the colour image."""

    camera: str
    frame_id: int
    exposure_ns: int
    rgb: UInt8
    depth_mm: UInt16 | None = None

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "rgb": ArraySpec("u1", ((1, 2160), (1, 3840), 3)),
        "depth_mm": ArraySpec("u2", ((1, 2160), (1, 3840))),
    }
    TEXT_LIMITS: ClassVar[dict[str, int]] = {"camera": MAX_NAME}


class CameraFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A camera that is lost (no newer picture comes) or frozen (the same picture comes again and again)."""

    camera: CameraName
    what: Literal["lost", "frozen"]
    for_s: float  # since the last picture that was new


class CamerasState(Message, frozen=True):
    """What is wrong with the cameras that the policy needs, sent when it changes and at 20 Hz."""

    stamp_ns: int
    faults: tuple[CameraFault, ...]


class CompressedFrame(Message, frozen=True):
    """A CameraFrame with its colour image as JPEG, whose size it tells. Depth stays as it was measured."""

    camera: str
    frame_id: int
    exposure_ns: int
    width: int
    height: int
    jpeg: UInt8  # (n,) the file's bytes
    depth_mm: UInt16 | None = None

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "jpeg": ArraySpec("u1", ((1, 2_097_152),)),
        "depth_mm": ArraySpec("u2", ((1, 2160), (1, 3840))),
    }
    TEXT_LIMITS: ClassVar[dict[str, int]] = {"camera": MAX_NAME}

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, value, most in (("width", self.width, 3840), ("height", self.height, 2160)):
            if not 1 <= value <= most:
                raise MessageError(f"CompressedFrame.{field} must be 1..{most}, not {value}")


class ArmState(Message, frozen=True):
    """What one arm measured. ``faults`` are the device's own words, empty when it is well."""

    arm: ArmName
    measured_ns: int
    position_rad: Float64  # (6,)
    velocity_rad_s: Float64  # (6,)
    effort_nm: Float64  # (6,)
    gripper_width_m: float
    enabled: bool
    faults: tuple[str, ...] = ()

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "position_rad": ArraySpec("f8", (ARM_JOINTS,)),
        "velocity_rad_s": ArraySpec("f8", (ARM_JOINTS,)),
        "effort_nm": ArraySpec("f8", (ARM_JOINTS,)),
    }


class Observation(Message, frozen=True):
    """Senses aligned to one instant: what a policy looks at.

    ``proprioception`` (14,) is left joints [rad] + gripper width [m], then the same for the right arm.
    ``source_age_s`` is ``observation_ns`` minus the stamp of each source.
    """

    observation_ns: int
    proprioception: Float64
    frames: tuple[CameraFrame, ...]
    source_age_s: dict[str, float]

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {"proprioception": ArraySpec("f8", (PROPRIOCEPTION,))}


class CompressedObservation(Message, frozen=True):
    """An Observation on its way to another machine: its colour images as JPEG."""

    observation_ns: int
    proprioception: Float64
    frames: tuple[CompressedFrame, ...]
    source_age_s: dict[str, float]

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {"proprioception": ArraySpec("f8", (PROPRIOCEPTION,))}


# ---------------------------------------------------------------- what to do, and thinking about it


class Task(Message, frozen=True):
    """What the operator wants done, in words."""

    task_id: int
    instruction: str
    issued_ns: int

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"instruction": 1024}


class Thought(Message, frozen=True):
    """The chain of thought so far, while it is being generated. ``intent_id`` is the intent it will become."""

    task_id: int
    intent_id: int
    observation_ns: int
    text: str
    complete: bool

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"text": MAX_TEXT}


class Intent(Message, frozen=True):
    """What the slow system wants, made from what it saw at ``observation_ns``.

    ``feature_query_states`` (20, D) are the final hidden states of the feature query tokens.
    """

    intent_id: int
    task_id: int
    observation_ns: int
    chain_of_thought: str
    feature_query_states: Float16
    model_id: str

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "feature_query_states": ArraySpec("f2", (FEATURE_QUERIES, (1, 8192))),
    }
    TEXT_LIMITS: ClassVar[dict[str, int]] = {"chain_of_thought": MAX_TEXT, "model_id": MAX_NAME}


class ActionChunk(Message, frozen=True):
    """H future set-points of both arms; row k is due at ``observation_ns + k * period_ns``.

    NaN is not refused here: the safety gate judges it, because a chunk with a NaN in it must hold the arms
    and say so, not merely vanish.

    An expert whose actions are relative to the hands says in ``anchor_pose`` what they were relative to: position
    [m] and quaternion (w, x, y, z) of each grasp point in its arm's base frame. The rows are joints all the same, so
    that executing them later does not move the anchor.
    """

    chunk_id: int
    task_id: int
    intent_id: int
    intent_observation_ns: int
    observation_ns: int
    period_ns: int
    position_rad: Float32  # (H, 12)
    gripper_width_m: Float32  # (H, 2)
    inference_delay_steps: int  # the expert's own estimate; what was executed is in the Splice
    anchor_pose: Float64 | None = None  # (2, 7) left and right grasp points at observation_ns, of relative actions

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "position_rad": ArraySpec("f4", ((1, 256), BOTH_ARMS_JOINTS), finite=False),
        "gripper_width_m": ArraySpec("f4", ((1, 256), 2), finite=False),
        "anchor_pose": ArraySpec("f8", (2, 7)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.position_rad) != len(self.gripper_width_m):
            raise MessageError(
                f"ActionChunk.gripper_width_m must have as many rows as position_rad "
                f"({len(self.position_rad)}), not {len(self.gripper_width_m)}"
            )
        if not 1_000_000 <= self.period_ns <= 1_000_000_000:
            raise MessageError(f"ActionChunk.period_ns must be 1e6..1e9 (1 ms to 1 s), not {self.period_ns}")


# ---------------------------------------------------------------- people


class TeleopCommand(Message, frozen=True):
    """The joystick or leader arms, sampled. Without the deadman nothing moves. NaN is judged by the gate.

    ``lost`` says that the device is not there: during an override the arms hold.
    """

    sampled_ns: int
    deadman: bool
    joint_velocity_rad_s: Float64  # (12,)
    gripper_velocity_m_s: Float64  # (2,)
    mode_request: Literal["none", "override", "policy", "hold", "lost"] = "none"
    setting: str = ""  # in words, for people: which arms, axes and speed

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "joint_velocity_rad_s": ArraySpec("f8", (BOTH_ARMS_JOINTS,), finite=False),
        "gripper_velocity_m_s": ArraySpec("f8", (2,), finite=False),
    }
    TEXT_LIMITS: ClassVar[dict[str, int]] = {"setting": MAX_NAME}


class OperatorCommand(Message, frozen=True):
    """A deliberate act at the local console or joystick. ``resume`` clears latched holds; it never clears a fault.

    A ``hold`` that nobody asked for, because a process of the run died, says in ``lost`` what happened to it.
    """

    command_id: int
    issued_ns: int
    action: Literal["enable", "hold", "soft_stop", "resume", "clear_fault"]
    lost: str = ""

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"lost": MAX_NAME}


class EpisodeControl(Message, frozen=True):
    """Starts or ends an episode of the recording.

    With an empty name it starts one that is named by the time, or ends whichever is being recorded.
    """

    action: Literal["start", "success", "failure", "discard"]
    name: str
    issued_ns: int

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"name": MAX_NAME}


# ---------------------------------------------------------------- acting


class Source(str, enum.Enum):
    """Who commands."""

    NONE = "none"
    POLICY = "policy"
    TELEOP = "teleop"
    HOLD = "hold"
    UNKNOWN = "unknown"  # a converted recording, whose format does not tell


class Mode(str, enum.Enum):
    """The mode machine of the safety gate."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    OVERRIDE = "override"
    HOLD = "hold"
    SOFT_STOP = "soft_stop"
    FAULT = "fault"


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a joint command came from; -1 where there was none."""

    source: Source
    observation_ns: int = -1
    intent_id: int = -1
    intent_observation_ns: int = -1
    chunk_id: int = -1
    chunk_row: int = -1
    splice_id: int = -1
    override_id: int = -1


class JointCommand(Message, frozen=True):
    """What was sent to both arms, when, and everything that made it so."""

    command_id: int
    commanded_ns: int
    position_rad: Float64  # (12,)
    gripper_width_m: Float64  # (2,)
    provenance: Provenance
    intent_age_s: float  # -1 where no intent is behind the command
    limited_joints: int  # bit j set: joint j was clamped by the gate (0..11 joints, 12..13 grippers)

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "position_rad": ArraySpec("f8", (BOTH_ARMS_JOINTS,)),
        "gripper_width_m": ArraySpec("f8", (2,)),
    }


class Splice(Message, frozen=True):
    """A chunk took over the timeline. The inference delay is counted from what was executed."""

    splice_id: int
    chunk_id: int
    intent_id: int
    replaced_chunk_id: int  # -1: there was none
    observation_ns: int
    spliced_ns: int
    inference_delay_steps: int  # whole rows that were already past when the chunk arrived
    jump_rad: float  # largest difference of old and new set-point at the splice, before blending


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the arms hold: a stable code, what was measured, and what the operator does next."""

    code: str
    detail: str
    next_step: str


class SafetyState(Message, frozen=True):
    """The state of the safety gate, sent when it changes and at 20 Hz."""

    stamp_ns: int
    mode: Mode
    source: Source
    reasons: tuple[Reason, ...]
    limited_joints: int
    clamped_count: int
    refused_count: int
    arm_distance_m: float


# ---------------------------------------------------------------- watching


class Health(Message, frozen=True):
    """How one process is doing, twice a second. Durations and lateness since the last one, in seconds."""

    process: str
    stamp_ns: int
    pid: int
    realtime: str  # "SCHED_FIFO 50, memory locked" or why not
    steps: int
    step_p50_s: float
    step_p99_s: float
    step_max_s: float
    lateness_p50_s: float
    lateness_p99_s: float
    lateness_max_s: float
    received: int
    refused: int
    dropped: int
    last_refusal: str
    missed_ticks: int = 0  # since the process started
    lateness_s: Float32 | None = None  # every single lateness behind the quantiles, so that a run's own can be exact

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {"lateness_s": ArraySpec("f4", ((0, 4096),))}
    TEXT_LIMITS: ClassVar[dict[str, int]] = {"realtime": 512, "last_refusal": 512}


class RecordingState(Message, frozen=True):
    """What the recorder is doing, sent when it changes and once a second. ``error`` stays until the next episode."""

    stamp_ns: int
    episode: str  # the name it was started under, "" while nothing is recorded
    path: str  # the file being written, or the last one closed
    messages: int
    written_bytes: int
    outcome: str  # of the last closed file: "", success, failure, discarded, interrupted or write_error
    error: str

    TEXT_LIMITS: ClassVar[dict[str, int]] = {
        "episode": MAX_NAME,
        "path": 4096,
        "outcome": MAX_NAME,
        "error": 1024,
    }


# ---------------------------------------------------------------- being run again


class Steps(Message, frozen=True):
    """What went into some steps of a stage and what came out, sent a few times a second, so that they can be repeated.

    ``steps`` (N, 4): of each step the instant it was given, how many messages were new to it, how many it sent, and 1
    once the stage has been asked to stop.
    ``messages`` (M, 3): of each step those it was given and then those it sent, by their index in ``topics``, epoch
    and sequence. What it sent has the epoch of this message, and -1 here.
    """

    first_step: int  # its number, from 0 since the process started
    topics: tuple[str, ...]
    steps: Int64
    messages: Int64

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "steps": ArraySpec("i8", ((1, 8192), 4)),
        "messages": ArraySpec("i8", ((0, 65536), 3)),
    }


class StageMemory(Message, frozen=True):
    """All that a stage remembers between two steps, once a second, so that it can be run again from there.

    ``latest`` (K, 3) are the newest messages that it has read, as in ``Steps``; ``data`` (n,) is msgpack.
    """

    next_step: int  # the number of the step that comes after it
    stamp_ns: int  # the instant given to the step before it
    topics: tuple[str, ...]
    latest: Int64
    data: UInt8

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "latest": ArraySpec("i8", ((0, 64), 3)),
        "data": ArraySpec("u1", ((1, 2_097_152),)),
    }


class PlaybackControl(Message, frozen=True):
    """How recorded actions are played to the robot: at which share of their speed, or not at all for now."""

    control_id: int
    issued_ns: int
    speed: float
    paused: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.speed <= 1.0:
            raise MessageError(f"PlaybackControl.speed must be 0.1..1, not {self.speed}")


class PlaybackState(Message, frozen=True):
    """Where the playing of recorded actions stands."""

    stamp_ns: int
    phase: Literal["stopped", "refused", "approach", "play", "paused", "done", "ended"]
    played_s: float
    duration_s: float
    speed: float
    refusal: str  # why they are not approached

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"refusal": 512}


# ---------------------------------------------------------------- the twin only


class SimReset(Message, frozen=True):
    """Lays the twin's table for one episode."""

    reset_id: int
    task: str
    split: str
    seed: int

    TEXT_LIMITS: ClassVar[dict[str, int]] = {"task": MAX_NAME, "split": MAX_NAME}


class SimState(Message, frozen=True):
    """The generalised positions of the twin, for rendering it elsewhere."""

    stamp_ns: int
    task: str
    split: str
    seed: int
    reset_id: int
    qpos: Float64

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {"qpos": ArraySpec("f8", ((1, 4096),))}


class SimTruth(Message, frozen=True):
    """What only a simulator knows. Read by the reference policy and by evaluation, never by a learned one."""

    stamp_ns: int
    reset_id: int
    task: str
    instruction: str
    progress: float
    success: bool
    names: tuple[str, ...]
    pose: Float64  # (N, 7) position [m] and quaternion (w, x, y, z) in the world frame
    held_by: tuple[str, ...]  # for each name: "", "left" or "right"
    inside: tuple[str, ...]  # for each name: the container it lies in, or ""
    hands_m: Float64  # (2, 3) grasp points of the left and the right hand in the world frame

    ARRAYS: ClassVar[dict[str, ArraySpec]] = {
        "pose": ArraySpec("f8", ((0, 64), 7)),
        "hands_m": ArraySpec("f8", (2, 3)),
    }
