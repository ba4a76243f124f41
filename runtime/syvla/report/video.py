"""The film of one episode: the three cameras side by side, with what was asked, thought and done under them."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from syvla import messages as m
from syvla.clock import NS_PER_S
from syvla.errors import RecordingError
from syvla.message import UInt8
from syvla.recording import images
from syvla.report.episode import Episode, load
from syvla.topics import CAMERAS

PANEL_HEIGHT = 360
GAP = 6
WIDEST = 4.0  # a panel is at most so much wider than high
MOST_HZ = 120
TELL_S = 20  # of the film, between two words of progress
STALE_S = 0.5  # a picture older than this is marked
BACKGROUND, INK, MUTED, ACCENT = (18, 24, 32), (240, 244, 248), (150, 162, 176), (242, 193, 78)
MODE_COLOURS = {
    m.Mode.DISABLED: (120, 130, 142), m.Mode.ENABLED: (76, 145, 86), m.Mode.OVERRIDE: (70, 120, 200),
    m.Mode.HOLD: (200, 62, 80), m.Mode.SOFT_STOP: (160, 40, 56), m.Mode.FAULT: (120, 20, 36),
}  # fmt: skip
_FONTS = Path(get_data_path()) / "fonts" / "ttf"


class Style(NamedTuple):
    """How a film looks."""

    panel_height: int = PANEL_HEIGHT
    captions: bool = True
    crf: int = 21
    keyframe_s: float | None = None  # at most so far apart, for a film that is sought in; None: as the encoder likes


_CAPTIONED = Style()


class Film(NamedTuple):
    """A film that was made: frame k shows the instant ``start_ns + k / rate_hz``."""

    start_ns: int
    rate_hz: int
    frames: int


class _Shot(NamedTuple):
    """One picture of a camera."""

    exposure_ns: int
    rgb: UInt8


class _Caption(NamedTuple):
    """What stands under the pictures at one instant."""

    instruction: str
    thought: str
    mode: m.Mode | None
    cause: str
    second: float
    intent_age_s: float | None


def video(path: Path, mp4: Path, rate_hz: int | None = None) -> int:
    """Film the recording at ``path`` into ``mp4`` (H.264); the number of frames.

    The film runs from the first to the last image at ``rate_hz`` (the cameras' own rate if None); each of its
    frames shows the newest image that each camera had exposed by then. A camera without images has a dark panel.

    Raises:
        RecordingError: It is no recording, or has no image at all.
    """
    return film(load(path), mp4, rate_hz).frames


def film(
    episode: Episode,
    mp4: Path,
    rate_hz: int | None = None,
    style: Style = _CAPTIONED,
    most_bytes: int | None = None,
    filmed: Callable[[float], None] | None = None,
) -> Film:
    """As :func:`video`, of an episode that is loaded already, of its instants alone.

    Every 20 s of it ``filmed`` is told the second that has been reached.

    Raises:
        RecordingError: There is no image, or the film would have more than ``most_bytes``.
    """
    path = episode.path
    stamps = [s.sent_ns for topic, s in episode.stamps.items() if topic.startswith("camera/")]
    if not stamps:
        raise RecordingError(f"{path}: has no camera image to film")
    rate = rate_hz or min(max(1, round(max(_rate_hz(sent_ns) for sent_ns in stamps))), MOST_HZ)
    options = {"crf": str(style.crf), "preset": "veryfast"}
    if style.keyframe_s is not None:
        options["g"] = str(max(1, round(style.keyframe_s * rate)))
    painter: _Painter | None = None
    start_ns = frames = size = 0
    with av.open(str(mp4), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        for at_ns, shots in _instants(episode, rate):
            if painter is None:
                start_ns = at_ns
                there = [name for name in CAMERAS if style.captions or f"camera/{name}" in episode.stamps]
                painter = _Painter(next(shot for shot in shots.values()).rgb.shape, style, there)
                stream.width, stream.height = painter.size
            caption = _caption(episode, at_ns) if style.captions else None
            picture = av.VideoFrame.from_ndarray(painter.paint(at_ns, shots, caption), "rgb24")
            picture.pts, picture.time_base = frames, Fraction(1, rate)
            size += _mux(container, stream.encode(picture))
            if most_bytes is not None and size > most_bytes:
                break
            frames += 1
            if filmed is not None and frames % (TELL_S * rate) == 0:
                filmed(frames / rate)
        size += _mux(container, stream.encode())
    if most_bytes is not None and size > most_bytes:
        raise RecordingError(f"{path}: the film of it has more than {most_bytes / 1e6:g} MB")
    return Film(start_ns, rate, frames)


def _mux(container: av.container.OutputContainer, packets: Sequence[av.Packet]) -> int:
    """Write the packets; their bytes."""
    container.mux(packets)
    return sum(packet.size for packet in packets)


def _rate_hz(sent_ns: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    gap_ns = float(np.median(np.diff(sent_ns))) if len(sent_ns) > 1 else 0.0
    return NS_PER_S / gap_ns if gap_ns > 0 else 1.0


def _instants(episode: Episode, rate: int) -> Iterator[tuple[int, dict[str, _Shot]]]:
    """Each instant of the film with the newest shot of each camera."""
    shots: dict[str, _Shot] = {}
    start_ns, count = -1, 0
    topics = [f"camera/{camera}" for camera in CAMERAS]
    for recorded in episode.recording.messages(topics, episode.start_ns, episode.end_ns):
        frame = recorded.message
        if isinstance(frame, m.CompressedFrame):
            frame = images.decompress(frame)
        if not isinstance(frame, m.CameraFrame):
            continue
        if start_ns < 0:
            start_ns = max(frame.exposure_ns, episode.start_ns - NS_PER_S)
        until_ns = min(frame.exposure_ns, episode.end_ns)  # a stamp that lies makes no endless film
        while shots and start_ns + count * NS_PER_S // rate < until_ns:
            yield start_ns + count * NS_PER_S // rate, dict(shots)
            count += 1
        shots[recorded.topic.removeprefix("camera/")] = _Shot(frame.exposure_ns, frame.rgb)
    if shots:
        yield start_ns + count * NS_PER_S // rate, shots


def _caption(episode: Episode, at_ns: int) -> _Caption:
    tasks = [task for task in episode.tasks if task.issued_ns <= at_ns] or episode.tasks[:1]
    thoughts = [thought for sent_ns, thought in episode.thoughts if sent_ns <= at_ns]
    intents = [span for span in episode.thinking if span.arrived and span.arrived_ns <= at_ns]
    states = [state for state in episode.safety if state.stamp_ns <= at_ns]
    row = int(np.searchsorted(episode.commands.at_ns, at_ns, side="right")) - 1
    age = float(episode.commands.intent_age_s[row]) if row >= 0 else -1.0
    thought = thoughts[-1].text if thoughts else intents[-1].text if intents else ""
    return _Caption(
        instruction=tasks[-1].instruction if tasks else episode.instruction,
        thought=" ".join(thought.split()),
        mode=states[-1].mode if states else None,
        cause=", ".join(reason.code for reason in states[-1].reasons) if states else "",
        second=episode.second(at_ns),
        intent_age_s=age if age >= 0 else None,
    )


class _Painter:
    """Lays out one frame; panels are all as the first camera's image, scaled to one height."""

    def __init__(self, shape: tuple[int, ...], style: Style, cameras: Sequence[str]) -> None:
        self._cameras = cameras
        wide = min(shape[1] / shape[0], WIDEST)
        self._panel = (max(2, round(style.panel_height * wide / 2) * 2), style.panel_height)
        width = len(cameras) * self._panel[0] + (len(cameras) + 1) * GAP
        self._caption_height = 128 if style.captions else 0
        height = self._panel[1] + 2 * GAP + self._caption_height
        self.size = (width + width % 2, height + height % 2)
        self._bold = ImageFont.truetype(str(_FONTS / "DejaVuSans-Bold.ttf"), 21)
        self._plain = ImageFont.truetype(str(_FONTS / "DejaVuSans.ttf"), 18)
        self._small = ImageFont.truetype(str(_FONTS / "DejaVuSans-Bold.ttf"), 14)

    def paint(self, at_ns: int, shots: dict[str, _Shot], caption: _Caption | None) -> UInt8:
        """The frame (H, W, 3)."""
        canvas = Image.new("RGB", self.size, BACKGROUND)
        brush = ImageDraw.Draw(canvas)
        for i, camera in enumerate(self._cameras):
            x = GAP + i * (self._panel[0] + GAP)
            shot = shots.get(camera)
            if shot is None:
                brush.rectangle((x, GAP, x + self._panel[0] - 1, GAP + self._panel[1] - 1), (34, 42, 52))
                middle = (x + self._panel[0] // 2, GAP + self._panel[1] // 2)
                brush.text(middle, "no image", MUTED, self._plain, anchor="mm")
            else:
                canvas.paste(Image.fromarray(shot.rgb).resize(self._panel, Image.Resampling.BILINEAR), (x, GAP))
            age_s = 0.0 if shot is None else (at_ns - shot.exposure_ns) / NS_PER_S
            late = age_s > STALE_S
            self._chip(brush, x + 8, GAP + 8, f"{camera}  {age_s:.1f} s old" if late else camera, late)
        if caption is not None:
            self._write(brush, caption)
        return np.asarray(canvas)

    def _chip(self, brush: ImageDraw.ImageDraw, x: int, y: int, text: str, alarm: bool) -> None:
        right = x + brush.textlength(text, self._small) + 16
        brush.rounded_rectangle((x, y, right, y + 24), 5, MODE_COLOURS[m.Mode.HOLD] if alarm else BACKGROUND)
        brush.text((x + 8, y + 12), text, INK, self._small, anchor="lm")

    def _write(self, brush: ImageDraw.ImageDraw, caption: _Caption) -> None:
        """Instruction and thought on the left, time, mode and intent age on the right."""
        top, right = self._panel[1] + 2 * GAP, self.size[0] - 14
        column = 230
        room = self.size[0] - column - 40
        brush.text((14, top + 8), _fit(brush, caption.instruction, self._bold, room), INK, self._bold)
        columns = max(10, int(room / brush.textlength("n", self._plain)))
        lines = textwrap.wrap(caption.thought, columns) or [""]
        for k, line in enumerate(lines[-3:]):  # the newest words, as they appear
            brush.text((14, top + 42 + 26 * k), line, ACCENT, self._plain)
        brush.text((right, top + 8), f"{caption.second:6.2f} s", MUTED, self._plain, anchor="ra")
        if caption.mode is not None:
            name = caption.mode.value.upper().replace("_", " ")
            width = brush.textlength(name, self._small) + 20
            brush.rounded_rectangle((right - width, top + 38, right, top + 62), 5, MODE_COLOURS[caption.mode])
            brush.text((right - width / 2, top + 50), name, INK, self._small, anchor="mm")
        if caption.cause:
            text = _fit(brush, caption.cause, self._small, column)
            brush.text((right, top + 70), text, INK, self._small, anchor="ra")
        if caption.intent_age_s is not None:
            brush.text((right, top + 94), f"intent {caption.intent_age_s:4.2f} s", MUTED, self._plain, anchor="ra")


def _fit(brush: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """``text`` cut so that it is at most ``room`` pixels wide."""
    if brush.textlength(text, font) <= room:
        return text
    while text and brush.textlength(text + "…", font) > room:
        text = text[:-1]
    return text + "…"
