"""The mode machine: every mode meets every event, and every reason can be said."""

import itertools

import pytest

from syvla.control.mode import CAUSES, WARNINGS, Event, next_mode, reason
from syvla.messages import Mode

STAY = "-"
#                     ENABLED    OVERRIDE    POLICY     HOLD    SOFT_STOP    FAULT    CLEAR_FAULT RESUME
TABLE = {
    Mode.DISABLED: ("enabled", STAY, STAY, STAY, STAY, STAY, STAY, STAY),
    Mode.ENABLED: (STAY, "override", STAY, "hold", "soft_stop", "fault", STAY, STAY),
    Mode.OVERRIDE: (STAY, STAY, "enabled", "hold", "soft_stop", "fault", STAY, STAY),
    Mode.HOLD: (STAY, STAY, STAY, STAY, "soft_stop", "fault", STAY, "enabled"),
    Mode.SOFT_STOP: (STAY, STAY, STAY, STAY, STAY, "fault", STAY, "enabled"),
    Mode.FAULT: (STAY, STAY, STAY, STAY, STAY, STAY, "hold", STAY),
}


@pytest.mark.parametrize(("mode", "event"), list(itertools.product(Mode, Event)))
def test_every_mode_meets_every_event(mode: Mode, event: Event) -> None:
    expected = TABLE[mode][list(Event).index(event)]
    assert next_mode(mode, event) is (mode if expected == STAY else Mode(expected))


def test_nothing_leads_back_to_disabled_because_that_drops_the_arms() -> None:
    assert not [
        (m, e) for m, e in itertools.product(Mode, Event) if m is not Mode.DISABLED and next_mode(m, e) is Mode.DISABLED
    ]


def test_every_reason_says_what_to_do_next() -> None:
    assert not CAUSES.keys() & WARNINGS.keys()
    for code in (*CAUSES, *WARNINGS):
        said = reason(code, "because")
        assert said.code == code
        assert said.next_step.endswith(".")
    with pytest.raises(KeyError):
        reason("no_such_code", "")


def test_causes_only_ever_stop() -> None:
    assert {cause.event for cause in CAUSES.values()} == {Event.HOLD, Event.SOFT_STOP, Event.FAULT}
