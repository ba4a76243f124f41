"""The reader: a cut-off file gives what is whole, a hostile one is refused with one line."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer

from syvla import messages as m
from syvla.errors import RecordingError
from syvla.protocols import Header
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import MAX_ATTACHMENTS, Recording, read, repair
from syvla.transport.codec import encode_body

MAGIC = b"\x89MCAP0\r\n"


def command(i: int) -> m.JointCommand:
    """Something like the 200 Hz stream."""
    return m.JointCommand(
        command_id=i, commanded_ns=i * 5_000_000, position_rad=np.full(12, i / 100), gripper_width_m=np.zeros(2),
        provenance=m.Provenance(source=m.Source.POLICY), intent_age_s=0.1, limited_joints=0,
    )  # fmt: skip


def write(path: Path, count: int = 200) -> Path:
    """A second of commands."""
    log = McapLog(path, {"rig": "twin"}, {"run.json": "{}"})
    for i in range(count):
        at_ns = i * 5_000_000
        log.write(Header("command", 0, i, at_ns, 0), m.JointCommand, encode_body(command(i)), at_ns)
    return log.close({"outcome": "success"})


def record(opcode: int, body: bytes) -> bytes:
    """One raw MCAP record."""
    return struct.pack("<BQ", opcode, len(body)) + body


def text(value: str) -> bytes:
    """A raw MCAP string."""
    return struct.pack("<I", len(value)) + value.encode()


HEADER = MAGIC + record(1, text("syvla") + text("x"))


def test_a_cut_anywhere_gives_a_prefix_and_says_so(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mcap").read_bytes()
    longest = 0
    for cut in range(len(HEADER) + 40, len(whole), 97):
        path = tmp_path / f"cut{cut}.mcap"
        path.write_bytes(whole[:cut])
        recording = Recording(path)
        got = [recorded.header.sequence for recorded in recording]
        assert recording.ends_early
        assert got == list(range(len(got)))
        assert len(got) >= longest
        longest = len(got)
    assert longest == 200


def test_no_file_fills_the_memory_with_attachments(tmp_path: Path) -> None:
    log = McapLog(tmp_path / "a.mcap", {}, {f"{k}.txt": "x" for k in range(MAX_ATTACHMENTS + 1)})
    path = log.close({})
    with pytest.raises(RecordingError, match="more than 16 attachments"):
        Recording(path)


def test_a_tail_of_zeros_is_a_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mcap").read_bytes()
    path = tmp_path / "zeros.mcap"
    path.write_bytes(whole[: len(whole) // 2] + bytes(5000))
    with pytest.raises(RecordingError):  # a chunk that was half written before the zeros is corrupt
        list(read(path))
    log = McapLog(tmp_path / "b.mcap", {})
    for i in range(20):
        log.write(Header("command", 0, i, i, 0), m.JointCommand, encode_body(command(i)), i)
    log.flush()
    partial = tmp_path / "b.mcap.partial"
    partial.write_bytes(partial.read_bytes() + bytes(5000))
    assert len(list(read(partial))) == 20
    assert "without a summary" in Recording(partial).ends_early


def test_repair_writes_a_whole_file_and_leaves_the_original(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write(tmp_path / "a.mcap").read_bytes()
    cut = tmp_path / "b.mcap.partial"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    before = [(r.header, r.log_time_ns) for r in read(cut)]
    assert "reading what is there" in caplog.text
    path = repair(cut)
    assert path == tmp_path / "b.repaired.mcap"
    recording = Recording(path)
    assert recording.ends_early == ""
    assert recording.run == {"rig": "twin"}
    assert recording.attachments == {"run.json": "{}"}
    assert recording.outcome["outcome"] == "interrupted"
    assert [(r.header, r.log_time_ns) for r in recording] == before
    assert len(before) > 50
    assert cut.read_bytes() == whole[: len(whole) * 2 // 3]
    with pytest.raises(RecordingError, match="exists already"):
        repair(cut)
    with pytest.raises(RecordingError, match="nothing to repair"):
        repair(path)


def test_what_comes_before_a_damaged_chunk_is_repaired_too(tmp_path: Path) -> None:
    """A power cut may leave a half-written chunk in front of the end; the repair once gave up the whole file."""
    whole = write(tmp_path / "a.mcap").read_bytes()
    cut = tmp_path / "b.mcap.partial"
    cut.write_bytes(whole[: len(whole) // 2] + bytes(5000))
    path = repair(cut)
    recording = Recording(path)
    assert "malformed" in recording.outcome["repaired"] or "corrupt" in recording.outcome["repaired"]
    numbers = [recorded.header.sequence for recorded in recording]
    assert numbers == list(range(len(numbers)))
    assert 20 < len(numbers) < 200


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from syvla import messages as m
from syvla.config import ArmConfig, RigConfig, RunConfig
from syvla.protocols import Header, Inbox, Received
from syvla.stages.recorder import BATCH_NS, RecorderStage
from syvla.transport.codec import encode_body
run = RunConfig(rig=RigConfig(name="t", kind="twin", left=ArmConfig(), right=ArmConfig()))
stage = RecorderStage(Path(sys.argv[1]), run)
def received(topic, message, i, at_ns):
    return Received(Header(topic, 0, i, at_ns, 0), message, at_ns, lambda: encode_body(message))
start = m.EpisodeControl(action="start", name="killed", issued_ns=0)
fresh, i = [received("episode", start, 0, time.monotonic_ns())], 0
rgb = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
while True:
    now_ns = time.monotonic_ns()
    list(stage.step(now_ns, Inbox({}, fresh)))
    fresh = []
    end_ns = now_ns + BATCH_NS
    while time.monotonic_ns() < end_ns:
        at_ns = time.monotonic_ns()
        truth = m.SimTruth(stamp_ns=at_ns, reset_id=1, task="", instruction="", progress=0.0, success=False, names=(),
                           pose=np.zeros((0, 7)), held_by=(), inside=(), hands_m=np.zeros((2, 3)))
        fresh.append(received("sim/truth", truth, i, at_ns))
        if i % 20 == 0:
            frame = m.CameraFrame(camera="cam_high", frame_id=i, exposure_ns=at_ns, rgb=rgb)
            fresh.append(received("camera/cam_high", frame, i, at_ns))
        i += 1
        print(at_ns, flush=True)
        time.sleep(0.0015)
"""


