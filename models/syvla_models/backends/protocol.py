"""What every backend of the expert does. No torch here: a robot's computer may have none."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from syvla.message import Float32

Conditioned = Sequence[Any]  # of one intent; only the backend that made it knows what is in it


class ChunkInputs(NamedTuple):
    """What one chunk is denoised from, normalised."""

    state: Float32  # (32,) measured at the chunk's observation
    age_s: float  # how much older the intent's observation is than the chunk's
    noise: Float32  # (H, 32)
    prefix_rows: Float32  # (H, 32), of which the first ``prefix`` come out as they are
    prefix: int


class ExpertBackend(Protocol):
    """The expert's arithmetic, for one intent and one chunk at a time. It keeps nothing between calls."""

    name: str

    def condition(self, query_states: Float32) -> Conditioned:
        """What depends only on an intent's query states (20, D)."""
        ...

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """The denoised chunk (H, 32), normalised; dead slots are 0."""
        ...


class GuidedBackend(ExpertBackend, Protocol):
    """One that can also take a gradient."""

    def guided(self, conditioned: Conditioned, inputs: ChunkInputs, kept: int, overlap: int) -> Float32:
        """A chunk (H, 32) pulled towards the first ``overlap`` rows of ``inputs.prefix_rows``.

        ``kept`` of these stay as they are.
        """
        ...
