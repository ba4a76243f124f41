"""The runtime's messages as standard ROS messages and back: pure functions.

What a standard message has no field for (ids, provenance, whether an arm has torque) rides in ``header.frame_id`` as
``key=value&key=value``, so that nothing is lost between our own nodes and a foreign tool still reads the rest. A
message of a foreign node has none of it; what then is assumed is said at each function. Whatever comes in is hostile
until checked: :class:`~syvla.errors.MessageError` names the field.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec
import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from syvla.clock import NS_PER_S
from syvla.errors import MessageError, RecordingError
from syvla.message import Array, Float64
from syvla.messages import (
    ARM_JOINTS,
    ARMS,
    PROPRIOCEPTION,
    ActionChunk,
    ArmName,
    ArmState,
    CameraFrame,
    CompressedFrame,
    JointCommand,
    Mode,
    SafetyState,
    Task,
    Thought,
)
from syvla.profiles import TopicProfile
from syvla.protocols import GamepadState
from syvla.recording.images import compress, decompress
from syvla.standard_messages import joints_of, jpeg_of, pixels, rgb_of
from syvla_ros.clock import RosClock

MAX_TAGS = 1024  # characters of a frame_id that are looked at
MAX_ROWS = 256
# The order of an action: left joints, left gripper, right joints, right gripper.
TRAJECTORY_JOINTS = tuple(
    f"{arm}_{joint}" for arm in ARMS for joint in (*(f"joint{i + 1}" for i in range(6)), "gripper")
)
_JOINT_COLUMNS = (*range(ARM_JOINTS), *range(ARM_JOINTS + 1, PROPRIOCEPTION - 1))
_GRIPPER_COLUMNS = (ARM_JOINTS, PROPRIOCEPTION - 1)


# ---------------------------------------------------------------- what rides in a header


def _tagged(stamp_ns: int, clock: RosClock, tags: Mapping[str, object]) -> Header:
    return Header(stamp=clock.to_ros(stamp_ns), frame_id=urlencode(tags))


def sign(header: Header, epoch: int, sequence: int) -> None:
    """Say in a header which process sent it, and its how-manieth: Humble and Jazzy do not tell publishers apart."""
    header.frame_id += f"&epoch={epoch}&sequence={sequence}"


def signature(header: Header) -> tuple[int, int]:
    """The epoch and sequence that a header was signed with; 0 and 0 where a foreign node sent it."""
    tags = _Tags.of("Header", header.frame_id)
    epoch, sequence = tags.number("epoch", otherwise=0), tags.number("sequence", otherwise=0)
    if epoch < 0 or sequence < 0:
        raise MessageError(f"Header.frame_id: epoch and sequence must not be negative, not {epoch} and {sequence}")
    return epoch, sequence


class _Tags(NamedTuple):
    """What rode in a frame_id; nothing of it where a foreign node made the message."""

    kind: str
    values: Mapping[str, str]

    @classmethod
    def of(cls, kind: str, frame_id: str) -> "_Tags":
        if "=" not in frame_id or len(frame_id) > MAX_TAGS:
            return cls(kind, {})
        return cls(kind, dict(parse_qsl(frame_id, keep_blank_values=True)))

    def number(self, key: str, otherwise: int | None = None) -> int:
        """The integer called ``key``; MessageError if it is no integer, or missing without an ``otherwise``."""
        text = self.values.get(key)
        if text is None and otherwise is not None:
            return otherwise
        try:
            value = int(text or "")
        except ValueError:
            raise MessageError(f"{self.kind}.header.frame_id: {key} must be an integer, not {text!r}") from None
        if not -(2**63) <= value < 2**63:
            raise MessageError(f"{self.kind}.header.frame_id: {key} must be an integer of 64 bits, not {text}")
        return value


# ---------------------------------------------------------------- cameras


def image_of(frame: CameraFrame, clock: RosClock) -> Image:
    """A frame's colour image, raw."""
    height, width = frame.rgb.shape[:2]
    message = Image(header=_frame_header(frame, clock), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(frame.rgb.tobytes())
    return message


def depth_image_of(frame: CameraFrame, clock: RosClock) -> Image | None:
    """A frame's depth in millimetres, aligned to its colour image; None if it has none."""
    if frame.depth_mm is None:
        return None
    height, width = frame.depth_mm.shape
    message = Image(header=_frame_header(frame, clock), height=height, width=width, encoding="16UC1", step=2 * width)
    message.data.frombytes(frame.depth_mm.astype("<u2").tobytes())
    return message


def compressed_image_of(frame: CameraFrame, quality: int, clock: RosClock) -> CompressedImage:
    """A frame's colour image as JPEG of ``quality`` 1..95, as the recorder writes it."""
    return jpeg_image_of(compress(frame, quality), clock)


def jpeg_image_of(frame: CompressedFrame, clock: RosClock) -> CompressedImage:
    """The colour image of a frame that is a JPEG already."""
    message = CompressedImage(header=_frame_header(frame, clock), format="rgb8; jpeg compressed rgb8")
    message.data.frombytes(frame.jpeg.tobytes())
    return message


def frame_of_image(message: Image, camera: str, clock: RosClock) -> CameraFrame:
    """The frame of a raw colour image, rgb8 or bgr8."""
    rgb = rgb_of(message)
    number, exposure_ns = _frame_id(message.header, clock)
    return CameraFrame(camera=camera, frame_id=number, exposure_ns=exposure_ns, rgb=rgb)


def depth_of_image(message: Image) -> Array:
    """Depth (H, W) uint16 mm of a 16UC1 or mono16 image."""
    return pixels(message, {"16UC1": 1, "mono16": 1}, np.dtype(">u2" if message.is_bigendian else "<u2"))[..., 0]


def frame_of_compressed(message: CompressedImage, camera: str, clock: RosClock) -> CameraFrame:
    """The frame of a JPEG, decoded as a recording's is."""
    jpeg, height, width = jpeg_of(message)
    number, exposure_ns = _frame_id(message.header, clock)
    try:
        return decompress(
            CompressedFrame(
                camera=camera, frame_id=number, exposure_ns=exposure_ns, width=width, height=height, jpeg=jpeg
            )
        )
    except RecordingError as error:
        raise MessageError(f"CompressedImage.data: {error}") from error


def camera_info_of(frame: CameraFrame, intrinsics: Sequence[float], clock: RosClock) -> CameraInfo:
    """The pinhole camera behind a frame: ``intrinsics`` are fx, fy, cx, cy in pixels; no distortion."""
    fx, fy, cx, cy = intrinsics
    height, width = frame.rgb.shape[:2]
    return CameraInfo(
        header=_frame_header(frame, clock),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def _frame_header(frame: CameraFrame | CompressedFrame, clock: RosClock) -> Header:
    return _tagged(frame.exposure_ns, clock, {"camera": frame.camera, "frame_id": frame.frame_id})


def _frame_id(header: Header, clock: RosClock) -> tuple[int, int]:
    """Number and exposure [ns] of a frame; a foreign camera's frames are numbered by their stamps."""
    exposure_ns = clock.to_monotonic_ns(header.stamp)
    return _Tags.of("Image", header.frame_id).number("frame_id", otherwise=exposure_ns), exposure_ns


# ---------------------------------------------------------------- arms


def joint_state_of(state: ArmState, names: TopicProfile, clock: RosClock) -> JointState:
    """What an arm measured; its gripper is the last joint, in the profile's unit."""
    return JointState(
        header=_tagged(
            state.measured_ns,
            clock,
            {"arm": state.arm, "enabled": int(state.enabled), "faults": "|".join(state.faults)},
        ),
        name=list(names.joints),
        position=[*state.position_rad.tolist(), state.gripper_width_m / names.gripper_unit_m],
        velocity=[*state.velocity_rad_s.tolist(), 0.0],
        effort=[*state.effort_nm.tolist(), 0.0],
    )


def arm_state_of(message: JointState, arm: ArmName, names: TopicProfile, clock: RosClock) -> ArmState:
    """What an arm measured, joints in any order.

    Of a foreign driver that says nothing of it, torque is assumed on, and velocities and efforts 0.
    """
    joints = joints_of(message, names)
    tags = _Tags.of("JointState", message.header.frame_id)
    if tags.values.get("arm", arm) != arm:
        raise MessageError(f"JointState.header.frame_id: this is the {tags.values['arm'][:32]} arm, not the {arm} one")
    return ArmState(
        arm=arm,
        measured_ns=clock.to_monotonic_ns(message.header.stamp),
        position_rad=joints.position_rad,
        velocity_rad_s=joints.velocity_rad_s,
        effort_nm=joints.effort_nm,
        gripper_width_m=joints.gripper_width_m,
        enabled=bool(tags.number("enabled", otherwise=1)),
        faults=tuple(filter(None, tags.values.get("faults", "").split("|"))),
    )


def joint_command_of(command: JointCommand, arm: ArmName, names: TopicProfile, clock: RosClock) -> JointState:
    """What was sent to one arm, with the command's whole provenance."""
    i = ARMS.index(arm)
    tags = {**msgspec.to_builtins(command.provenance), "command": command.command_id}
    joints = command.position_rad[ARM_JOINTS * i : ARM_JOINTS * (i + 1)].tolist()
    return JointState(
        header=_tagged(command.commanded_ns, clock, tags),
        name=list(names.joints),
        position=[*joints, float(command.gripper_width_m[i]) / names.gripper_unit_m],
    )


def set_point_message(position_rad: Float64, gripper_width_m: float, names: TopicProfile, stamp: Time) -> JointState:
    """A set-point for a foreign driver of one arm: joints (6,) rad and metres between the fingers."""
    position = [*position_rad.tolist(), gripper_width_m / names.gripper_unit_m]
    return JointState(header=Header(stamp=stamp), name=list(names.joints), position=position)


# ---------------------------------------------------------------- chunks


def trajectory_of(chunk: ActionChunk, clock: RosClock) -> JointTrajectory:
    """A chunk: its stamp is the observation time, row k comes ``k * period_ns`` after it. NaN stays NaN."""
    tags: dict[str, object] = {
        "chunk": chunk.chunk_id,
        "task": chunk.task_id,
        "intent": chunk.intent_id,
        "intent_ns": chunk.intent_observation_ns + clock.offset_ns,
        "period_ns": chunk.period_ns,
        "delay": chunk.inference_delay_steps,
    }
    if chunk.anchor_pose is not None:
        tags["anchor"] = " ".join(map(repr, chunk.anchor_pose.ravel().tolist()))
    rows = np.empty((len(chunk.position_rad), PROPRIOCEPTION))
    rows[:, _JOINT_COLUMNS] = chunk.position_rad
    rows[:, _GRIPPER_COLUMNS] = chunk.gripper_width_m
    points = []
    for k, row in enumerate(rows.tolist()):
        seconds, nanoseconds = divmod(k * chunk.period_ns, NS_PER_S)
        points.append(JointTrajectoryPoint(positions=row, time_from_start=Duration(sec=seconds, nanosec=nanoseconds)))
    header = _tagged(chunk.observation_ns, clock, tags)
    return JointTrajectory(header=header, joint_names=list(TRAJECTORY_JOINTS), points=points)


def chunk_of(message: JointTrajectory, clock: RosClock) -> ActionChunk:
    """The chunk of one of our trajectories. Without its ids nobody could say who commanded: it is refused."""
    if tuple(message.joint_names) != TRAJECTORY_JOINTS:
        raise MessageError(f"JointTrajectory.joint_names must be {', '.join(TRAJECTORY_JOINTS)}")
    if not 1 <= len(message.points) <= MAX_ROWS:
        raise MessageError(f"JointTrajectory.points must be 1..{MAX_ROWS}, not {len(message.points)}")
    tags = _Tags.of("JointTrajectory", message.header.frame_id)
    period_ns = tags.number("period_ns")
    for k, point in enumerate(message.points):
        if len(point.positions) != PROPRIOCEPTION:
            raise MessageError(
                f"JointTrajectory.points[{k}].positions must be {PROPRIOCEPTION}, not {len(point.positions)}"
            )
        due = point.time_from_start
        if due.sec * NS_PER_S + due.nanosec != k * period_ns:
            raise MessageError(f"JointTrajectory.points[{k}].time_from_start must be {k} x {period_ns} ns")
    rows = np.array([point.positions for point in message.points], np.float32)
    return ActionChunk(
        chunk_id=tags.number("chunk"),
        task_id=tags.number("task"),
        intent_id=tags.number("intent"),
        intent_observation_ns=tags.number("intent_ns") - clock.offset_ns,
        observation_ns=clock.to_monotonic_ns(message.header.stamp),
        period_ns=period_ns,
        position_rad=np.ascontiguousarray(rows[:, _JOINT_COLUMNS]),
        gripper_width_m=np.ascontiguousarray(rows[:, _GRIPPER_COLUMNS]),
        inference_delay_steps=tags.number("delay"),
        anchor_pose=_anchor(tags),
    )


def _anchor(tags: _Tags) -> Float64 | None:
    text = tags.values.get("anchor")
    if text is None:
        return None
    try:
        return np.array([float(word) for word in text.split(" ")]).reshape(2, 7)
    except ValueError:
        raise MessageError("JointTrajectory.header.frame_id: anchor must be 14 numbers") from None


# ---------------------------------------------------------------- a person


def gamepad_of(message: Joy, clock: RosClock) -> GamepadState | None:
    """The game controller of a ``game_controller_node``; None of empty arrays, which is how it says "unplugged".

    ROS counts all axes the other way round than SDL, the triggers too: pulled, they are at -1.
    """
    if len(message.axes) == 0 and len(message.buttons) == 0:
        return None
    return GamepadState(
        clock.to_monotonic_ns(message.header.stamp),
        [-value + 0.0 for value in message.axes],  # no minus zero
        [bool(button) for button in message.buttons],
    )


# ---------------------------------------------------------------- words


def task_of(message: String, now_ns: int) -> Task:
    """The task of an instruction. The same words are the same task, whichever node reads them and when."""
    instruction = message.data.strip()
    return Task(task_id=zlib.crc32(instruction.encode()), instruction=instruction, issued_ns=now_ns)


def string_of_task(task: Task) -> String:
    """A task's instruction."""
    return String(data=task.instruction)


def string_of_thought(thought: Thought) -> String:
    """The chain of thought so far."""
    return String(data=thought.text)


_LEVELS = {
    Mode.DISABLED: DiagnosticStatus.WARN,
    Mode.ENABLED: DiagnosticStatus.OK,
    Mode.OVERRIDE: DiagnosticStatus.OK,
    Mode.HOLD: DiagnosticStatus.WARN,
    Mode.SOFT_STOP: DiagnosticStatus.WARN,
    Mode.FAULT: DiagnosticStatus.ERROR,
}


def diagnostics_of(state: SafetyState, clock: RosClock) -> DiagnosticArray:
    """The safety gate's state: one status, its reasons as values, and what the operator does next."""
    first = state.reasons[0] if state.reasons else None
    moving = state.mode in (Mode.ENABLED, Mode.OVERRIDE)
    level = DiagnosticStatus.WARN if moving and first is not None else _LEVELS[state.mode]
    message = state.mode.value if first is None else f"{state.mode.value}: {first.detail}. {first.next_step}"
    values = {
        "mode": state.mode.value,
        "source": state.source.value,
        **{reason.code: f"{reason.detail}. {reason.next_step}" for reason in state.reasons},
        "clamped": str(state.clamped_count),
        "refused": str(state.refused_count),
        "arm_distance_m": f"{state.arm_distance_m:.3f}",
    }
    status = DiagnosticStatus(
        level=level,
        name="syvla: safety",
        message=message,
        hardware_id="cobot_magic",
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=clock.to_ros(state.stamp_ns)), status=[status])
