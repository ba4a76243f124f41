"""The panel says what an operator must see, in words."""

import numpy as np
from rich.console import Console

from syvla.apps.panel import render
from syvla.config import IntentPolicy
from syvla.message import Message
from syvla.messages import Intent, Mode, Reason, SafetyState, Source, Splice, Task, TeleopCommand, Thought
from syvla.protocols import Header, Received

SECOND = 1_000_000_000


def shown(*messages: tuple[str, Message], now_ns: int = 10 * SECOND, notices: tuple[str, ...] = ()) -> str:
    latest = {topic: Received(Header(topic, 0, 0, 0, 0), message, 0, tuple) for topic, message in messages}
    console = Console(width=120, force_terminal=False, record=True, file=None)
    with console.capture() as captured:
        console.print(render(latest, now_ns, "title", IntentPolicy(), (30e-6, 90e-6), notices))
    return captured.get()


def safety(mode: Mode, *reasons: Reason) -> SafetyState:
    return SafetyState(
        stamp_ns=10 * SECOND,
        mode=mode,
        source=Source.HOLD,
        reasons=reasons,
        limited_joints=1 << 12 | 1,
        clamped_count=3,
        refused_count=2,
        arm_distance_m=0.31,
    )


STALE = Reason(code="intent_stale", detail="the intent is 1.2 s old", next_step="check the planner")


def test_before_anything_came_it_says_so() -> None:
    assert "waiting for the robot stage" in shown()


def test_a_hold_shows_its_cause_and_the_next_step_and_a_warning_does_not_claim_to_hold() -> None:
    text = shown(("safety", safety(Mode.HOLD, STALE)))
    assert "HOLD" in text
    assert "HELD intent_stale: the intent is 1.2 s old -> check the planner" in text
    assert "limiting J1 J13" in text
    assert "clamped 3  refused 2" in text
    assert "31 cm apart" in text
    assert "HELD" not in shown(("safety", safety(Mode.ENABLED, STALE)))


def test_a_robot_stage_that_went_silent_is_not_shown_as_enabled() -> None:
    text = shown(("safety", safety(Mode.ENABLED)), now_ns=13 * SECOND)
    assert "no word from the robot stage for 3.0 s" in text
    assert "ENABLED" not in text


def test_instruction_thought_age_latency_and_delay() -> None:
    intent = Intent(
        intent_id=4,
        task_id=1,
        observation_ns=9_400_000_000,
        chain_of_thought="",
        feature_query_states=np.zeros((20, 8), np.float16),
        model_id="m",
    )
    splice = Splice(
        splice_id=1,
        chunk_id=7,
        intent_id=4,
        replaced_chunk_id=6,
        observation_ns=9 * SECOND,
        spliced_ns=9 * SECOND + 41_000_000,
        inference_delay_steps=2,
        jump_rad=0.001,
    )
    thought = Thought(task_id=1, intent_id=5, observation_ns=0, text="First the red cube", complete=False)
    text = shown(
        ("task", Task(task_id=1, instruction="Put it in the tray.", issued_ns=0)),
        ("thought", thought),
        ("intent", intent),
        ("splice", splice),
        notices=("planner was killed by SIGKILL",),
    )
    assert "Put it in the tray." in text
    assert "First the red cube ▌" in text
    assert "600 ms of 1000 ms" in text
    assert "41 ms   inference delay 2 steps" in text
    assert "planner was killed by SIGKILL" in text


def teleop(deadman: bool, request: str = "none", setting: str = "left hand, axes of the base, slow") -> TeleopCommand:
    return TeleopCommand(
        sampled_ns=10 * SECOND,
        deadman=deadman,
        joint_velocity_rad_s=np.zeros(12),
        gripper_velocity_m_s=np.zeros(2),
        mode_request=request,  # type: ignore[arg-type]
        setting=setting,
    )


def test_the_joystick_says_who_has_the_arms_and_what_to_press() -> None:
    assert "joystick" not in shown(("safety", safety(Mode.ENABLED)))
    for mode, deadman, words in (
        (Mode.ENABLED, False, "hold LB to take over"),
        (Mode.OVERRIDE, True, "moves the arms"),
        (Mode.OVERRIDE, False, "START gives back"),
        (Mode.HOLD, False, "BACK + START clears the hold"),
    ):
        text = shown(("safety", safety(mode)), ("teleop", teleop(deadman)))
        assert words in text
        assert "left hand, axes of the base, slow" in text
    assert "not there" in shown(("safety", safety(Mode.ENABLED)), ("teleop", teleop(False, "lost")))
    assert "not there" in shown(("safety", safety(Mode.ENABLED)), ("teleop", teleop(False)), now_ns=12 * SECOND)
