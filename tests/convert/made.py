"""Recordings to convert, made up: two arms, three cameras, a person who takes over in the middle."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from syvla import messages as m
from syvla.convert.command import Target, Writing, convert
from syvla.convert.found import Reading
from syvla.convert.rows import Episode, Frame, Grid
from syvla.message import Message, UInt8
from syvla.protocols import Header
from syvla.recording.images import compress
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body

SIZE = (48, 64)
PERIOD_NS = 5_000_000
FRAME_NS = 33_333_333
TELEOP_S = (0.8, 1.2)
INSTRUCTION = "put the apple into the left tray"
READING, GRID = Reading(), Grid()
RUN = '{"rig": {"left": {}, "right": {}}}'


def picture(number: int, size: tuple[int, int] = SIZE) -> UInt8:
    """A smooth image that tells its number."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    return np.stack([rows * 3, columns * 2, np.full(size, 40 + number % 150)], -1).astype(np.uint8)


def arm_state(arm: m.ArmName, at_ns: int) -> m.ArmState:
    """Something that moves."""
    t = at_ns / 1e9
    return m.ArmState(
        arm=arm, measured_ns=at_ns, position_rad=np.linspace(0.0, 0.5, 6) + t / 10, velocity_rad_s=np.full(6, 0.1),
        effort_nm=np.full(6, 0.2), gripper_width_m=0.03 + t / 1000, enabled=True,
    )  # fmt: skip


def command(number: int, at_ns: int, source: m.Source) -> m.JointCommand:
    """A little ahead of the arms."""
    override = 1 if source is m.Source.TELEOP else -1
    return m.JointCommand(
        command_id=number, commanded_ns=at_ns, position_rad=np.full(12, 0.5 + at_ns / 1e10),
        gripper_width_m=np.array([0.04, 0.05]), provenance=m.Provenance(source=source, override_id=override),
        intent_age_s=-1.0, limited_joints=0,
    )  # fmt: skip


def record(
    path: Path,
    duration_s: float = 2.0,
    cameras: Sequence[str] = m.CAMERAS,
    jpeg: bool = True,
    outcome: str = "success",
    without: Sequence[str] = (),
    hole_s: tuple[float, float] = (9e9, 9e9),
    size: tuple[int, int] = SIZE,
) -> Path:
    """A recording at ``path``; camera frames are told 20 ms after they were exposed, none in ``hole_s``."""
    log = McapLog(path, {"rig": "twin", "policy": "made up"}, {"run.json": RUN})
    numbers: dict[str, int] = {}

    def put(topic: str, at_ns: int, message: Message) -> None:
        if topic in without:
            return
        number = numbers[topic] = numbers.get(topic, -1) + 1
        log.write(Header(topic, 1, number, at_ns, 0), type(message), encode_body(message), at_ns)

    begin_ns, frames = 100_000_000, 0
    put("task", begin_ns, m.Task(task_id=1, instruction=INSTRUCTION, issued_ns=begin_ns))
    for tick in range(int(duration_s * 200)):
        at_ns = begin_ns + tick * PERIOD_NS
        for arm in m.ARMS:
            put(f"arm/{arm}", at_ns, arm_state(arm, at_ns))
        led = TELEOP_S[0] <= tick / 200 < TELEOP_S[1]
        put("command", at_ns, command(tick, at_ns, m.Source.TELEOP if led else m.Source.POLICY))
        while begin_ns + frames * FRAME_NS + 20_000_000 <= at_ns:
            exposure_ns = begin_ns + frames * FRAME_NS
            for camera in cameras if not hole_s[0] <= frames * FRAME_NS / 1e9 < hole_s[1] else ():
                frame = m.CameraFrame(
                    camera=camera, frame_id=frames, exposure_ns=exposure_ns, rgb=picture(frames, size)
                )
                put(f"camera/{camera}", at_ns, compress(frame, 90) if jpeg else frame)
            frames += 1
    return log.close({"outcome": outcome})


def run(
    sources: Sequence[Path],
    out: Path,
    to: Target,
    reading: Reading = READING,
    grid: Grid = GRID,
    fps: int | None = None,
    jpeg: int = 90,
    outcome: str = "",
    run_json: str = "",
) -> tuple[int, str]:
    """The conversion's exit status, and what it said."""
    said = io.StringIO()
    status = convert(sources, out, reading, Writing(to, grid, fps, outcome, jpeg, run_json), Console(file=said))
    return status, said.getvalue()


def shown(frame: Frame) -> UInt8:
    """A frame's pixels."""
    if isinstance(frame, m.CameraFrame):
        return frame.rgb
    return np.asarray(Image.open(io.BytesIO(frame.jpeg.tobytes())))


def assert_same_rows(ours: Episode, theirs: Episode, grid: Grid, pixel_error: float) -> int:
    """Both have the same rows, to float32 and ``pixel_error`` of 255 on average; how many."""
    count = 0
    for a, b in zip(ours.rows(grid), theirs.rows(grid), strict=True):
        for field in ("state", "velocity", "effort", "action"):
            np.testing.assert_array_equal(np.float32(getattr(a, field)), np.float32(getattr(b, field)))
        assert (a.intervention, a.instruction) == (b.intervention, b.instruction)
        assert a.frames.keys() == b.frames.keys()
        for camera, frame in a.frames.items():
            assert np.abs(shown(frame).astype(int) - shown(b.frames[camera])).mean() <= pixel_error
        count += 1
    return count
