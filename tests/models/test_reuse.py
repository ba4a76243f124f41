"""A frozen planner's intents are read once and used several times, each time with other chunks."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import torch

from syvla_models.train.batch import ActionBatch, Batch
from syvla_models.train.reuse import BLOCK, IntentBatch, Reuse

ROWS, USES, CHUNKS = 3, 4, 2


def batches(first: int) -> Iterator[Batch]:
    """Row r of batch b is 100 b + r in its state, and chunk k of it 1000 k more."""
    for number in range(first, first + 100):
        rows = 100.0 * number + torch.arange(ROWS)
        chunks = rows[:, None] + 1000.0 * torch.arange(USES * CHUNKS)
        robot = ActionBatch(torch.arange(ROWS), chunks[..., None, None], chunks[..., None], chunks, chunks, chunks)
        no = torch.zeros(0)
        yield Batch(rows.long()[:, None], no, no, no, no, no, no, no, robot, ())


class Reader:
    """Stands for the planner, and counts."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.read += 1
        return batch.ids[..., None].float()


def steps(first: int, count: int, read: Reader | None = None, seed: int = 0) -> list[IntentBatch]:
    reuse = Reuse(read or Reader(), USES, seed)
    return list(islice(reuse(batches(reuse.first(first)), first), count))


def test_each_intent_is_read_once_and_each_of_its_chunks_is_used_once() -> None:
    read = Reader()
    block = steps(0, BLOCK * USES, read)
    assert read.read == BLOCK
    used = Counter(float(chunk) for intents in block for chunk in intents.robot.age_s.flatten())
    assert used == Counter(
        100.0 * number + row + 1000.0 * chunk
        for number in range(BLOCK)
        for row in range(ROWS)
        for chunk in range(USES * CHUNKS)
    )
    for intents in block:
        assert intents.robot.actions.shape == (ROWS, CHUNKS, 1, 1)
        assert intents.robot.rows.tolist() == list(range(ROWS))
        assert torch.equal(intents.robot.state[..., 0] % 1000.0, intents.states[:, 0].expand(-1, CHUNKS) % 1000.0)


def test_what_was_read_together_is_not_used_together_again() -> None:
    block = steps(0, BLOCK * USES)
    together = [frozenset(intents.states.flatten().tolist()) for intents in block]
    assert len(set(together)) == len(together)


def test_a_run_that_goes_on_gets_what_it_would_have_got() -> None:
    for first in (1, BLOCK * USES - 1, BLOCK * USES, BLOCK * USES + 5):
        whole, rest = steps(0, first + 8)[first:], steps(first, 8)
        for was, now in zip(whole, rest, strict=True):
            assert torch.equal(was.states, now.states)
            assert torch.equal(was.robot.age_s, now.robot.age_s)
    assert not torch.equal(steps(0, 1)[0].states, steps(0, 1, seed=1)[0].states)
