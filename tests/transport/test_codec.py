"""Messages to bytes and back: exact, plain msgpack, and uncopied where they are large."""

import enum
import types
import typing
from typing import Any, Literal

import hypothesis.extra.numpy as hnp
import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syvla import messages as m
from syvla.errors import MessageError
from syvla.message import MAX_ITEMS, ArraySpec, Message
from syvla.protocols import Header
from syvla.topics import TOPICS
from syvla.transport.codec import decode, decode_body, encode, encode_body, pack_record, unpack_record
from syvla.transport.wire import MAX_ARRAY_FRAMES, MAX_INLINE

INT64 = st.integers(-(2**63), 2**63 - 1)
TYPES = (*dict.fromkeys(row.type for row in TOPICS.values()), m.CompressedFrame)
TOPIC_OF = {row.type: name for name, row in TOPICS.items()}


def arrays(spec: ArraySpec) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    sides = [st.just(s) if isinstance(s, int) else st.integers(s[0], min(s[1], s[0] + 80)) for s in spec.shape]
    finite = {"allow_nan": not spec.finite, "allow_infinity": not spec.finite} if spec.dtype[0] == "f" else {}
    elements = hnp.from_dtype(np.dtype(spec.dtype), **finite)  # type: ignore[arg-type]
    return st.tuples(*sides).flatmap(lambda shape: hnp.arrays(spec.dtype, shape, elements=elements, fill=elements))


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return INT64
    if hint in (bool, str, float):
        return {bool: st.booleans(), str: st.text(max_size=20), float: st.floats(allow_nan=False)}[hint]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=20), values(arguments[1]), max_size=3)
    if origin in (typing.Union, types.UnionType):
        return st.none() | values(arguments[0])
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    return structs(hint)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any valid instance of ``kind``, made from nothing but its declarations."""
    specs: dict[str, ArraySpec] = getattr(kind, "ARRAYS", {})
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        spec = specs.get(field.name)
        strategy = values(field.type) if spec is None else arrays(spec)
        fields[field.name] = strategy if field.required or spec is None else st.none() | strategy
    if kind is m.ActionChunk:
        return st.integers(1, 60).flatmap(
            lambda rows: st.builds(
                kind,
                **{
                    **fields,
                    "period_ns": st.integers(1_000_000, 1_000_000_000),
                    "position_rad": arrays(ArraySpec("f4", (rows, 12), finite=False)),
                    "gripper_width_m": arrays(ArraySpec("f4", (rows, 2), finite=False)),
                },
            )
        )
    if kind is m.PlaybackControl:
        fields |= {"speed": st.floats(0.1, 1.0)}
    if kind is m.CompressedFrame:
        fields |= {"width": st.integers(1, 3840), "height": st.integers(1, 2160)}
    return st.builds(kind, **fields)


def plain(value: Any) -> Any:
    """``value`` as something that compares by content, NaN included."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, msgspec.Struct):
        return type(value), {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value


def arm_state(**changes: Any) -> m.ArmState:
    six = np.arange(6.0)
    fields = {"position_rad": six, "velocity_rad_s": six, "effort_nm": six, "gripper_width_m": 0.05, "enabled": True}
    return m.ArmState(**{"arm": "left", "measured_ns": 7, **fields, **changes})


def camera_frame(camera: str = "cam_high") -> m.CameraFrame:
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return m.CameraFrame(camera=camera, frame_id=1, exposure_ns=2, rgb=rgb)


def observation() -> m.Observation:
    frames = tuple(map(camera_frame, ("cam_high", "cam_left_wrist", "cam_right_wrist")))
    return m.Observation(
        observation_ns=5, proprioception=np.arange(14.0), frames=frames, source_age_s={"cam_high": 0.1}
    )


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: str(kind.__name__))
def test_every_message_comes_back_as_it_was(kind: type[Message]) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(message=structs(kind), epoch=st.integers(0, 2**63 - 1), sent_ns=INT64)
    def check(message: Message, epoch: int, sent_ns: int) -> None:
        if kind in TOPIC_OF:
            header = Header(TOPIC_OF[kind], epoch, 3, sent_ns, 4)
            frames = [bytes(frame) for frame in encode(header, message)]
            header_back, back = decode(frames)
            assert header_back == header
            assert plain(back) == plain(message)
            assert [bytes(frame) for frame in encode(header, back)] == frames
        record = pack_record(encode_body(message))
        assert plain(decode_body(kind, unpack_record(record))) == plain(message)

    check()


def test_any_msgpack_reader_reads_a_message() -> None:
    header, body, *frames = encode(Header("observation", 11, 12, 13, 14), observation())
    assert msgpack.unpackb(header) == [1, "observation", 11, 12, 13, 14, 3]
    fields = msgpack.unpackb(body, strict_map_key=True)
    assert set(fields) == {"observation_ns", "proprioception", "frames", "source_age_s"}
    inline = fields["proprioception"]
    assert np.frombuffer(inline["data"], inline["dtype"]).reshape(inline["shape"]).tolist() == list(range(14))
    image = fields["frames"][2]["rgb"]
    assert image == {"dtype": "|u1", "shape": [48, 64, 3], "frame": 2}
    assert bytes(frames[2]) == camera_frame().rgb.tobytes()


def test_any_msgpack_reader_reads_a_record() -> None:
    frames = encode(Header("observation", 1, 2, 3, 4), observation())
    unpacker = msgpack.Unpacker()
    unpacker.feed(pack_record(frames))
    assert list(unpacker) == [bytes(frame) for frame in frames]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536, 70000])
