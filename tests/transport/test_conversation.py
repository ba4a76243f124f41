"""What crosses a link and when, in simulated time: nothing old waits, and at most one of each topic is on its way."""

import itertools

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syvla.errors import MessageError
from syvla.protocols import Header
from syvla.transport.conversation import (
    MAX_NOTE,
    Conversation,
    decode_note,
    encode_note,
)

EPOCH = 7


def header(sequence: int, topic: str = "observation", epoch: int = EPOCH) -> Header:
    return Header(topic, epoch, sequence, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    delays=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    period=st.integers(1, 60),
    pause=st.integers(1, 20),
)
def test_what_is_taken_is_at_most_one_round_trip_older_than_the_newest(
    delays: list[int], period: int, pause: int
) -> None:
    """A robot publishes every ``period`` [ms], the link takes ever another delay, the planner looks every ``pause``."""
    robot, planner = Conversation(1, 0, ()), Conversation(1, EPOCH, ("observation",))
    delay = itertools.cycle(delays)
    up: list[tuple[int, int, int]] = []  # arrival, sequence, when it left
    down: list[tuple[int, bytes]] = []  # arrival, note
    newest, published_at, last_taken_at, taken = -1, {}, 0, 0
    for now in range(3000):
        if now % period == 0:
            newest += 1
            published_at[newest] = now
        while down and down[0][0] <= now:
            robot.hear(decode_note(down.pop(0)[1]))
        if robot.has_room("observation", newest):
            robot.sent("observation", newest)
            assert now - published_at[newest] < period, "it was the newest when it left"
            assert not up, "one is on its way already"
            up.append((now + next(delay), newest, now))
        if now % pause == 0:
            while up and up[0][0] <= now:
                arrival, sequence, left = up.pop(0)
                assert planner.take(header(sequence))
                assert now - published_at[sequence] <= (arrival - left) + pause + period
                trip = now - last_taken_at  # from one to the next: a note down, an observation up
                assert trip <= 2 * max(delays) + 2 * pause + period + 1
                last_taken_at, taken = now, taken + 1
                down.append((now + next(delay), encode_note(1, 1, planner.taken)))
    assert taken >= 2, "it flows"


def test_a_message_that_came_before_or_in_a_past_session_is_not_taken() -> None:
    conversation = Conversation(1, EPOCH, ("observation",))
    assert conversation.take(header(3))
    assert not conversation.take(header(3))
    assert not conversation.take(header(2))
    assert not conversation.take(header(9, epoch=EPOCH + 1))
    assert not conversation.take(header(9, epoch=EPOCH - 1))
    assert conversation.take(header(4))
    assert conversation.taken == {"observation": 4}


def test_what_may_not_come_this_way_is_refused_with_what_may() -> None:
    conversation = Conversation(1, EPOCH, ("observation", "task"))
    with pytest.raises(MessageError, match="operator: may not come this way; there are observation, task"):
        conversation.take(header(0, "operator"))


def test_taking_what_was_never_sent_is_a_lie() -> None:
    conversation = Conversation(1, EPOCH, ())
    conversation.sent("observation", 4)
    with pytest.raises(MessageError, match="observation 5 was never sent"):
        conversation.hear(decode_note(encode_note(1, 1, {"observation": 5})))
    assert not conversation.has_room("observation", 6)
    conversation.hear(decode_note(encode_note(1, 1, {"observation": 4})))
    assert conversation.has_room("observation", 6)
    assert not conversation.has_room("observation", 4)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 8000,
        bytes(MAX_NOTE + 1),
        msgpack.packb([2, 1, 1, []]),
        msgpack.packb([1, -1, 1, []]),
        msgpack.packb([1, 1, 2**63, []]),
        msgpack.packb([1, 1, 1, [["observation", -1]]]),
        msgpack.packb([1, 1, 1, [["x" * 200, 1]]]),
        msgpack.packb([1, 1, 1, [["x", 1]] * 65]),
        msgpack.packb([1, 1, 1, [], 0]),
    ],
)
def test_a_hostile_note_is_refused(frame: bytes) -> None:
    with pytest.raises(MessageError, match="note"):
        decode_note(frame)
