"""A recording as rerun's own: images, joints, ages and words, on the seconds of the recording and the time of day."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rerun as rr
import rerun.blueprint as rrb

from syvla import messages as m
from syvla.message import Float64
from syvla.recording import images
from syvla.report.episode import STOPPED_MODES, Episode
from syvla.report.findings import findings
from syvla.report.view_data import Shown, wall_ns
from syvla.topics import CAMERAS

SECONDS, WALL = "recording", "time of day"
JPEG_QUALITY = 90  # of images that were recorded raw
LEVELS = {"bad": rr.TextLogLevel.ERROR, "warn": rr.TextLogLevel.WARN, "note": rr.TextLogLevel.INFO}


class _Line(NamedTuple):
    """Words at one instant."""

    at_ns: int
    entity: str
    text: str
    level: str


def log_all(shown: Shown, rrd: Path) -> None:
    """Write what is shown to ``rrd``; RecordingError where an image cannot be read."""
    log = _Log(shown, rrd)
    log.joints()
    log.figures()
    log.images()
    log.words()
    log.close()


class _Log:
    """One file being written."""

    def __init__(self, shown: Shown, rrd: Path) -> None:
        self._shown, self._episode = shown, shown.episode
        self._offset_ns = wall_ns(shown.episode.recording)
        self._rr = rr.RecordingStream("syvla", recording_id=shown.episode.path.name)
        self._rr.save(rrd, default_blueprint=_blueprint(shown.episode))

    def joints(self) -> None:
        """Commands beside what was measured."""
        commands = self._episode.commands
        for k, arm in enumerate(m.ARMS):
            measured = self._episode.measured[arm]
            for j in range(m.ARM_JOINTS):
                name = f"{arm}/joint_{j + 1}"
                self._scalars(f"{name}/command", commands.at_ns, commands.position_rad[:, m.ARM_JOINTS * k + j])
                self._scalars(f"{name}/measured", measured.at_ns, measured.position_rad[:, j])
            self._scalars(f"{arm}/gripper_m/command", commands.at_ns, commands.gripper_m[:, k])
            self._scalars(f"{arm}/gripper_m/measured", measured.at_ns, measured.gripper_m)

    def figures(self) -> None:
        """Ages, rows, seams, the gate."""
        commands, episode = self._episode.commands, self._episode
        aged = commands.intent_age_s >= 0
        self._scalars("intent/age_s", commands.at_ns[aged], commands.intent_age_s[aged])
        self._scalars("intent/id", commands.at_ns[aged], commands.intent_id[aged])
        self._scalars("chunk/row", commands.at_ns, commands.chunk_row)
        self._scalars("gate/limited_joints", commands.at_ns, np.array([int(b).bit_count() for b in commands.limited]))
        spliced_ns = np.array([s.spliced_ns for s in episode.splices], np.int64)
        self._scalars("splice/jump_rad", spliced_ns, np.array([s.jump_rad for s in episode.splices], np.float64))
        stamps_ns = np.array([s.stamp_ns for s in episode.safety], np.int64)
        self._scalars(
            "gate/arm_distance_m", stamps_ns, np.array([s.arm_distance_m for s in episode.safety], np.float64)
        )

    def images(self) -> None:
        """Each as the JPEG that it was recorded as."""
        topics = [f"camera/{camera}" for camera in CAMERAS]
        for recorded in self._episode.recording.messages(topics, self._episode.start_ns, self._episode.end_ns):
            frame = recorded.message
            small = images.compress(frame, JPEG_QUALITY) if isinstance(frame, m.CameraFrame) else frame
            if isinstance(small, m.CompressedFrame):
                images.decompress(small)  # refused here rather than in the viewer
                self._at(small.exposure_ns)
                self._rr.log(recorded.topic, rr.EncodedImage(contents=small.jpeg.tobytes(), media_type="image/jpeg"))

    def words(self) -> None:
        """Thoughts, modes with their causes, and what stands out."""
        for line in _lines(self._shown):
            self._at(line.at_ns)
            self._rr.log(line.entity, rr.TextLog(line.text, level=line.level))

    def close(self) -> None:
        """Have everything in the file."""
        self._rr.flush()
        self._rr.disconnect()

    def _at(self, at_ns: int) -> None:
        self._rr.set_time(SECONDS, duration=self._episode.second(at_ns))
        if self._offset_ns is not None:
            self._rr.set_time(WALL, timestamp=np.datetime64(at_ns + self._offset_ns, "ns"))

    def _scalars(self, entity: str, at_ns: npt.NDArray[np.int64], values: Float64 | npt.NDArray[np.int64]) -> None:
        if not len(at_ns):
            return
        axes = [rr.TimeColumn(SECONDS, duration=self._episode.seconds(at_ns))]
        if self._offset_ns is not None:
            axes.append(rr.TimeColumn(WALL, timestamp=(at_ns + self._offset_ns).astype("datetime64[ns]")))
        self._rr.send_columns(entity, indexes=axes, columns=rr.Scalars.columns(scalars=values.astype(np.float64)))


def _lines(shown: Shown) -> Iterator[_Line]:
    episode = shown.episode
    for thought in episode.thinking:
        if thought.arrived:
            text = f"intent {thought.intent_id}, of {episode.second(thought.observation_ns):.2f} s: {thought.text}"
            yield _Line(thought.arrived_ns, "thought", text, rr.TextLogLevel.INFO)
    for span in episode.modes:
        causes = "; ".join(f"{r.code}: {r.detail}. Next: {r.next_step}" for r in span.reasons)
        level = rr.TextLogLevel.ERROR if span.mode in STOPPED_MODES else rr.TextLogLevel.INFO
        yield _Line(span.start_ns, "mode", f"{span.mode.value} {causes}".strip(), level)
    for found in findings(episode, shown.heard):
        yield _Line(found.start_ns, "look_here", f"{found.title}; {found.detail}", LEVELS[found.level])


def _blueprint(episode: Episode) -> rrb.Blueprint:
    """Cameras above, joints and age below, words beside them."""
    cameras = [name for name in episode.stamps if name.startswith("camera/")]
    arms = [rrb.TimeSeriesView(origin=f"/{arm}", name=f"{arm} arm") for arm in m.ARMS]
    left = [
        *([rrb.Horizontal(*(rrb.Spatial2DView(origin=f"/{name}", name=name) for name in cameras))] if cameras else []),
        *arms,
        rrb.TimeSeriesView(origin="/intent", contents="/intent/age_s", name="intent age"),
    ]
    words = rrb.TextLogView(origin="/", name="thoughts, modes, what stands out")
    return rrb.Blueprint(rrb.Horizontal(rrb.Vertical(*left), words, column_shares=[3, 1]))
