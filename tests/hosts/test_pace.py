"""When a woken stage may step."""

from syvla.hosts.pace import Pace
from syvla.protocols import OnNew, Periodic

TRIGGER = OnNew(("arm/left", "intent"), 50, at_once=("intent",))


def test_a_step_waits_for_its_turn_and_what_is_read_by_the_way_wakes_nothing() -> None:
    pace = Pace(TRIGGER)
    assert pace.earliest_ns({"arm/left"}) == 0
    assert pace.earliest_ns({"task"}) is None
    pace.begin(7)
    assert pace.earliest_ns({"arm/left", "task"}) == 57


def test_however_many_come_at_once_two_steps_a_period_are_the_most() -> None:
    pace = Pace(TRIGGER)
    began = []
    for now_ns in range(1000):
        earliest_ns = pace.earliest_ns({"intent", "arm/left"})
        assert earliest_ns is not None
        if now_ns >= earliest_ns:
            pace.begin(now_ns)
            began.append(now_ns)
    assert began == [0, *range(1, 1000, 25)]


def test_between_two_steps_is_a_rest_whatever_wakes_the_next() -> None:
    pace = Pace(OnNew(("arm/left", "intent"), 50, at_once=("intent",), rest_ns=10))
    pace.begin(0)
    pace.end(30)
    assert pace.earliest_ns({"intent"}) == 40
    assert pace.earliest_ns({"arm/left"}) == pace.turn_ns == 50
    pace.begin(50)
    pace.end(120)
    assert pace.earliest_ns({"arm/left"}) == pace.turn_ns == 130


def test_a_periodic_stage_is_woken_by_nothing() -> None:
    assert Pace(Periodic(5)).earliest_ns({"arm/left"}) is None
    assert not Pace(Periodic(5)).goes_ahead
    assert Pace(TRIGGER).goes_ahead
