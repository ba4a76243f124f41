"""The director's script: what an operator would do, at the right moment, and no more."""

import numpy as np
import pytest

from syvla.apps.director import Director, Episode, Mark
from syvla.message import Message
from syvla.messages import EpisodeControl, Mode, OperatorCommand, Reason, SafetyState, SimReset, SimTruth, Source, Task
from syvla.protocols import Header, Inbox, Received

STEP_NS = 50_000_000
EPISODE = Episode("snack_loading", "id", 3, "first", limit_s=5.0)


class Table:
    """Plays the twin and the robot stage: what they would answer to the director's messages."""

    def __init__(self, director: Director) -> None:
        self.director = director
        self.now_ns = 0
        self.reset_id = -1
        self.success = False
        self.mode = Mode.DISABLED
        self.enables = True
        self.reasons: tuple[Reason, ...] = ()
        self.asked: EpisodeControl | None = None
        self.sent: list[Message] = []

    def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s * 1e9) // STEP_NS):
            self.now_ns += STEP_NS
            latest: dict[str, Message] = {"sim/truth": self.truth(), "safety": self.safety()}
            if self.asked is not None:
                latest["teleop/episode"] = self.asked
            inbox = Inbox({t: Received(Header(t, 0, 0, 0, 0), m, 0, tuple) for t, m in latest.items()}, ())
            for emit in self.director.step(self.now_ns, inbox):
                self.sent.append(emit.message)
                self.react(emit.message)

    def react(self, message: Message) -> None:
        if isinstance(message, SimReset):
            self.reset_id = message.reset_id
            self.success = False
        elif isinstance(message, OperatorCommand) and self.enables:
            self.mode = Mode.ENABLED

    def truth(self) -> SimTruth:
        return SimTruth(
            stamp_ns=self.now_ns,
            reset_id=self.reset_id,
            task="snack_loading",
            instruction="Put it there.",
            progress=1.0 if self.success else 0.5,
            success=self.success,
            names=(),
            pose=np.zeros((0, 7)),
            held_by=(),
            inside=(),
            hands_m=np.zeros((2, 3)),
        )

    def safety(self) -> SafetyState:
        return SafetyState(
            stamp_ns=self.now_ns,
            mode=self.mode,
            source=Source.NONE,
            reasons=self.reasons,
            limited_joints=0,
            clamped_count=0,
            refused_count=0,
            arm_distance_m=0.4,
        )

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.sent if isinstance(message, kind)]


def test_it_lays_the_table_enables_states_the_task_and_marks_a_lasting_success() -> None:
    table = Table(Director([EPISODE]))
    table.run(1.0)
    assert [type(m) for m in table.sent] == [SimReset, OperatorCommand, EpisodeControl, Task]
    assert [m.instruction for m in table.of(Task)] == ["Put it there."]  # type: ignore[attr-defined]
    table.success = True
    table.run(0.3)
    table.success = False  # it slipped out again
    table.run(0.3)
    assert table.director.outcomes == []
    table.success = True
    table.run(0.7)
    (outcome,) = table.director.outcomes
    assert outcome.success
    assert outcome.why == ""
    assert [m.action for m in table.of(EpisodeControl)] == ["start", "success"]  # type: ignore[attr-defined]
    assert table.of(Task)[-1].instruction == ""  # type: ignore[attr-defined]
    table.run(1.0)
    assert table.director.finished


def test_a_hold_ends_the_episode_with_its_cause() -> None:
    table = Table(Director([EPISODE]))
    table.run(1.0)
    table.mode = Mode.HOLD
    table.reasons = (Reason(code="intent_stale", detail="the intent is 1.0 s old", next_step="look"),)
    table.run(1.2)
    (outcome,) = table.director.outcomes
    assert not outcome.success
    assert outcome.why == "intent_stale: the intent is 1.0 s old"


