"""The steps of one stage out of a recording: what each was given and what it sent, as its host logged them."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from syvla.errors import MessageError, RecordingError
from syvla.message import Int64, Message
from syvla.messages import CompressedFrame, StageMemory, Steps
from syvla.protocols import Received
from syvla.recording.images import decompress
from syvla.recording.mcap_read import RawRecord, Recording
from syvla.topics import REPLAYED, TOPICS
from syvla.transport.codec import decode_body, decode_header, unpack_record

LATE_NS = 250_000_000  # by how much two messages of one process may come in another order than they were sent
KEPT_NS = 2_000_000_000  # what is older than the newest step by so much is no part of a later one
LONGEST_STEP_NS = 30_000_000_000  # nor what is older than this, if no step is told of

Key = tuple[str, int, int]  # topic, epoch, sequence


class Memory(NamedTuple):
    """What the stage remembered before a step, and the newest messages that it had read."""

    data: memoryview
    latest: dict[str, Received]


class Stepped(NamedTuple):
    """One step. ``lacking`` names messages that it was given or sent and that the recording does not hold."""

    number: int
    epoch: int  # of the process
    now_ns: int
    memory: Memory | None
    fresh: list[Received]
    sent: list[Received]
    lacking: list[str]
    stopping: bool = False  # whether the stage had been asked to stop


def received(raw: RawRecord) -> Received:
    """A record as a host received it: the pixels of an image again, and its own bytes."""
    frames = unpack_record(raw.data)
    header, _ = decode_header(frames[0])
    message: Message = decode_body(raw.kind, frames[1:])
    if isinstance(message, CompressedFrame):
        message = decompress(message)
    return Received(header, message, raw.log_time_ns, lambda: frames[1:])


def steps_of(recording: Recording, stage: str, reads: Sequence[str], writes: Sequence[str]) -> Iterator[Stepped]:
    """The steps of ``stage`` in order, from the first that was told of; a restart begins at 0 in another epoch.

    Memory stays bounded: nothing is kept for longer than a step and what leads to it.

    Raises:
        RecordingError: the stage is not one whose steps are logged, or the recording is damaged.
    """
    if stage not in REPLAYED:
        raise RecordingError(f"no steps are recorded of {stage!r}; there are those of {', '.join(REPLAYED)}")
    if next(recording.records({f"steps/{stage}"}), None) is None:
        return iter(())
    return _Reader(recording, stage, (*reads, *writes)).run()


class _Reader:
    def __init__(self, recording: Recording, stage: str, topics: Sequence[str]) -> None:
        self._path = recording.path
        self._log_topics = f"steps/{stage}", f"memory/{stage}"
        recorded = {topic for topic in topics if TOPICS[topic].recorded}
        self._records = recording.records({*recorded, *self._log_topics})
        self._known: dict[Key, Received] = {}
        self._newest: dict[str, Key] = {}
        self._memories: dict[tuple[int, int], StageMemory] = {}  # by epoch and number of the step after it
        self._waiting: deque[tuple[int, int, Steps]] = deque()  # log time, epoch
        self._forgot_ns = 0

    def run(self) -> Iterator[Stepped]:
        for raw in self._records:
            try:
                one = received(raw)
            except (MessageError, RecordingError) as error:
                raise RecordingError(f"{self._path}: message {raw.sequence} of {raw.topic}: {error}") from error
            epoch = one.header.epoch
            if isinstance(one.message, Steps):
                self._waiting.append((raw.log_time_ns, epoch, one.message))
            elif isinstance(one.message, StageMemory):
                self._memories[epoch, one.message.next_step] = one.message
            else:
                key = (raw.topic, epoch, one.header.sequence)
                self._known[key] = one
                self._newest[raw.topic] = key
            if raw.log_time_ns - self._forgot_ns > 2 * LONGEST_STEP_NS:
                self._forget(raw.log_time_ns - LONGEST_STEP_NS)
            while self._waiting and raw.log_time_ns - self._waiting[0][0] > LATE_NS:
                yield from self._tell(*self._waiting.popleft()[1:])
        while self._waiting:
            yield from self._tell(*self._waiting.popleft()[1:])

    def _tell(self, epoch: int, told: Steps) -> Iterator[Stepped]:
        at = 0
        for number, (now_ns, fresh, sent, stopping) in enumerate(told.steps.tolist(), told.first_step):
            if min(fresh, sent) < 0 or at + fresh + sent > len(told.messages):
                raise RecordingError(f"{self._path}: step {number} names more messages than there are")
            lacking: list[str] = []
            given = self._found(told, told.messages[at : at + fresh], epoch, lacking)
            out = self._found(told, told.messages[at + fresh : at + fresh + sent], epoch, lacking)
            at += fresh + sent
            memory = self._memories.pop((epoch, number), None)
            remembered = None if memory is None else self._memory(memory, epoch)
            yield Stepped(number, epoch, now_ns, remembered, given, out, lacking, stopping != 0)
        self._forget(told.steps[-1, 0].item() - KEPT_NS)

    def _found(self, told: Steps | StageMemory, rows: Int64, epoch: int, lacking: list[str]) -> list[Received]:
        found = []
        for index, of_epoch, sequence in rows.tolist():
            if not 0 <= index < len(told.topics):
                raise RecordingError(f"{self._path}: a step names topic {index} of {len(told.topics)}")
            topic = told.topics[index]
            one = self._known.get((topic, epoch if of_epoch < 0 else of_epoch, sequence))
            if one is None:
                lacking.append(f"{topic} {sequence}")
            else:
                found.append(one)
        return found

    def _memory(self, memory: StageMemory, epoch: int) -> Memory:
        latest = self._found(memory, memory.latest, epoch, [])
        return Memory(memory.data.data, {one.header.topic: one for one in latest})

    def _forget(self, before_ns: int) -> None:
        self._forgot_ns = max(before_ns, self._forgot_ns)
        newest = set(self._newest.values())
        old = [key for key, one in self._known.items() if one.received_ns < before_ns and key not in newest]
        for key in old:
            del self._known[key]
        for numbered in [each for each, memory in self._memories.items() if memory.stamp_ns < before_ns]:
            del self._memories[numbered]
