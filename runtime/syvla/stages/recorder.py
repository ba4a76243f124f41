"""The recorder: every message of an episode into one MCAP file. It is on nobody's path.

An ``EpisodeControl``, of the operator or of whoever has the controller, opens a file (start) and closes it (success,
failure, discard); the task and the table in force are written at its head. A discarded episode keeps its data as
``<name>.discarded.mcap``. A name that is taken gets ``-2``, ``-3``, ... When a write fails the episode is closed and
marked ``.incomplete``, the error is shown, and the stage lives on.

Between two episodes the newest minute is kept in memory. When something other than a person's wish holds the arms then,
it is saved as ``fault-<cause>.mcap``, with the seconds that follow.
"""

import datetime
import itertools
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from syvla.clock import NS_PER_S, to_ns
from syvla.config import RunConfig
from syvla.errors import RecordingError
from syvla.message import Message
from syvla.messages import CameraFrame, CompressedFrame, EpisodeControl, Mode, RecordingState, SafetyState
from syvla.protocols import Emit, Header, Inbox, OnNew, Received
from syvla.recording import images
from syvla.recording.mcap_log import McapLog, checked_name, names_taken
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, repair_all
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body

BATCH_NS = 20_000_000  # a step takes what came in this time, so that its fixed cost is shared
STATE_PERIOD_NS = 1_000_000_000
CARRIED_IN = ("task", "sim/reset")  # said before the episode began, and in force during it
MOVING = (Mode.ENABLED, Mode.OVERRIDE)
# A person's wish, or arms that were enabled and given nothing to do: nothing is to be explained.
WISHES = ("stopping", "operator_hold", "operator_soft_stop", "teleop_hold", "chunk_missing")
AFTER_FAULT_NS = 5_000_000_000
MOST_FAULTS = 50  # recordings of them in one folder: a robot that trips all day must not fill the disk
CATCH_UP_BYTES = 2 * 2**20  # of what is kept are written in a step, so that a minute of it delays nobody
_OUTCOMES = {"success": "success", "failure": "failure", "discard": "discarded"}
_log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    """One message as it will be written."""

    header: Header
    kind: type[Message]
    frames: Sequence[bytes | memoryview]
    log_time_ns: int

    @property
    def size(self) -> int:
        """Bytes, about."""
        return 200 + sum(len(frame) for frame in self.frames)


