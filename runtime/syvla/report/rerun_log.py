"""A recording as rerun's own: images, joints, ages and words, on the seconds of the recording and the time of day."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from syvla import messages as m
from syvla.errors import RecordingError
from syvla.message import Float64
from syvla.recording import images
from syvla.report.episode import STOPPED_MODES, Episode
from syvla.report.findings import findings
from syvla.report.origins import Int64
from syvla.report.view_data import Shown, printable, wall_offset_ns
from syvla.topics import CAMERAS

SECONDS, WALL = "recording", "time of day"
JPEG_QUALITY = 90  # of images that were recorded raw
IMAGES_AT_ONCE = 32  # are in one piece of the file
ERROR, WARN, INFO = "ERROR", "WARN", "INFO"  # of rr.TextLogLevel
LEVELS = {"bad": ERROR, "warn": WARN, "note": INFO}


class _Line(NamedTuple):
    """Words at one instant."""

    at_ns: int
    entity: str
    text: str
    level: str


def log_all(shown: Shown, rrd: Path) -> int:
    """Write what is shown to ``rrd``; how many images could not be read and are left out."""
    log = _Log(shown, rrd)
    log.joints()
    log.figures()
    unread = log.images()
    log.words()
    log.close()
    return unread


class _Log:
    """One file being written."""

    def __init__(self, shown: Shown, rrd: Path) -> None:
        self._shown, self._episode = shown, shown.episode
        self._offset_ns = wall_offset_ns(shown.episode.recording)
        self._rr = rr.RecordingStream("syvla", recording_id=printable(shown.episode.path))
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

    def images(self) -> int:
        """Each as the JPEG that it was recorded as; how many are none."""
        unread = 0
        topics = [f"camera/{camera}" for camera in CAMERAS]
        taken: dict[str, list[m.CompressedFrame]] = {topic: [] for topic in topics}
        for recorded in self._episode.recording.messages(topics, self._episode.start_ns, self._episode.end_ns):
            frame = recorded.message
            small = images.compress(frame, JPEG_QUALITY) if isinstance(frame, m.CameraFrame) else frame
            if isinstance(small, m.CompressedFrame):
                try:
                    images.decompress(small)  # refused here rather than in the viewer
                except RecordingError:
                    unread += 1
                    continue
                taken[recorded.topic].append(small)
                if len(taken[recorded.topic]) == IMAGES_AT_ONCE:
                    self._images(recorded.topic, taken[recorded.topic])
                    taken[recorded.topic] = []
        for topic, frames in taken.items():
            self._images(topic, frames)
        return unread

    def words(self) -> None:
        """Thoughts, modes with their causes, and what stands out."""
        lines: dict[str, list[_Line]] = {}
        for line in _lines(self._shown):
            lines.setdefault(line.entity, []).append(line)
        for entity, said in lines.items():
            columns = rr.TextLog.columns(text=[line.text for line in said], level=[line.level for line in said])
            self._send(entity, np.array([line.at_ns for line in said], np.int64), columns)

    def close(self) -> None:
        """Have everything in the file."""
        self._rr.flush()
        self._rr.disconnect()

    def _images(self, topic: str, frames: list[m.CompressedFrame]) -> None:
        at_ns = np.array([frame.exposure_ns for frame in frames], np.int64)
        blobs = [frame.jpeg.tobytes() for frame in frames]
        self._send(topic, at_ns, rr.EncodedImage.columns(blob=blobs, media_type=["image/jpeg"] * len(frames)))

    def _scalars(self, entity: str, at_ns: Int64, values: Float64 | Int64) -> None:
        self._send(entity, at_ns, rr.Scalars.columns(scalars=values.astype(np.float64)))

    def _send(self, entity: str, at_ns: Int64, columns: rr.ComponentColumnList) -> None:
        """On the recording's own times alone, not on when they were written here."""
        if not len(at_ns):
            return
        axes = [rr.TimeColumn(SECONDS, duration=self._shown.at_s + self._episode.seconds(at_ns))]
        if self._offset_ns is not None:
            axes.append(rr.TimeColumn(WALL, timestamp=(at_ns + self._offset_ns).astype("datetime64[ns]")))
        self._rr.send_columns(entity, indexes=axes, columns=columns)


def _lines(shown: Shown) -> Iterator[_Line]:
    episode = shown.episode
    for thought in episode.thinking:
        if thought.arrived:
            text = f"intent {thought.intent_id}, of {shown.second(thought.observation_ns):.2f} s: {thought.text}"
            yield _Line(thought.arrived_ns, "thought", text, INFO)
    for span in episode.modes:
        causes = "; ".join(f"{r.code}: {r.detail}. Next: {r.next_step}" for r in span.reasons)
        level = ERROR if span.mode in STOPPED_MODES else INFO
        yield _Line(span.start_ns, "mode", f"{span.mode.value} {causes}".strip(), level)
    for found in findings(episode, shown.heard):
        yield _Line(found.start_ns, "look_here", f"{found.title}; {found.detail}", LEVELS[found.level])


def _blueprint(episode: Episode) -> rrb.Blueprint:
    """Cameras above, joints and age below, words beside them."""
    cameras = [name for name in episode.stamps if name.startswith("camera/")]
    arms = [rrb.TimeSeriesView(origin=f"/{arm}", name=f"{arm} arm") for arm in m.ARMS]
    age = rrb.TimeSeriesView(origin="/intent", contents="/intent/age_s", name="intent age")
    seen = [rrb.Horizontal(*(rrb.Spatial2DView(origin=f"/{name}", name=name) for name in cameras))] if cameras else []
    words = rrb.TextLogView(origin="/", name="thoughts, modes, what stands out")
    return rrb.Blueprint(rrb.Horizontal(rrb.Vertical(*seen, *arms, age), words, column_shares=[3, 1]))
