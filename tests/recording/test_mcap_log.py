"""The writer: every type comes back as it was, the same bytes every time, nothing overwritten, names safe."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest
from mcap.reader import make_reader

from syvla import messages as m
from syvla.errors import RecordingError
from syvla.message import Message
from syvla.protocols import Header
from syvla.recording.mcap_log import McapLog, checked_name
from syvla.recording.mcap_read import Recording, read
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body


def samples(seed: int = 1) -> dict[type[Message], Message]:
    """One message of every type that is recorded, with something in every optional field."""
    rng = np.random.default_rng(seed)
    frame = m.CameraFrame(
        camera="cam_high", frame_id=4, exposure_ns=5,
        rgb=rng.integers(0, 255, (48, 64, 3), np.uint8), depth_mm=rng.integers(0, 9999, (48, 64), np.uint16),
    )  # fmt: skip
    provenance = m.Provenance(source=m.Source.POLICY, observation_ns=1, intent_id=2, chunk_id=3, chunk_row=4)
    reason = m.Reason(code="intent_stale", detail="1.2 s old", next_step="resume")
    made: list[Message] = [
        frame,
        m.CompressedFrame(camera="cam_high", frame_id=4, exposure_ns=5, width=64, height=48,
                          jpeg=np.arange(2000, dtype=np.uint8), depth_mm=frame.depth_mm),
        m.CamerasState(stamp_ns=1, faults=(m.CameraFault(camera="cam_high", what="frozen", for_s=0.4),)),
        m.ArmState(arm="left", measured_ns=1, position_rad=rng.normal(size=6), velocity_rad_s=rng.normal(size=6),
                   effort_nm=rng.normal(size=6), gripper_width_m=0.03, enabled=True, faults=("joint 3: hot",)),
        m.Task(task_id=1, instruction="put the snack into the blue tray", issued_ns=3),
        m.Thought(task_id=1, intent_id=2, observation_ns=3, text="the left arm", complete=False),
        m.Intent(intent_id=2, task_id=1, observation_ns=3, chain_of_thought="…", model_id="scripted",
                 feature_query_states=rng.normal(size=(20, 64)).astype(np.float16)),
        m.ActionChunk(chunk_id=3, task_id=1, intent_id=2, intent_observation_ns=3,
                      observation_ns=4, period_ns=33_333_333,
                      position_rad=np.where(np.arange(600).reshape(50, 12) == 7, np.nan, 0.5).astype(np.float32),
                      gripper_width_m=rng.random((50, 2)).astype(np.float32), inference_delay_steps=1),
        m.TeleopCommand(sampled_ns=1, deadman=True, joint_velocity_rad_s=rng.normal(size=12),
                        gripper_velocity_m_s=rng.normal(size=2), mode_request="override"),
        m.OperatorCommand(command_id=1, issued_ns=2, action="resume"),
        m.EpisodeControl(action="start", name="a", issued_ns=3),
        m.JointCommand(command_id=1, commanded_ns=2, position_rad=rng.normal(size=12), gripper_width_m=rng.random(2),
                       provenance=provenance, intent_age_s=0.3, limited_joints=5),
        m.Splice(splice_id=1, chunk_id=3, intent_id=2, replaced_chunk_id=2, observation_ns=4, spliced_ns=5,
                 inference_delay_steps=2, jump_rad=0.01),
        m.SafetyState(stamp_ns=1, mode=m.Mode.HOLD, source=m.Source.HOLD, reasons=(reason,), limited_joints=1,
                      clamped_count=2, refused_count=3, arm_distance_m=0.2),
        m.Health(process="robot", stamp_ns=1, pid=2, realtime="no", steps=3, step_p50_s=0.1, step_p99_s=0.2,
                 step_max_s=0.3, lateness_p50_s=0.1, lateness_p99_s=0.2, lateness_max_s=0.3, received=4, refused=5,
                 dropped=6, last_refusal="x", lateness_s=np.arange(300, dtype=np.float32)),
        m.Steps(first_step=7, topics=("chunk", "command"), steps=np.array([[5, 1, 1, 0]]),
                messages=np.array([[0, 3, 9], [1, -1, 4]])),
        m.StageMemory(next_step=8, stamp_ns=5, topics=("chunk",), latest=np.array([[0, 3, 9]]),
                      data=np.arange(200, dtype=np.uint8)),
        m.PlaybackControl(control_id=1, issued_ns=2, speed=0.5, paused=True),
        m.PlaybackState(stamp_ns=1, phase="play", played_s=1.5, duration_s=9.0, speed=0.5, refusal=""),
        m.SimReset(reset_id=1, task="snack_loading", split="id", seed=4),
        m.SimState(stamp_ns=1, task="t", split="id", seed=4, reset_id=1, qpos=rng.normal(size=80)),
        m.SimTruth(stamp_ns=1, reset_id=1, task="t", instruction="i", progress=0.5, success=False, names=("a", "b"),
                   pose=rng.normal(size=(2, 7)), held_by=("", "left"), inside=("tray", ""), hands_m=np.zeros((2, 3))),
    ]  # fmt: skip
    return {type(message): message for message in made}


def write_all(path: Path) -> Path:
    """A recording with one message on every recorded topic."""
    log = McapLog(path, {"rig": "twin"}, {"run.json": "{}"}, chunk_bytes=4096)
    by_type = samples()
    for i, row in enumerate(row for row in TOPICS.values() if row.recorded):
        header = Header(row.name, 3, 100 + i, 1_000_000 * i, 77)
        log.write(header, row.type, encode_body(by_type[row.type]), 1_000_000 * i + 500)
    return log.close({"outcome": "success"})


def same(left: Message, right: Message) -> bool:
    """Whether two messages are equal in every field, NaN to NaN."""
    for field in type(left).__struct_fields__:
        a, b = getattr(left, field), getattr(right, field)
        equal = np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b
        if not equal:
            return False
    return type(left) is type(right)


def test_every_recorded_type_comes_back_with_its_header(tmp_path: Path) -> None:
    path = write_all(tmp_path / "all.mcap")
    sent = samples()
    rows = [row for row in TOPICS.values() if row.recorded]
    back = list(read(path))
    assert [recorded.topic for recorded in back] == [row.name for row in rows]
    for i, (row, recorded) in enumerate(zip(rows, back, strict=True)):
        assert recorded.header == Header(row.name, 3, 100 + i, 1_000_000 * i, 77)
        assert recorded.log_time_ns == 1_000_000 * i + 500
        assert same(recorded.message, sent[row.type]), row.name


def test_run_configuration_and_outcome_are_in_the_file(tmp_path: Path) -> None:
    recording = Recording(write_all(tmp_path / "all.mcap"))
    assert recording.run == {"rig": "twin"}
    assert recording.attachments == {"run.json": "{}"}
    assert recording.outcome == {"outcome": "success"}
    assert recording.ends_early == ""


def test_another_mcap_reader_and_a_plain_msgpack_reader_understand_it(tmp_path: Path) -> None:
    path = write_all(tmp_path / "all.mcap")
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        found = {channel.topic: (schema, message) for schema, channel, message in reader.iter_messages()}
    assert summary.statistics.message_count == len(found)
    schema, message = found["splice"]
    assert schema.name == "Splice"
    assert schema.encoding == "jsonschema"
    assert "inference_delay_steps" in msgspec.json.decode(schema.data)["$defs"]["Splice"]["properties"]
    assert (message.sequence, message.publish_time) == (100 + list(found).index("splice"), message.log_time - 500)
    unpacker = msgpack.Unpacker()
    unpacker.feed(message.data)
    header, body = (msgpack.unpackb(part) for part in unpacker)
    assert header[1] == "splice"
    assert body["inference_delay_steps"] == 2


def test_same_messages_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        files.append(write_all(tmp_path / folder / "all.mcap").read_bytes())
    assert files[0] == files[1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"precious")
    with pytest.raises(RecordingError, match="exists already"):
        McapLog(path, {})
    (tmp_path / "b.mcap.partial").write_bytes(b"precious")
    with pytest.raises(RecordingError, match="exists already"):
        McapLog(tmp_path / "b.mcap", {})
    log = McapLog(tmp_path / "c.mcap", {})
    (tmp_path / "c.mcap").write_bytes(b"came meanwhile")
    with pytest.raises(RecordingError, match="File exists"):
        log.close({})
    assert (tmp_path / "c.mcap").read_bytes() == b"came meanwhile"
    assert Recording(tmp_path / "c.mcap.partial").ends_early == ""


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for name in ("a.mcap", "b.mcap.partial"):
        (tmp_path / name).symlink_to(victim)
    for name in ("a.mcap", "b.mcap"):
        with pytest.raises(RecordingError):
            McapLog(tmp_path / name, {})
    assert not victim.exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../up", "a b", "a\n", "a\0", "é", "x" * 101])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(RecordingError, match="episode name"):
        checked_name(name)


def test_a_negative_stamp_is_refused_by_name(tmp_path: Path) -> None:
    log = McapLog(tmp_path / "a.mcap", {})
    task = m.Task(task_id=1, instruction="", issued_ns=0)
    with pytest.raises(RecordingError, match="task is stamped before 0"):
        log.write(Header("task", 0, 0, -1, 0), m.Task, encode_body(task), 5)
    log.close({})


def test_what_is_older_than_the_flush_time_is_on_disk(tmp_path: Path) -> None:
    log = McapLog(tmp_path / "a.mcap", {})
    task = m.Task(task_id=1, instruction="", issued_ns=0)
    for i in range(201):
        log.write(Header("task", 0, i, i * 5_000_000, 0), m.Task, encode_body(task), i * 5_000_000)
    on_disk = list(read(tmp_path / "a.mcap.partial"))
    assert 1_000_000_000 - on_disk[-1].log_time_ns <= 50_000_000
    log.close({})


def test_a_failed_write_is_cut_back_to_what_is_whole(tmp_path: Path) -> None:
    """The file may grow by half a chunk and no more; what came before stays readable, and is marked."""
    log = McapLog(tmp_path / "a.mcap", {})
    frame = samples()[m.CameraFrame]
    log.write(Header("camera/cam_high", 0, 0, 0, 0), m.CameraFrame, encode_body(frame), 0)
    log.flush()
    size = log.written_bytes
    with file_size_limit(size + 5000):
        log.write(Header("camera/cam_high", 0, 1, 1, 0), m.CameraFrame, encode_body(frame), 1)
        with pytest.raises(RecordingError, match="File too large"):
            log.flush()
        assert log.written_bytes == size + 5000
        path = log.abandon()
    assert path == tmp_path / "a.incomplete.mcap"
    assert path.stat().st_size == size
    assert [recorded.header.sequence for recorded in read(path)] == [0]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size``: the kernel's own refusal, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
