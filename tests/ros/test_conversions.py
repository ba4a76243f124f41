"""The runtime's messages as standard ROS messages and back."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as Picture
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from syvla.errors import ConfigError, MessageError
from syvla.message import Message
from syvla.messages import (
    ActionChunk,
    ArmState,
    CameraFrame,
    JointCommand,
    Mode,
    Provenance,
    Reason,
    SafetyState,
    Source,
    Task,
    Thought,
)
from syvla.profiles import PROFILES, profile
from syvla.recording.images import compress, decompress
from syvla_ros import conversions as c
from syvla_ros.clock import RosClock

CLOCK = RosClock(1_795_976_519_959_596_869)
INSTANTS = st.integers(0, 2**61)
NAMES = sorted(PROFILES)


def over_the_wire(message: Any) -> Any:
    """What a subscriber gets of it."""
    return deserialize_message(serialize_message(message), type(message))


def same(one: Message, other: Message) -> bool:
    """Whether two messages say the same, NaN and all."""
    return type(one) is type(other) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.dtype == b.dtype
        if isinstance(a := getattr(one, field), np.ndarray) and isinstance(b := getattr(other, field), np.ndarray)
        else a == getattr(other, field)
        for field in one.__struct_fields__
    )


# ---------------------------------------------------------------- time


@given(INSTANTS)
def test_an_instant_comes_back_exactly(instant_ns: int) -> None:
    if (instant_ns + CLOCK.offset_ns) // 10**9 > 2**31 - 1:
        with pytest.raises(MessageError, match="beyond"):
            CLOCK.to_ros(instant_ns)
    else:
        assert CLOCK.to_monotonic_ns(CLOCK.to_ros(instant_ns)) == instant_ns


def test_a_clock_that_is_set_changes_no_stamp() -> None:
    """The offset is the run's, not the moment's: two nodes with the same run agree whatever the wall clock does."""
    stamp = RosClock(CLOCK.offset_ns).to_ros(5)
    assert RosClock(CLOCK.offset_ns).to_monotonic_ns(stamp) == 5


# ---------------------------------------------------------------- arms


def arm_state(**changes: Any) -> ArmState:
    fields: dict[str, Any] = {
        "arm": "left",
        "measured_ns": 123_456_789,
        "position_rad": np.arange(6) / 10,
        "velocity_rad_s": -np.arange(6) / 7,
        "effort_nm": np.arange(6) / 3,
        "gripper_width_m": 0.0625,
        "enabled": True,
    }
    return ArmState(**{**fields, **changes})


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """ROS loads how a type travels with its first message, which takes longer than an example may."""
    over_the_wire(c.joint_state_of(arm_state(), profile(NAMES[0]), CLOCK))


@pytest.mark.parametrize("name", NAMES)
@given(
    position=hnp.arrays("f8", 6, elements=st.floats(-10, 10)),
    faults=st.lists(st.text(st.characters(exclude_characters="|", codec="utf-8"), min_size=1, max_size=20), max_size=3),
    enabled=st.booleans(),
)
def test_an_arm_state_comes_back(name: str, position: Any, faults: list[str], enabled: bool) -> None:
    state = arm_state(position_rad=position, faults=tuple(faults), enabled=enabled)
    message = over_the_wire(c.joint_state_of(state, profile(name), CLOCK))
    assert tuple(message.name) == profile(name).joints
    assert same(c.arm_state_of(message, "left", profile(name), CLOCK), state)


def test_a_gripper_is_told_in_the_profiles_unit() -> None:
    names = profile("piper_ros2")._replace(gripper_unit_m=0.001)
    message = c.joint_state_of(arm_state(), names, CLOCK)
    assert message.position[6] == pytest.approx(62.5)
    assert c.arm_state_of(message, "left", names, CLOCK).gripper_width_m == pytest.approx(0.0625)


def test_a_foreign_driver_may_order_its_joints_as_it_likes_and_say_nothing_of_torque() -> None:
    names = profile("piper_ros2")
    message = JointState(name=list(reversed(names.joints)), position=[0.07, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    message.header.stamp = CLOCK.to_ros(77)
    message.header.frame_id = "piper_single"
    state = c.arm_state_of(message, "right", names, CLOCK)
    assert state.position_rad.tolist() == [1, 2, 3, 4, 5, 6]
    assert (state.gripper_width_m, state.measured_ns, state.enabled) == (0.07, 77, True)
    assert not state.velocity_rad_s.any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ["joint1"] * 7}, "named twice"),
        ({"name": ["joint1"]}, "joint2 is missing"),
        ({"position": [0.0] * 6}, "one value for each of the 7 names, not 6"),
        ({"velocity": [0.0] * 3}, "JointState.velocity"),
        ({"position": [float("nan")] * 7}, "must be finite"),
        ({"position": [0.0] * 6 + [float("inf")]}, "must be finite"),
    ],
)
def test_a_joint_state_that_is_none_is_refused(change: dict[str, Any], said: str) -> None:
    message = c.joint_state_of(arm_state(), profile("piper_ros2"), CLOCK)
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(MessageError, match=said):
        c.arm_state_of(message, "left", profile("piper_ros2"), CLOCK)


def test_the_other_arms_state_is_refused() -> None:
    message = c.joint_state_of(arm_state(), profile("syvla"), CLOCK)
    with pytest.raises(MessageError, match="this is the left arm"):
        c.arm_state_of(message, "right", profile("syvla"), CLOCK)


def test_a_command_carries_its_whole_provenance() -> None:
    provenance = Provenance(source=Source.POLICY, observation_ns=1, intent_id=2, chunk_id=3, chunk_row=4, splice_id=5)
    command = JointCommand(
        command_id=9,
        commanded_ns=1000,
        position_rad=np.arange(12) / 10,
        gripper_width_m=np.array([0.01, 0.02]),
        provenance=provenance,
        intent_age_s=0.3,
        limited_joints=0,
    )
    right = over_the_wire(c.joint_command_of(command, "right", profile("syvla"), CLOCK))
    assert list(right.position) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 0.02])
    for tag in ("source=policy", "intent_id=2", "chunk_id=3", "chunk_row=4", "splice_id=5", "command=9"):
        assert tag in right.header.frame_id.split("&")
    assert CLOCK.to_monotonic_ns(right.header.stamp) == 1000


# ---------------------------------------------------------------- chunks


def action_chunk(**changes: Any) -> ActionChunk:
    fields: dict[str, Any] = {
        "chunk_id": 7,
        "task_id": 2**31,
        "intent_id": 5,
        "intent_observation_ns": 11,
        "observation_ns": 22,
        "period_ns": 33_333_333,
        "position_rad": np.arange(600, dtype="f4").reshape(50, 12),
        "gripper_width_m": np.arange(100, dtype="f4").reshape(50, 2) / 1000,
        "inference_delay_steps": 3,
    }
    return ActionChunk(**{**fields, **changes})


@given(
    rows=st.integers(1, 64),
    period_ns=st.integers(1_000_000, 1_000_000_000),
    observation_ns=INSTANTS.filter(lambda n: n < 10**17),
    anchored=st.booleans(),
    data=st.data(),
)
def test_a_chunk_comes_back_bit_by_bit(
    rows: int, period_ns: int, observation_ns: int, anchored: bool, data: st.DataObject
) -> None:
    values = hnp.arrays("f4", (rows, 14), elements=st.floats(width=32))
    drawn = data.draw(values)
    chunk = action_chunk(
        period_ns=period_ns,
        observation_ns=observation_ns,
        intent_observation_ns=observation_ns // 2,
        position_rad=np.ascontiguousarray(drawn[:, :12]),
        gripper_width_m=np.ascontiguousarray(drawn[:, 12:]),
        anchor_pose=np.random.default_rng(rows).normal(size=(2, 7)) if anchored else None,
    )
    message = over_the_wire(c.trajectory_of(chunk, CLOCK))
    assert CLOCK.to_monotonic_ns(message.header.stamp) == observation_ns
    assert same(c.chunk_of(message, CLOCK), chunk)


def test_the_order_of_a_trajectorys_joints_is_that_of_actions() -> None:
    message = c.trajectory_of(action_chunk(), CLOCK)
    assert message.joint_names[6] == "left_gripper"
    assert message.joint_names[7] == "right_joint1"
    assert message.points[0].positions[7] == 6.0  # the right arm's first joint


def test_a_chunk_with_a_nan_is_for_the_gate_to_judge() -> None:
    """It must hold the arms and say so, not vanish on the way."""
    rows = np.zeros((50, 12), "f4")
    rows[3, 4] = np.nan
    back = c.chunk_of(over_the_wire(c.trajectory_of(action_chunk(position_rad=rows), CLOCK)), CLOCK)
    assert np.isnan(back.position_rad[3, 4])


def _spoil(message: JointTrajectory, what: str) -> None:
    if what == "names":
        message.joint_names = list(reversed(message.joint_names))
    elif what == "none":
        message.points = []
    elif what == "many":
        message.points = [message.points[0]] * 257
    elif what == "short":
        message.points[4].positions = [0.0] * 13
    elif what == "time":
        message.points[4].time_from_start.nanosec += 1
    elif what == "ids":
        message.header.frame_id = "base"
    elif what == "id":
        message.header.frame_id = message.header.frame_id.replace("chunk=7", "chunk=x")
    elif what == "anchor":
        message.header.frame_id += "&anchor=1 2 3"
    elif what == "long":
        message.header.frame_id = "a=" + "1" * 5000


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("names", "joint_names must be left_joint1"),
        ("none", "must be 1..256, not 0"),
        ("many", "must be 1..256, not 257"),
        ("short", r"points\[4\].positions must be 14, not 13"),
        ("time", r"points\[4\].time_from_start must be 4 x 33333333 ns"),
        ("ids", "period_ns must be an integer, not None"),
        ("id", "chunk must be an integer, not 'x'"),
        ("anchor", "anchor must be 14 numbers"),
        ("long", "must be an integer"),
    ],
)
def test_a_trajectory_that_is_no_chunk_of_ours_is_refused(what: str, said: str) -> None:
    message = c.trajectory_of(action_chunk(), CLOCK)
    _spoil(message, what)
    with pytest.raises(MessageError, match=said):
        c.chunk_of(message, CLOCK)


# ---------------------------------------------------------------- cameras


def camera_frame(height: int = 24, width: int = 32, depth: bool = False) -> CameraFrame:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return CameraFrame(
        camera="cam_high",
        frame_id=4,
        exposure_ns=99,
        rgb=np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1)),
        depth_mm=rng.integers(0, 4000, (height, width), dtype=np.uint16) if depth else None,
    )


def test_a_raw_image_comes_back() -> None:
    frame = camera_frame()
    assert same(c.frame_of_image(over_the_wire(c.image_of(frame, CLOCK)), "cam_high", CLOCK), frame)


def test_depth_comes_back_in_millimetres() -> None:
    frame = camera_frame(depth=True)
    message = over_the_wire(c.depth_image_of(frame, CLOCK))
    assert message.encoding == "16UC1"
    assert np.array_equal(c.depth_of_image(message), frame.depth_mm)  # type: ignore[arg-type]
    assert c.depth_image_of(camera_frame(), CLOCK) is None


def test_a_foreign_cameras_padded_bgr_image_is_read() -> None:
    frame = camera_frame()
    padded = np.zeros((24, 100), np.uint8)
    padded[:, :96] = frame.rgb[..., ::-1].reshape(24, 96)
    message = Image(height=24, width=32, encoding="bgr8", step=100)
    message.data.frombytes(padded.tobytes())
    message.header.stamp = CLOCK.to_ros(99)
    message.header.frame_id = "camera_f_color_optical_frame"
    read = c.frame_of_image(message, "cam_high", CLOCK)
    assert np.array_equal(read.rgb, frame.rgb)
    assert (read.exposure_ns, read.frame_id) == (99, 99)


def test_a_big_endian_depth_image_is_read() -> None:
    depth = (np.arange(12) * 300).astype(">u2").reshape(3, 4)
    message = Image(height=3, width=4, encoding="mono16", step=8, is_bigendian=1)
    message.data.frombytes(depth.tobytes())
    assert np.array_equal(c.depth_of_image(message), depth)


def test_a_compressed_image_has_the_pixels_of_a_recording() -> None:
    """What a policy sees over ROS is what it saw in training."""
    frame = camera_frame()
    message = over_the_wire(c.compressed_image_of(frame, 90, CLOCK))
    recorded = decompress(compress(frame, 90))
    assert same(c.frame_of_compressed(message, "cam_high", CLOCK), recorded)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoding": "yuv422"}, "encoding must be rgb8 or bgr8"),
        ({"height": 0}, "up to 3840x2160"),
        ({"width": 100_000}, "up to 3840x2160"),
        ({"step": 95}, "step at least 96"),
        ({"height": 25}, "height x step bytes"),
    ],
)
def test_an_image_that_is_none_is_refused(change: dict[str, Any], said: str) -> None:
    message = c.image_of(camera_frame(), CLOCK)
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(MessageError, match=said):
        c.frame_of_image(message, "cam_high", CLOCK)


def _png() -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(camera_frame().rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "data", "said"),
    [
        ("png", _png(), "format must be jpeg"),
        ("jpeg", _png(), "must be a JPEG"),
        ("jpeg", b"", "must be 1"),
        ("jpeg", b"\xff\xd8\xff\xe0\x00\x00", "must be a JPEG"),
        ("jpeg", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", "must be a JPEG of up to"),
        ("jpeg", compress(camera_frame(), 90).jpeg.tobytes()[:-200], "data"),
        ("jpeg", b"\xff" * 3_000_000, "must be 1..2097152"),
    ],
)
def test_a_compressed_image_that_is_none_is_refused(format: str, data: bytes, said: str) -> None:  # noqa: A002
    message = CompressedImage(format=format)
    message.data.frombytes(data)
    with pytest.raises(MessageError, match=said):
        c.frame_of_compressed(message, "cam_high", CLOCK)


# ---------------------------------------------------------------- words


def test_the_same_words_are_the_same_task_for_every_node() -> None:
    one, other = c.task_of(String(data=" put it there \n"), 1), c.task_of(String(data="put it there"), 2)
    assert one.task_id == other.task_id
    assert one.instruction == "put it there"
    assert c.task_of(String(data="put it here"), 1).task_id != one.task_id
    assert same(c.task_of(c.string_of_task(one), 1), one)


def test_a_task_too_long_is_refused() -> None:
    with pytest.raises(MessageError, match=r"Task\.instruction"):
        c.task_of(String(data="a" * 2000), 1)


def test_a_thought_is_its_words() -> None:
    thought = Thought(task_id=1, intent_id=2, observation_ns=3, text="the red cube is left", complete=True)
    assert c.string_of_thought(thought).data == "the red cube is left"
    assert c.string_of_task(Task(task_id=1, instruction="x", issued_ns=1)).data == "x"


@dataclasses.dataclass
class Case:
    """A state of the gate, and what is said of it."""

    mode: Mode
    reasons: tuple[Reason, ...]
    level: bytes
    said: str


REASON = Reason(code="intent_stale", detail="the intent is 1.20 s old", next_step="Resume.")


@pytest.mark.parametrize(
    "case",
    [
        Case(Mode.ENABLED, (), b"\0", "enabled"),
        Case(Mode.ENABLED, (REASON,), b"\1", "enabled: the intent is 1.20 s old. Resume."),
        Case(Mode.HOLD, (REASON,), b"\1", "hold: the intent is 1.20 s old. Resume."),
        Case(Mode.FAULT, (REASON,), b"\2", "fault: the intent is 1.20 s old. Resume."),
        Case(Mode.DISABLED, (), b"\1", "disabled"),
    ],
)
def test_diagnostics_say_the_mode_why_and_what_next(case: Case) -> None:
    state = SafetyState(
        stamp_ns=5,
        mode=case.mode,
        source=Source.NONE,
        reasons=case.reasons,
        limited_joints=0,
        clamped_count=1,
        refused_count=2,
        arm_distance_m=0.4,
    )
    status = over_the_wire(c.diagnostics_of(state, CLOCK)).status[0]
    assert (status.level, status.message) == (case.level, case.said)
    values = {pair.key: pair.value for pair in status.values}
    assert values["mode"] == case.mode.value
    assert all(reason.code in values for reason in case.reasons)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cobot_magic_ros1_names"):
        profile("aloha")


@pytest.mark.parametrize("tag", ["epoch", "sequence", "chunk", "intent"])
@pytest.mark.parametrize("number", [str(2**63), str(-(2**63) - 1), "9" * 30])
def test_a_number_of_more_than_64_bits_is_refused(tag: str, number: str) -> None:
    """Nothing behind could hold it: the robot's process ended when its log of steps met one."""
    message = c.trajectory_of(action_chunk(), CLOCK)
    c.sign(message.header, 1, 2)
    message.header.frame_id += f"&{tag}={number}"
    read = c.signature if tag in ("epoch", "sequence") else lambda _: c.chunk_of(message, CLOCK)
    with pytest.raises(MessageError, match=f"{tag} must be an integer of 64 bits"):
        read(message.header)


def test_a_negative_signature_is_refused() -> None:
    message = c.trajectory_of(action_chunk(), CLOCK)
    c.sign(message.header, -1, 2)
    with pytest.raises(MessageError, match="must not be negative"):
        c.signature(message.header)
