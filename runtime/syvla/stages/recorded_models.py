"""A planner and an expert that say again what a recording holds, so that their stages stand as they stood."""

from collections.abc import Iterator, Sequence

from syvla.errors import MessageError
from syvla.message import Float64
from syvla.messages import ActionChunk, Intent, Observation, SimTruth, Task, Thought
from syvla.protocols import PartialThought
from syvla.recording.stepped import Stepped


class RecordedPlanner:
    """Thinks what was thought in the step ``showing[0]``."""

    model_id = "recorded"
    reads_truth = False

    def __init__(self, showing: Sequence[Stepped]) -> None:
        self._showing = showing

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """What was sent then."""
        for received in self._showing[0].sent:
            message = received.message
            if isinstance(message, Thought) and not message.complete:
                yield PartialThought(message.text)
            elif isinstance(message, Intent):
                yield message


class RecordedExpert:
    """Acts as it did in the step ``showing[0]``."""

    def __init__(self, showing: Sequence[Stepped]) -> None:
        self._showing = showing

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """The chunk that was sent then; MessageError where the intent was refused."""
        for received in self._showing[0].sent:
            if isinstance(received.message, ActionChunk):
                return received.message
        raise MessageError("nothing was sent in this step")