def test_a_record_holds_frames_of_any_size(size: int) -> None:
    frames = [b"\x80", bytes(size)]
    assert [bytes(frame) for frame in unpack_record(pack_record(frames))] == frames


def test_large_arrays_are_not_copied() -> None:
    sent = camera_frame()
    frames = encode(Header("camera/cam_high", 1, 2, 3, 4), sent)
    _, received = decode(frames)
    assert isinstance(received, m.CameraFrame)
    assert np.shares_memory(received.rgb, sent.rgb)


def test_received_arrays_cannot_be_written() -> None:
    _, received = decode([bytearray(frame) for frame in encode(Header("arm/left", 1, 2, 3, 4), arm_state())])  # type: ignore[misc]
    assert isinstance(received, m.ArmState)
    with pytest.raises(ValueError, match="read-only"):
        received.position_rad[0] = 1.0


@pytest.mark.parametrize(("values_count", "frames"), [(MAX_INLINE // 8, 2), (MAX_INLINE // 8 + 1, 3)])
def test_an_array_has_a_frame_of_its_own_when_it_is_large(values_count: int, frames: int) -> None:
    state = m.SimState(stamp_ns=0, task="t", split="s", seed=0, reset_id=0, qpos=np.zeros(values_count))
    assert len(encode(Header("sim/state", 1, 2, 3, 4), state)) == frames


def test_numbers_taken_out_of_arrays_are_sent_as_numbers() -> None:
    state = arm_state(gripper_width_m=np.float32(0.5), measured_ns=np.int64(9), enabled=np.True_)
    _, received = decode(encode(Header("arm/left", 1, 2, 3, 4), state))
    assert isinstance(received, m.ArmState)
    assert (received.gripper_width_m, received.measured_ns, received.enabled) == (0.5, 9, True)


def test_a_message_of_another_type_is_not_sent() -> None:
    with pytest.raises(MessageError, match="arm/left: must be a ArmState, not CameraFrame"):
        encode(Header("arm/left", 1, 2, 3, 4), camera_frame())
    with pytest.raises(MessageError, match="no topic 'arm'"):
        encode(Header("arm", 1, 2, 3, 4), arm_state())


def test_what_is_too_large_or_unknown_to_msgpack_is_not_sent() -> None:
    frame = m.CameraFrame(camera="c", frame_id=1, exposure_ns=2, rgb=np.zeros((1080, 1920, 3), np.uint8))
    with pytest.raises(MessageError, match="CameraFrame: an array of 6220800 bytes cannot be sent"):
        encode(Header("camera/cam_high", 1, 2, 3, 4), frame)
    with pytest.raises(MessageError, match="ArmState"):
        encode(Header("arm/left", 1, 2, 3, 4), arm_state(measured_ns=2**64))
    with pytest.raises(MessageError, match="value of type object"):
        encode(Header("arm/left", 1, 2, 3, 4), arm_state(enabled=object()))
    with pytest.raises(MessageError, match="ArmState"):
        encode(Header("arm/left", 1, 2, 3, 4), arm_state(faults=("\ud800",)))
    many = m.Observation(
        observation_ns=5,
        proprioception=np.zeros(14),
        frames=tuple(camera_frame() for _ in range(MAX_ITEMS)),
        source_age_s={},
    )
    assert len(encode_body(many)) == 1 + MAX_ARRAY_FRAMES


def test_a_message_that_breaks_its_own_rules_is_not_built() -> None:
    with pytest.raises(MessageError, match=r"ArmState\.faults must have at most 64 items, not 65"):
        arm_state(faults=("x",) * 65)
    with pytest.raises(MessageError, match=r"ArmState\.position_rad must be finite"):
        arm_state(position_rad=np.array([0, 0, 0, 0, 0, np.nan]))
    with pytest.raises(MessageError, match=r"ArmState\.effort_nm must be finite"):
        arm_state(effort_nm=np.array([0, -np.inf, 0, np.inf, 0, 0]))
    with pytest.raises(MessageError, match=r"ArmState.position_rad must have shape \(6\), not \(7,\)"):
        arm_state(position_rad=np.zeros(7))
    with pytest.raises(MessageError, match=r"ArmState\.position_rad must have dtype float64, not float32"):
        arm_state(position_rad=np.zeros(6, np.float32))
    with pytest.raises(MessageError, match=r"CameraFrame.rgb must have shape .* not \(0, 64, 3\)"):
        m.CameraFrame(camera="c", frame_id=1, exposure_ns=2, rgb=np.zeros((0, 64, 3), np.uint8))
    with pytest.raises(MessageError, match=r"CameraFrame\.rgb must have 3 dimensions"):
        m.CameraFrame(camera="c", frame_id=1, exposure_ns=2, rgb=np.zeros((64, 3), np.uint8))


@pytest.mark.filterwarnings("error")
def test_numbers_too_large_to_square_are_finite_all_the_same() -> None:
    """A check that sums or squares a vector would overflow here."""
    state = arm_state(effort_nm=np.array([1e300, -1e300, 0, 0, 0, 0]))
    assert state.effort_nm[0] == 1e300


def test_the_sender_cannot_change_a_message_through_the_message() -> None:
    position_rad = np.zeros((6, 2))[:, 0]
    state = arm_state(position_rad=position_rad)
    assert state.position_rad.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        state.position_rad[0] = 1.0
