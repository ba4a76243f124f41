"""A message that exists is well formed."""

import numpy as np
import pytest

from syvla.errors import MessageError
from syvla.messages import ActionChunk, ArmState, CameraFrame, Intent, Task


def arm_state(**changes: object) -> ArmState:
    fields: dict[str, object] = {
        "arm": "left",
        "measured_ns": 1,
        "position_rad": np.zeros(6),
        "velocity_rad_s": np.zeros(6),
        "effort_nm": np.zeros(6),
        "gripper_width_m": 0.0,
        "enabled": True,
    }
    return ArmState(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0.0] * 6, "must be an array, not list"),
        (np.zeros(5), r"must have shape \(6\), not \(5,\)"),
        (np.zeros((6, 1)), "must have 1 dimensions"),
        (np.zeros(6, dtype=np.float32), "must have dtype float64"),
        (np.array([0, 0, np.nan, 0, 0, 0]), "must be finite"),
        (np.array([0, 0, 0, 0, 0, -np.inf]), "must be finite"),
    ],
)
def test_a_wrong_array_is_refused_by_field(value: object, expected: str) -> None:
    with pytest.raises(MessageError, match=rf"ArmState\.position_rad {expected}"):
        arm_state(position_rad=value)


def test_arrays_are_read_only_and_the_givers_stays_writable() -> None:
    mine = np.zeros(6)
    state = arm_state(position_rad=mine)
    with pytest.raises(ValueError, match="read-only"):
        state.position_rad[0] = 1.0
    mine[0] = 2.0


def test_text_is_bounded() -> None:
    with pytest.raises(MessageError, match=r"Task\.instruction must have at most 1024"):
        Task(task_id=1, instruction="x" * 1025, issued_ns=0)


def test_an_intent_has_twenty_query_states() -> None:
    with pytest.raises(MessageError, match=r"Intent\.feature_query_states must have shape \(20, 1..8192\)"):
        Intent(
            intent_id=1,
            task_id=1,
            observation_ns=0,
            chain_of_thought="",
            feature_query_states=np.zeros((19, 32), np.float16),
            model_id="m",
        )


def chunk(rows: int, gripper_rows: int, period_ns: int = 33_333_333, value: float = 0.0) -> ActionChunk:
    return ActionChunk(
        task_id=1,
        chunk_id=1,
        intent_id=1,
        intent_observation_ns=0,
        observation_ns=0,
        period_ns=period_ns,
        position_rad=np.full((rows, 12), value, np.float32),
        gripper_width_m=np.zeros((gripper_rows, 2), np.float32),
        inference_delay_steps=0,
    )


def test_a_chunk_is_consistent_and_its_nan_is_left_to_the_gate() -> None:
    assert np.isnan(chunk(50, 50, value=np.nan).position_rad).all()
    with pytest.raises(MessageError, match=r"gripper_width_m must have as many rows as position_rad \(50\), not 49"):
        chunk(50, 49)
    with pytest.raises(MessageError, match=r"period_ns must be 1e6\.\.1e9"):
        chunk(50, 50, period_ns=0)


def test_depth_is_optional() -> None:
    frame = CameraFrame(camera="cam_high", frame_id=0, exposure_ns=0, rgb=np.zeros((2, 2, 3), np.uint8))
    assert frame.depth_mm is None