def test_kill_loses_at_most_a_twentieth_of_a_second(tmp_path: Path) -> None:
    """The recorder is killed while it writes 600 messages a second; all but the last 0.05 s are on disk."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    first = int(writer.stdout.readline())
    for line in writer.stdout:
        if int(line) - first > 700_000_000:
            break
    time.sleep(0.013)
    os.kill(writer.pid, signal.SIGKILL)
    said = [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    partial = tmp_path / "killed.mcap.partial"
    path = repair(partial)
    stamps = [r.log_time_ns for r in read(path, ["sim/truth"])]
    assert len(stamps) > 100
    assert np.all(np.diff([r.header.sequence for r in read(path, ["sim/truth"])]) == 1)
    lost_s = ((said or [first])[-1] - stamps[-1]) / 1e9
    assert lost_s < 0.15, "0.05 s, and as much again for a machine that is busy"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty", b"", "does not begin as an MCAP"),
        ("foreign", b"PK\x03\x04 not this" * 9, "does not begin as an MCAP"),
        ("profile", MAGIC + record(1, text("ros2") + text("x")), "profile is 'ros2'"),
        ("huge record", HEADER + struct.pack("<BQ", 6, 2**62), "claims 4611686018427387904 bytes"),
        ("huge text", HEADER + record(0x0C, struct.pack("<I", 2**31) + b"x"), "malformed"),
        ("huge attachment", HEADER + record(9, bytes(16) + text("a") + text("b") + b"\xff" * 8), "malformed"),
        ("not text", HEADER + record(0x0C, struct.pack("<I", 2) + b"\xff\xfe" + bytes(4)), "malformed"),
        ("empty chunk", HEADER + record(6, b""), "malformed"),
    ],
)
def test_a_hostile_file_is_refused_with_one_line(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = tmp_path / f"{name}.mcap"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=why) as refused:
        list(read(path))
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def chunk(data: bytes, size: int, compression: str = "zstd") -> bytes:
    """A chunk record that claims ``size``."""
    body = struct.pack("<QQQI", 0, 0, size, 0) + text(compression) + struct.pack("<Q", len(data)) + data
    return HEADER + record(6, body)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """1 GiB of zeros in 33 kB, announced honestly, as something small, and without an announcement."""
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(2**28))
    writer = zstandard.ZstdCompressor(level=1, write_content_size=False)
    for content in (
        chunk(bomb, 2**28), chunk(bomb, 100), chunk(writer.compress(bytes(2**20)), 100), chunk(b"x", 1, "lz4"),
    ):  # fmt: skip
        path = tmp_path / "bomb.mcap"
        path.write_bytes(content)
        with pytest.raises(RecordingError):
            list(read(path))


def test_a_chunk_with_a_wrong_crc_or_an_unknown_channel_is_refused(tmp_path: Path) -> None:
    whole = bytearray(write(tmp_path / "a.mcap").read_bytes())
    whole[whole.index(b"zstd") + 40] ^= 0xFF
    path = tmp_path / "b.mcap"
    path.write_bytes(whole)
    with pytest.raises(RecordingError):
        list(read(path))
    path.write_bytes(chunk(record(5, bytes(30)), 39, ""))
    with pytest.raises(RecordingError, match="malformed"):
        list(read(path))


def test_a_wrong_type_or_body_names_the_topic(tmp_path: Path) -> None:
    for topic, schema, data, why in (
        ("command", "Splice", b"", "command holds Splice, not JointCommand"),
        ("command", "os.system", b"", "command holds 'os.system'"),
        ("../../etc", "Splice", b"", "has a channel"),
        ("command", "JointCommand", b"\x80\x04\x95 pickle", "message 0 of command"),
    ):
        path = tmp_path / "typed.mcap"
        with path.open("wb") as file:
            writer = Writer(file, compression=CompressionType.NONE)
            writer.start(profile="syvla", library="x")
            channel = writer.register_channel(topic, "msgpack", writer.register_schema(schema, "jsonschema", b""))
            writer.add_message(channel, 0, data, 0)
            writer.finish()
        with pytest.raises(RecordingError, match=why):
            list(read(path))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(RecordingError, match=why):
            list(read(path))


@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises_anything_else(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    source = tmp_path / "source.mcap"
    if not source.exists():
        write(source, 30)
    data = bytearray(source.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    try:
        count = len(list(read(path)))
    except RecordingError:
        return
    assert count <= 30
