"""The timeline: rows at their due times, splices without a jump, and what is dropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syvla.config import ArmConfig, ControlConfig
from syvla.control.timeline import MAX_LAYERS, Timeline
from syvla.message import Float64
from syvla.messages import ActionChunk, Source

PERIOD = 33_333_333
MS = 1_000_000
STANDING = [0.0] * 14
ARMS = (ArmConfig(), ArmConfig())


def chunk(chunk_id: int, observation_ns: int, rows: Float64, intent_id: int = 7) -> ActionChunk:
    return ActionChunk(
        task_id=1,
        chunk_id=chunk_id,
        intent_id=intent_id,
        intent_observation_ns=observation_ns - 5,
        observation_ns=observation_ns,
        period_ns=PERIOD,
        position_rad=rows[:, :12].astype(np.float32),
        gripper_width_m=rows[:, 12:].astype(np.float32),
        inference_delay_steps=0,
    )


def wave(horizon: int, phase: float, size: float = 0.3) -> Float64:
    k = np.arange(horizon)[:, None]
    return size * np.sin(0.3 * k + phase + np.arange(14) / 5)


def sampled(timeline: Timeline, now_ns: int) -> list[float]:
    sample = timeline.sample(now_ns)
    assert sample is not None
    return sample.set_point


def test_row_k_is_reached_when_it_is_due() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    rows = wave(20, 0.0)
    timeline.splice(chunk(1, 1000, rows), 1000, STANDING)
    for k in range(3, 20):  # after the fade of 0.1 s
        sample = timeline.sample(1000 + k * PERIOD)
        assert sample is not None
        assert sample.set_point == pytest.approx(rows[k], abs=1e-6)
        assert sample.row == k


def test_between_rows_joints_are_smooth_and_grippers_straight() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    rows = np.tile((np.arange(20.0)[:, None] / 10) ** 2, (1, 14))
    timeline.splice(chunk(1, 0, rows), 0, STANDING)
    middle = sampled(timeline, 10 * PERIOD + PERIOD // 2)
    assert middle[:12] == pytest.approx([1.05**2] * 12, abs=1e-6)  # a parabola is reproduced exactly
    assert middle[12:] == pytest.approx([(1.0 + 1.1**2) / 2] * 2, abs=1e-6)


def test_each_actuator_is_sent_a_row_earlier_than_it_is_due_by_its_own_delay() -> None:
    left = ArmConfig(actuation_delay_s=0.020, gripper_delay_s=0.060)
    right = ArmConfig(actuation_delay_s=0.030)
    timeline = Timeline(ControlConfig(), (left, right))
    rows = wave(20, 0.0)
    timeline.splice(chunk(1, 0, rows), 0, STANDING)
    for columns, delay_ns in ((slice(0, 6), 20 * MS), (slice(6, 12), 30 * MS), ([12], 60 * MS), ([13], 0)):
        sent = np.array(sampled(timeline, 9 * PERIOD - delay_ns))
        assert sent[columns] == pytest.approx(rows[9][columns], abs=1e-6)


def test_whole_chunks_are_judged_by_the_slowest_actuator() -> None:
    timeline = Timeline(ControlConfig(), (ArmConfig(gripper_delay_s=0.1), ArmConfig()))
    first = chunk(1, 0, wave(20, 0.0))
    assert timeline.first_row(first, 5 * PERIOD - 100 * MS) == 5
    assert timeline.splice(first, 0, STANDING).inference_delay_steps == 3
    sample = timeline.sample(19 * PERIOD - 100 * MS)
    assert sample is not None
    assert (sample.row, sample.overrun_ns) == (19, 0)


def test_late_rows_are_dropped_and_counted_from_the_clock() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    rows = wave(20, 0.0)
    late = chunk(3, 0, rows)
    assert timeline.first_row(late, 5 * PERIOD + 1) == 6
    assert timeline.first_row(late, 5 * PERIOD) == 5
    assert timeline.first_row(late, -1) == 0
    splice = timeline.splice(late, 5 * PERIOD + 1, STANDING)
    assert splice.inference_delay_steps == 5
    assert splice.replaced_chunk_id == -1
    sample = timeline.sample(9 * PERIOD)
    assert sample is not None
    assert sample.set_point == pytest.approx(rows[9], abs=1e-6)


def test_the_splice_says_what_it_replaced_and_how_far_apart_they_were() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    level = np.zeros((20, 14))
    timeline.splice(chunk(1, 0, level), 0, STANDING)
    second = timeline.splice(chunk(2, 8 * PERIOD, level + 0.05, intent_id=9), 8 * PERIOD, STANDING)
    assert (second.splice_id, second.chunk_id, second.intent_id, second.replaced_chunk_id) == (1, 2, 9, 1)
    assert second.jump_rad == pytest.approx(0.05)
    assert (second.observation_ns, second.spliced_ns) == (8 * PERIOD, 8 * PERIOD)


def test_a_sample_carries_its_provenance() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    timeline.splice(chunk(4, 100, wave(20, 0.0)), 100, STANDING)
    sample = timeline.sample(100 + 2 * PERIOD)
    assert sample is not None
    provenance = sample.provenance()
    assert provenance.source is Source.POLICY
    assert (provenance.chunk_id, provenance.chunk_row, provenance.splice_id) == (4, 2, 0)
    assert (provenance.observation_ns, provenance.intent_id, provenance.intent_observation_ns) == (100, 7, 95)
    assert provenance.override_id == -1


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (chunk(1, 200, wave(20, 0.0)), "duplicate"),
        (chunk(2, 99, wave(20, 0.0)), "older"),
        (chunk(2, 100, wave(2, 0.0)), "past"),
        (chunk(2, 100, wave(20, 0.0)), None),
    ],
)
def test_duplicates_and_old_chunks_are_refused(candidate: ActionChunk, why: str | None) -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    timeline.splice(chunk(1, 100, wave(20, 0.0)), 100, STANDING)
    refusal = timeline.refusal(candidate, 100 + 2 * PERIOD)
    assert (refusal is None) if why is None else (refusal is not None and why in refusal)


def test_too_many_fades_at_once_are_refused_until_one_is_over() -> None:
    timeline = Timeline(ControlConfig(blend_s=0.1), ARMS)
    for i in range(MAX_LAYERS):
        late = chunk(i, i * MS, wave(20, 0.0))
        assert timeline.refusal(late, i * MS) is None
        timeline.splice(late, i * MS, STANDING)
    assert timeline.refusal(chunk(99, 9 * MS, wave(20, 0.0)), 9 * MS) is not None
    assert timeline.refusal(chunk(99, 9 * MS, wave(20, 0.0)), 200 * MS) is None


def test_it_ends_at_rest_and_says_how_long_it_has_been_dry() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    rows = wave(5, 0.0)
    timeline.splice(chunk(1, 0, rows), 0, STANDING)
    end = 4 * PERIOD
    near, last = sampled(timeline, end - MS), sampled(timeline, end)
    assert np.abs(np.subtract(last, near))[:12].max() < 2e-3
    over = timeline.sample(end + 30 * MS)
    assert over is not None
    assert over.overrun_ns == 30 * MS
    assert over.set_point == last
    assert over.row == 4


def test_a_single_row_is_a_pose() -> None:
    timeline = Timeline(ControlConfig(blend_s=0.0), ARMS)
    timeline.splice(chunk(1, 100, np.full((1, 14), 0.05)), 100, STANDING)
    assert sampled(timeline, 101) == pytest.approx([0.05] * 14)


def test_nothing_is_due_before_a_chunk_and_after_clearing() -> None:
    timeline = Timeline(ControlConfig(), ARMS)
    assert timeline.sample(0) is None
    timeline.splice(chunk(1, 0, wave(20, 0.0)), 0, STANDING)
    timeline.clear()
    assert timeline.sample(1) is None
    assert timeline.refusal(chunk(1, 0, wave(20, 0.0)), 1) is None


def test_before_its_first_row_it_waits_there() -> None:
    timeline = Timeline(ControlConfig(blend_s=0.0), ARMS)
    rows = wave(20, 0.5)
    timeline.splice(chunk(1, 4 * MS, rows), 0, STANDING)
    assert sampled(timeline, 1 * MS) == pytest.approx(rows[0], abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(10, 120), st.integers(0, 60), st.floats(0, 6)), min_size=1, max_size=8),
    st.sampled_from((0.03, 0.1, 0.2)),
)
def test_no_sequence_of_splices_makes_a_jump_in_position_or_velocity(
    arrivals: list[tuple[int, int, float]], blend_s: float
) -> None:
    """However chunks overlap and however much they disagree, position and velocity stay continuous.

    The bounds are what the waves (0.3 rad, 9 rad/s) and the steepest fade (1.5 / blend_s) can do in a millisecond.
    """
    timeline = Timeline(ControlConfig(blend_s=blend_s), ARMS)
    path: list[list[float]] = []
    now_ns = 0
    observed_ns = -1
    for i, (gap_ms, age_ms, phase) in enumerate(arrivals):
        observation_ns = max(observed_ns, now_ns - age_ms * MS)
        new = chunk(i, observation_ns, wave(50, phase))
        if timeline.refusal(new, now_ns) is None:
            timeline.splice(new, now_ns, STANDING)
            observed_ns = observation_ns
        for _ in range(gap_ms):
            path.append(sampled(timeline, now_ns))
            now_ns += MS
    joints = np.array([STANDING, *path])[:, :12]
    speed = np.diff(joints, axis=0) * 1000
    most_speed = 0.3 * 9 * 1.2 + 0.6 * 1.5 / blend_s * 2
    assert np.abs(speed).max() <= most_speed
    # a step in velocity would show as speed / 1 ms; a continuous one changes by its acceleration within 1 ms
    most_change = (0.3 * 81 * 3 + 4 * (2 * most_speed * 1.5 / blend_s + 0.6 * 6 / blend_s**2)) / 1000
    assert np.abs(np.diff(speed, axis=0)).max(initial=0.0) <= most_change