@pytest.mark.parametrize(
    ("mark", "why"),
    [("success", ""), ("failure", "a person called it a failure"), ("discard", "discarded by a person")],
)
def test_a_person_ends_the_episode_and_says_what_it_was(mark: Mark, why: str) -> None:
    table = Table(Director([EPISODE, EPISODE._replace(name="second")]))
    table.director.mark(mark)
    table.run(1.0)
    assert table.director.outcomes == [], "nothing was running yet"
    table.director.mark(mark)
    table.run(0.1)
    (outcome,) = table.director.outcomes
    assert (outcome.success, outcome.why, outcome.ran) == (mark == "success", why, True)
    table.run(2.0)
    assert len(table.director.outcomes) == 1, "the next one goes on"
    assert [m.action for m in table.of(EpisodeControl)] == ["start", mark, "start"]  # type: ignore[attr-defined]
    table.asked = EpisodeControl(action=mark, name="", issued_ns=table.now_ns)  # at the controller
    table.run(0.1)
    assert len(table.director.outcomes) == 2
    table.run(1.0)
    assert table.director.finished


def test_an_episode_ends_at_its_limit_and_the_next_one_begins() -> None:
    table = Table(Director([EPISODE, EPISODE._replace(name="second", seed=4)]))
    table.run(6.5)
    (outcome,) = table.director.outcomes
    assert outcome.why == "not done within 5 s"
    table.run(1.0)
    assert [m.seed for m in table.of(SimReset)] == [3, 4]  # type: ignore[attr-defined]
    assert [m.name for m in table.of(EpisodeControl)] == ["first", "first", "second"]  # type: ignore[attr-defined]


def test_arms_that_do_not_enable_are_asked_again_and_then_given_up_with_the_reason() -> None:
    table = Table(Director([EPISODE]))
    table.enables = False
    table.run(3.0)
    assert [m.action for m in table.of(OperatorCommand)] == ["enable"] * 3  # type: ignore[attr-defined]
    table.mode = Mode.FAULT
    table.reasons = (Reason(code="can", detail="the left arm is silent", next_step="look"),)
    table.run(20.0)
    assert {m.action for m in table.of(OperatorCommand)} == {"enable", "clear_fault"}  # type: ignore[attr-defined]
    assert "the left arm is silent" in table.director.outcomes[0].why


def test_what_is_abandoned_gets_an_outcome_and_nothing_more_is_said() -> None:
    table = Table(Director([EPISODE, EPISODE._replace(name="second")]))
    table.run(1.0)
    said = len(table.sent)
    table.director.abandon("the expert died")
    table.run(3.0)
    assert [(o.episode.name, o.why, o.ran) for o in table.director.outcomes] == [
        ("first", "the expert died", False),
        ("second", "the expert died", False),
    ]
    assert table.director.finished
    assert len(table.sent) == said, "a held robot must not be resumed after a death"


def test_a_held_robot_is_resumed_before_the_next_episode() -> None:
    table = Table(Director([EPISODE]))
    table.mode = Mode.HOLD
    table.run(1.0)
    assert [m.action for m in table.of(OperatorCommand)] == ["resume"]  # type: ignore[attr-defined]


def attended() -> Table:
    table = Table(Director([EPISODE, EPISODE._replace(name="second")], attended=True))
    table.run(2.0)
    assert table.mode is Mode.ENABLED
    table.sent.clear()
    table.enables = False
    return table


def test_where_a_person_attends_a_hold_ends_no_episode_and_nobody_else_clears_it() -> None:
    """The joystick unplugged, the arms held; a second later the script said "resume", and the policy had them again."""
    table = attended()
    table.mode = Mode.HOLD
    table.run(2.5)
    assert not table.director.outcomes
    assert not [message for message in table.sent if isinstance(message, OperatorCommand)]
    table.mode = Mode.ENABLED
    table.success = True
    table.run(0.7)
    assert [outcome.success for outcome in table.director.outcomes] == [True]


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.SOFT_STOP, Mode.FAULT, Mode.OVERRIDE])
def test_where_a_person_attends_the_next_episode_waits_for_the_arms(mode: Mode) -> None:
    table = attended()
    table.success = True
    table.run(0.6)
    table.mode = mode
    table.run(30.0)
    assert len(table.director.outcomes) == 1
    assert not [message for message in table.sent if isinstance(message, OperatorCommand)]
    table.mode = Mode.ENABLED
    table.run(0.2)
    assert [message.name for message in table.sent if isinstance(message, EpisodeControl)][-1] == "second"
