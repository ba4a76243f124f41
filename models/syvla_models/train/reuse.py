"""The intents of a frozen planner: read once, acted on in several steps.

What a frozen planner makes of a sight does not change, and reading it again takes half of a step. So the rows of
``BLOCK`` batches are read first; then they are trained on ``uses`` times, each time in a new order and with new chunks.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch

from syvla_models.train.batch import ActionBatch, Batch
from syvla_models.train.mixture import generator

BLOCK = 16  # batches; many, because what is used again soon teaches little, but they must be read before the first step
_ORDER = 4  # the stream of random numbers; a mixture and its statistics have those below


class IntentBatch(NamedTuple):
    """R intents with K chunks each."""

    states: torch.Tensor  # (R, n, D), what the planner made of each row
    robot: ActionBatch  # its rows are 0..R-1


class Reuse:
    """``uses`` of every intent: a step's batch depends on the step alone, as those that it is made of do."""

    def __init__(self, read: Callable[[Batch], torch.Tensor], uses: int, seed: int) -> None:
        """``read`` gives the query states (B, n, D) of a batch whose robot rows have ``uses`` times K chunks."""
        self._read, self._uses, self._seed = read, uses, seed

    def first(self, step: int) -> int:
        """The first of the batches that ``step`` is made of."""
        return step // (BLOCK * self._uses) * BLOCK

    def __call__(self, batches: Iterable[Batch], step: int) -> Iterator[IntentBatch]:
        """From ``step`` on, made of ``batches`` from ``first(step)`` on."""
        block, done = divmod(step, BLOCK * self._uses)
        source = iter(batches)
        while read := [self._intents(batch) for batch in islice(source, BLOCK)]:
            states = torch.cat([intents.states for intents in read])
            robot = ActionBatch(*map(torch.cat, zip(*(intents.robot for intents in read), strict=True)))
            yield from islice(self._used(states, robot, block), done, None)
            block, done = block + 1, 0

    def _intents(self, batch: Batch) -> IntentBatch:
        if batch.robot is None:
            raise ValueError("a batch without robot rows teaches an expert nothing")
        return IntentBatch(self._read(batch)[batch.robot.rows], batch.robot)

    def _used(self, states: torch.Tensor, robot: ActionBatch, block: int) -> Iterator[IntentBatch]:
        samples = robot.actions.shape[1] // self._uses
        for use in range(self._uses):
            order = torch.from_numpy(generator(self._seed, _ORDER, block, use).permutation(len(states)))
            new = slice(use * samples, (use + 1) * samples)
            for rows in order.to(states.device).tensor_split(BLOCK):
                chunks = (values[rows, new] for values in robot[1:])
                yield IntentBatch(states[rows], ActionBatch(torch.arange(len(rows), device=rows.device), *chunks))