class RecorderStage:
    """Records into ``folder``, which must exist; ``run`` and further ``facts`` go into every file.

    An episode that another process left there without an end is repaired meanwhile.
    """

    name = "recorder"
    reads = tuple(row.name for row in TOPICS.values() if row.recorded)
    writes = ("recording",)
    trigger = OnNew(reads, BATCH_NS)
    lossless = True

    def __init__(self, folder: Path, run: RunConfig, facts: Mapping[str, str] | None = None) -> None:
        if not folder.is_dir():
            raise RecordingError(f"{folder}: not a folder to record into")
        self._folder = folder
        self._config = run.rig.recorder
        images_are = f"jpeg {self._config.jpeg_quality}" if self._config.image_format == "jpeg" else "raw"
        self._facts = {
            "rig": run.rig.name,
            "policy": run.policy_name,
            "software": f"syvla {version('syvla')}",
            "images": images_are,
            **(facts or {}),
        }
        self._repair: threading.Thread | None = None
        self._attachments = {CONFIG_ATTACHMENT: msgspec.json.format(msgspec.json.encode(run)).decode()}
        self._carried: dict[str, Received] = {}
        self._kept: deque[_Kept] = deque()  # without an episode the newest; in one what is yet to be written
        self._kept_bytes = 0
        self._came_bytes = 0  # in this step
        self._ring_ns = to_ns(self._config.ring_s)
        self._wall_offset_ns = run.wall_offset_ns
        self._mode: Mode | None = None
        self._fault_until_ns: int | None = None  # a recording that a fault began ends then
        self._log: McapLog | None = None
        self._episode = ""
        self._last_path = ""
        self._outcome = ""
        self._error = ""
        self.turns = 0  # how often somebody wished to begin or end an episode, and was heeded or not
        self._named = False  # whether the episode was given its name by whoever began it
        self._shown: tuple[str, ...] | None = None
        self._shown_ns = 0
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Write what came, in the order it came; say what is being done when that changes."""
        if self._repair is None:  # beside: an hour of raw images takes its time, and a respawned recorder has none
            self._repair = threading.Thread(target=repair_all, args=(self._folder,), name="repair", daemon=True)
            self._repair.start()
        for received in inbox.fresh:
            topic = received.header.topic
            if topic in ("episode", "teleop/episode"):
                self._control(received, now_ns)
                continue
            if topic in CARRIED_IN:
                self._carried[topic] = received
            self._take(received, received.received_ns)
            if isinstance(received.message, SafetyState):
                self._watch(received.message, received.received_ns)
        self._catch_up(CATCH_UP_BYTES + self._came_bytes)
        self._came_bytes = 0
        if self._fault_until_ns is not None and now_ns >= self._fault_until_ns:
            self._finish("fault", now_ns)
        if self._log is not None:
            try:
                self._log.flush()
            except RecordingError as error:
                self._fail(self._log, error)
        if self._stopping:
            self._finish("interrupted", now_ns)
        return self._state(now_ns)

    def request_stop(self) -> None:
        """Close the episode as interrupted in the next step."""
        self._stopping = True

    @property
    def episode(self) -> str:
        """The name of the one that is being recorded, "" if none is; what saves a fault is no episode."""
        return "" if self._fault_until_ns is not None else self._episode

    @property
    def outcome(self) -> str:
        """Of the last one that was closed, as in :class:`RecordingState`."""
        return self._outcome

    @property
    def words(self) -> str:
        """What is being recorded, or what came of the last one."""
        if self._log is not None:
            return f"recording {self._log.path}"
        last = f"; the last one is {self._outcome}: {self._last_path}" if self._last_path else ""
        return "nothing is being recorded" + last + (f"; {self._error}" if self._error else "")

    @property
    def stopped(self) -> bool:
        """Whether the file is closed."""
        return self._stopping and self._log is None

    def close(self) -> None:
        """Close the episode that is still open as interrupted."""
        self._finish("interrupted", None)

    # ------------------------------------------------------------ episodes

    def _control(self, received: Received, now_ns: int) -> None:
        control = received.message
        assert isinstance(control, EpisodeControl)  # noqa: S101 - the topic's type
        self._obey(control, received, now_ns)
        self.turns += 1

    def _obey(self, control: EpisodeControl, received: Received, now_ns: int) -> None:
        if control.action == "start" and not control.name and self.episode and self._named:
            _log.warning("episode %r is being recorded already; start without a name ignored", self._episode)
        elif control.action == "start":
            self._finish("interrupted" if self._fault_until_ns is None else "fault", now_ns)
            self._clear()
            self._named = control.name != ""
            self._start(control.name or self._name_of(received.received_ns), received)
        elif not self.episode or control.name not in ("", self._episode):
            named = f" {control.name!r}" if control.name else ""
            _log.warning("no episode%s is being recorded; %s ignored", named, control.action)
        else:
            self._take(received, received.received_ns)
            self._finish(_OUTCOMES[control.action], received.received_ns)

    def _watch(self, state: SafetyState, now_ns: int) -> None:
        """Save what was kept when something holds the arms that nobody asked to hold."""
        before, self._mode = self._mode, state.mode
        cause = state.reasons[0].code if state.reasons else ""
        held = before in MOVING and state.mode not in MOVING and cause not in WISHES
        if not held or self._log is not None or self._ring_ns == 0:
            return
        if len({path.name.split(".")[0] for path in self._folder.glob("fault-*.mcap*")}) >= MOST_FAULTS:
            _log.warning("%s held the arms between episodes; %d faults are saved already", cause, MOST_FAULTS)
            return
        _log.warning("%s held the arms while no episode was recorded: what led to it is saved", cause)
        begins_ns = self._kept[0].log_time_ns
        if self._open(f"fault-{cause}"):
            self._fault_until_ns = now_ns + AFTER_FAULT_NS
            for carried in self._carried.values():
                if carried.received_ns < begins_ns:  # said before what is kept begins, and in force in it
                    self._kept.appendleft(_Kept(carried.header, type(carried.message), carried.wire(), begins_ns))
                    self._kept_bytes += self._kept[0].size

    def _start(self, name: str, received: Received) -> None:
        if not self._open(name):
            return
        for carried in self._carried.values():
            self._take(carried, received.received_ns)
        self._take(received, received.received_ns)

    def _name_of(self, now_ns: int) -> str:
        """The local date and time, for an episode that nobody named."""
        wall = datetime.datetime.fromtimestamp((now_ns + self._wall_offset_ns) / NS_PER_S)
        return wall.astimezone().strftime("%Y%m%d-%H%M%S")

    def _open(self, name: str) -> bool:
        self._error = ""
        try:
            free = _free_name(self._folder, name)
            facts = {**self._facts, "episode": name}
            # A camera's noise does not compress, and trying took a fifth of a core.
            compressed = self._config.image_format == "jpeg"
            path, chunk_bytes = self._folder / f"{free}.mcap", self._config.chunk_bytes
            self._log = McapLog(path, facts, self._attachments, chunk_bytes, compressed)
        except RecordingError as error:
            self._outcome = "write_error"
            self._report(error)
            return False
        self._episode = name
        return True

    def _finish(self, outcome: str, ended_ns: int | None) -> None:
        self._catch_up(None)
        log = self._log
        if log is None:
            return
        facts = {"outcome": outcome, "messages": str(log.messages)}
        if ended_ns is not None:
            facts["ended_ns"] = str(ended_ns)
        try:
            path = log.close(facts, ".discarded" if outcome == "discarded" else "")
        except RecordingError as error:
            self._fail(log, error)
            return
        self._closed(path, outcome)

    def _fail(self, log: McapLog, error: RecordingError) -> None:
        """Disk full, or worse: keep what is whole, mark it, say so once, and wait for the next episode."""
        self._report(error)
        try:
            path = log.abandon()
        except RecordingError as second:
            self._report(second)
            path = log.path
        self._closed(path, "write_error")

    def _closed(self, path: Path, outcome: str) -> None:
        self._log = None
        self._fault_until_ns = None
        self._clear()
        self._episode = ""
        self._last_path = str(path)
        self._outcome = outcome

    # ------------------------------------------------------------ messages

    def _take(self, received: Received, log_time_ns: int) -> None:
        """Keep a message: until it is written, or too old."""
        if self._log is None and self._ring_ns == 0:
            return
        message = received.message
        if isinstance(message, CameraFrame) and self._config.image_format == "jpeg":
            small = images.compress(message, self._config.jpeg_quality)
            kept = _Kept(received.header, CompressedFrame, encode_body(small), log_time_ns)
        else:
            kept = _Kept(received.header, type(message), received.wire(), log_time_ns)
        self._kept.append(kept)
        self._kept_bytes += kept.size
        self._came_bytes += kept.size
        if self._log is None:
            oldest_ns = log_time_ns - self._ring_ns
            while self._kept and (self._kept[0].log_time_ns < oldest_ns or self._kept_bytes > self._config.ring_bytes):
                self._kept_bytes -= self._kept.popleft().size

    def _clear(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    def _catch_up(self, most_bytes: int | None) -> None:
        """Write what is kept, oldest first, up to ``most_bytes`` of it; None: all."""
        log, written = self._log, 0
        while log is not None and self._kept and (most_bytes is None or written < most_bytes):
            kept = self._kept.popleft()
            self._kept_bytes -= kept.size
            written += kept.size
            try:
                log.write(kept.header, kept.kind, kept.frames, kept.log_time_ns)
            except RecordingError as error:
                self._fail(log, error)
                return

    # ------------------------------------------------------------ telling

    def _report(self, error: RecordingError) -> None:
        self._error = str(error)[:1024]
        _log.error("recording stopped: %s", error)

    def _state(self, now_ns: int) -> Iterable[Emit]:
        log = self._log
        path = str(log.path) if log is not None else self._last_path
        shown = (self._episode, path, self._outcome, self._error)
        if shown == self._shown and now_ns - self._shown_ns < STATE_PERIOD_NS:
            return ()
        self._shown, self._shown_ns = shown, now_ns
        state = RecordingState(
            stamp_ns=now_ns,
            episode=self._episode,
            path=path,
            messages=0 if log is None else log.messages,
            written_bytes=0 if log is None else log.written_bytes,
            outcome=self._outcome,
            error=self._error,
        )
        return (Emit("recording", state),)


def _free_name(folder: Path, name: str) -> str:
    """``name``, or with the first of ``-2``, ``-3``, ... that is not taken."""
    names = itertools.chain((checked_name(name),), (f"{name}-{i}" for i in itertools.count(2)))
    return next(free for free in names if not names_taken(folder, free))
