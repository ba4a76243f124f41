"""How a new chunk goes on from the one that is being executed: four strategies behind one interface.

``prefix``: the rows that stay are given clean, as in training; the default.
``guided``: the chunk is pulled towards those rows while it is denoised, see :mod:`syvla_models.guidance`.
``ensemble``: temporal ensembling, the average of all chunks that say something about an instant (Zhao et al., Learning
Fine-Grained Bimanual Manipulation with Low-Cost Hardware, 2023).
``replace``: the new chunk, whatever was there before.

Without a chunk that is being executed all of them begin where the arms stand.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast, get_args

import numpy as np

from syvla.config import Continuity
from syvla.errors import ConfigError
from syvla.message import Float32, Float64
from syvla_models.actions import ActionSpace
from syvla_models.backends.protocol import ChunkInputs, Conditioned, ExpertBackend, GuidedBackend

OLDER_COUNT_LESS = 0.01  # m of the weights exp(-m i), i = 0 the oldest: the paper's
MOST_CHUNKS = 32


class Asked(NamedTuple):
    """What a chunk is asked for with. Rows are set-points (n, 14), due ``period_ns`` apart from the observation on."""

    conditioned: Conditioned
    inputs: ChunkInputs  # without a prefix
    measured: Float64  # (14,)
    observation_ns: int
    period_ns: int
    task_id: int
    running: bool  # whether a chunk is being executed
    going: Float64  # what is left of it, at most H rows; where none is, the arms standing
    kept: int  # how many of these stay as they were decided


class Joining(Protocol):
    """A strategy."""

    def rows(self, asked: Asked) -> Float64:
        """A chunk's set-points (H, 14)."""
        ...


class Prefix:
    """The rows that stay are given clean, at most as many as in training."""

    def __init__(self, backend: ExpertBackend, space: ActionSpace, max_prefix: int) -> None:
        self._backend, self._space, self._max_prefix = backend, space, max_prefix

    def rows(self, asked: Asked) -> Float64:
        """A chunk that begins with them."""
        given = asked.going[: min(asked.kept, self._max_prefix)]
        inputs = asked.inputs._replace(prefix_rows=_encoded(self._space, asked, given), prefix=len(given))
        x = self._backend.chunk(asked.conditioned, inputs)
        return self._space.decode(x, asked.measured, given[0] if len(given) else None)


class Replace:
    """Nothing is given, once something is being executed."""

    def __init__(self, backend: ExpertBackend, space: ActionSpace, max_prefix: int) -> None:
        self._first = Prefix(backend, space, max_prefix)

    def rows(self, asked: Asked) -> Float64:
        """A chunk of its own."""
        return self._first.rows(asked._replace(kept=0) if asked.running else asked)


class Ensemble:
    """The average of this chunk and of those before it, at each instant."""

    remembered = ("_task_id", "_before")

    def __init__(self, backend: ExpertBackend, space: ActionSpace, max_prefix: int) -> None:
        self._own = Replace(backend, space, max_prefix)
        self._task_id = -1
        self._before: deque[tuple[int, Float64]] = deque(maxlen=MOST_CHUNKS)  # observation, rows; the oldest first

    def rows(self, asked: Asked) -> Float64:
        """The average chunk."""
        if not asked.running or asked.task_id != self._task_id:
            self._before.clear()
            self._task_id = asked.task_id
        rows = self._own.rows(asked)
        self._before.append((asked.observation_ns, rows))
        due = np.arange(len(rows))
        total, weight = np.zeros_like(rows), np.zeros((len(rows), 1))
        for i, (observation_ns, said) in enumerate(self._before):
            at = due + (asked.observation_ns - observation_ns) / asked.period_ns
            counts = np.where(at <= len(said) - 1, np.exp(-OLDER_COUNT_LESS * i), 0.0)[:, None]
            below = np.clip(at.astype(int), 0, len(said) - 2)
            there = said[below] + np.clip(at - below, 0.0, 1.0)[:, None] * (said[below + 1] - said[below])
            total, weight = total + counts * there, weight + counts
        average: Float64 = total / weight
        return average


class Guided:
    """The chunk is pulled towards what is left of the one being executed."""

    def __init__(self, backend: ExpertBackend, space: ActionSpace, max_prefix: int) -> None:
        if not hasattr(backend, "guided"):
            raise ConfigError(f"continuity 'guided' needs a gradient: backend eager, not {backend.name}")
        self._backend, self._space = cast(GuidedBackend, backend), space
        self._first = Prefix(backend, space, max_prefix)

    def rows(self, asked: Asked) -> Float64:
        """A chunk near it."""
        if not asked.running or not len(asked.going):
            return self._first.rows(asked)
        inputs = asked.inputs._replace(prefix_rows=_encoded(self._space, asked, asked.going))
        x = self._backend.guided(asked.conditioned, inputs, asked.kept, len(asked.going))
        return self._space.decode(x, asked.measured, asked.going[0])


def _encoded(space: ActionSpace, asked: Asked, rows: Float64) -> Float32:
    """``rows`` (n, 14), n <= H, normalised (H, 32); the last one, or where the arms are, is repeated: 0 is a pose."""
    last = rows[-1:] if len(rows) else asked.measured[None]
    missing = len(asked.inputs.noise) - len(rows)
    return space.encode(np.concatenate((rows, np.repeat(last, missing, axis=0))), asked.measured)


_STRATEGIES: dict[str, Callable[[ExpertBackend, ActionSpace, int], Joining]] = {
    "prefix": Prefix,
    "guided": Guided,
    "ensemble": Ensemble,
    "replace": Replace,
}


def joining(name: str, backend: ExpertBackend, space: ActionSpace, max_prefix: int) -> Joining:
    """The strategy called ``name``; ConfigError with the choices otherwise."""
    if name not in _STRATEGIES:
        raise ConfigError(f"continuity must be one of {', '.join(get_args(Continuity))}, not {name!r}")
    return _STRATEGIES[name](backend, space, max_prefix)
