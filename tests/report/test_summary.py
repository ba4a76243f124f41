"""The figures of the report, on recordings made by hand whose figures are known."""

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.colors import to_hex

from syvla import messages as m
from syvla.config import ArmConfig, IntentPolicy, RigConfig, RunConfig
from syvla.message import Message
from syvla.protocols import Header
from syvla.recording.mcap_log import McapLog
from syvla.report.episode import load
from syvla.report.plot import PERSON, draw
from syvla.report.summary import overlaps, summarise
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body

MS = 1_000_000
T0 = 1_000_000_000
Sent = tuple[int, str, Message]


def write(path: Path, sent: Iterable[Sent], run: RunConfig | None = None) -> Path:
    """A recording of (sent_ns, topic, message)."""
    attachments = {} if run is None else {"run.json": msgspec.json.encode(run).decode()}
    log = McapLog(path, {"rig": "by hand"}, attachments)
    sequence: dict[str, int] = {}
    for at_ns, topic, message in sorted(sent, key=lambda s: s[0]):
        number = sequence.get(topic, 0)
        sequence[topic] = number + 1
        log.write(Header(topic, 0, number, at_ns, 0), TOPICS[topic].type, encode_body(message), at_ns)
    return log.close({"outcome": "success"})


def command(
    i: int, at_ns: int, age_s: float = 0.2, source: m.Source = m.Source.POLICY, limited: int = 0, override_id: int = -1
) -> Sent:
    """A command at ``at_ns``."""
    message = m.JointCommand(
        command_id=i, commanded_ns=at_ns, position_rad=np.zeros(12), gripper_width_m=np.zeros(2),
        provenance=m.Provenance(source=source, chunk_id=i // 10, chunk_row=i % 10, override_id=override_id),
        intent_age_s=age_s, limited_joints=limited,
    )  # fmt: skip
    return at_ns, "command", message


def intent(i: int, observed_ns: int, arrived_ns: int) -> Sent:
    """An intent."""
    message = m.Intent(
        intent_id=i, task_id=1, observation_ns=observed_ns, chain_of_thought="think", model_id="m",
        feature_query_states=np.zeros((20, 32), np.float16),
    )  # fmt: skip
    return arrived_ns, "intent", message


def safety(at_ns: int, mode: m.Mode, codes: tuple[str, ...] = (), clamped: int = 0, refused: int = 0) -> Sent:
    """A safety state."""
    reasons = tuple(m.Reason(code=code, detail=f"{code} happened", next_step="resume") for code in codes)
    message = m.SafetyState(
        stamp_ns=at_ns, mode=mode, source=m.Source.POLICY, reasons=reasons, limited_joints=0, clamped_count=clamped,
        refused_count=refused, arm_distance_m=0.1,
    )  # fmt: skip
    return at_ns, "safety", message


def steady(count: int = 400) -> list[Sent]:
    """Commands every 5 ms."""
    return [command(i, T0 + 5 * MS * i) for i in range(count)]


def test_interventions_are_counted_and_timed(tmp_path: Path) -> None:
    def sent_at(i: int) -> Sent:
        for number, (first, last) in enumerate(((100, 199), (300, 320))):
            if first <= i <= last:
                return command(i, T0 + 5 * MS * i, -1.0, m.Source.TELEOP, override_id=7 + number)
        return command(i, T0 + 5 * MS * i)

    summary = summarise(write(tmp_path / "a.mcap", [sent_at(i) for i in range(400)]))
    assert summary["interventions"] == {
        "count": 2,
        "total_s": 0.595,
        "each": [
            {"override_id": 7, "start_s": 0.5, "duration_s": 0.495},
            {"override_id": 8, "start_s": 1.5, "duration_s": 0.1},
        ],
    }
    assert summary["control"]["by_source"] == {"policy": 279, "teleop": 121}
    figure = draw(load(tmp_path / "a.mcap"))
    assert any("a person had the arms 2 times, 0.6 s" in text.get_text() for text in figure.texts)
    shaded = [to_hex(patch.get_facecolor()) for patch in figure.axes[-1].patches]
    assert shaded.count(PERSON) == 2
    plain = summarise(write(tmp_path / "b.mcap", steady()))
    assert plain["interventions"] == {"count": 0, "total_s": 0.0, "each": []}


def test_intents_and_chunks(tmp_path: Path) -> None:
    sent = steady()
    sent += [intent(i, T0 + 400 * MS * i, T0 + 400 * MS * i + (300 + i) * MS) for i in range(4)]
    for i in range(10):
        observed = T0 + 50 * MS * i - 30 * MS  # it arrives when its first row is due
        chunk = m.ActionChunk(
            task_id=1,
        chunk_id=i, intent_id=0, intent_observation_ns=T0, observation_ns=observed, period_ns=33_333_333,
            position_rad=np.zeros((50, 12), np.float32), gripper_width_m=np.zeros((50, 2), np.float32),
            inference_delay_steps=1,
        )  # fmt: skip
        splice = m.Splice(
            splice_id=i, chunk_id=i, intent_id=0, replaced_chunk_id=i - 1, observation_ns=observed,
            spliced_ns=observed + 40 * MS, inference_delay_steps=1 + i % 2, jump_rad=0.01 * i,
        )  # fmt: skip
        sent += [(observed + 30 * MS, "chunk", chunk), (observed + 40 * MS, "splice", splice)]
    summary = summarise(write(tmp_path / "a.mcap", sent))
    assert summary["intent"]["thinking_s"] == {"n": 4, "p50": 0.3015, "p99": 0.30297, "max": 0.303}
    assert summary["intent"]["age_at_command_s"]["max"] == 0.2
    assert summary["chunk"]["observation_to_arrival_s"]["p50"] == 0.03
    assert summary["chunk"]["observation_to_splice_s"]["max"] == 0.04
    assert summary["chunk"]["published_to_command_s"] == {"n": 10, "p50": 0.01, "p99": 0.01, "max": 0.01}
    assert summary["chunk"]["inference_delay_steps"] == {"1": 5, "2": 5}
    assert summary["chunk"]["jump_rad"]["max"] == 0.09
    assert summary["chunk"]["executed_rows"]["p50"] == 10
    json.dumps(summary, allow_nan=False)


def test_control_figures_are_exact(tmp_path: Path) -> None:
    sent = [command(i, T0 + 5 * MS * i + (MS if i == 200 else 0), limited=1 << 13 if i == 3 else 0) for i in range(400)]
    for k in range(2):
        lateness = np.full(100, 5e-5, np.float32)
        lateness[0] = 1e-3 * (k + 1)
        health = m.Health(
            process="robot", stamp_ns=T0, pid=1, realtime="SCHED_FIFO 50", steps=100, step_p50_s=0.0, step_p99_s=0.0,
            step_max_s=0.0, lateness_p50_s=9.0, lateness_p99_s=9.0, lateness_max_s=9.0, received=0, refused=0,
            dropped=0, last_refusal="", lateness_s=lateness,
        )  # fmt: skip
        sent.append((T0 + 500 * MS * k, "health/robot", health))
    arm = m.ArmState(
        arm="right", measured_ns=T0 + 2 * MS, position_rad=np.array([0, 0, 0.25, 0, 0, 0.0]),
        velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6), gripper_width_m=0.0, enabled=True,
    )  # fmt: skip
    sent.append((T0 + 2 * MS, "arm/right", arm))
    summary = summarise(write(tmp_path / "a.mcap", sent))
    control = summary["control"]
    assert control["commands"] == 400
    assert control["period_s"]["max"] == 0.006
    assert control["period_jitter_s"]["max"] == 0.001
    assert control["lateness_s"]["n"] == 200
    assert control["lateness_s"]["p50"] == pytest.approx(5e-5)
    assert control["lateness_s"]["max"] == pytest.approx(2e-3)
    assert control["realtime"] == "SCHED_FIFO 50"
    assert control["tracking_error_rad"] == {"n": 1, "p50": 0.25, "p99": 0.25, "max": 0.25}
    assert summary["gate"]["commands_limited"] == 1
    assert summary["gate"]["joints_limited"] == [13]


def test_a_loop_that_never_waits_is_told_from_one_that_does(tmp_path: Path) -> None:
    """Both see the same planner of 300 ms; the second sends nothing while it thinks."""
    thoughts = [(T0 + 400 * MS * i, T0 + 400 * MS * i + 300 * MS) for i in range(5)]
    intents = [intent(i, low, high) for i, (low, high) in enumerate(thoughts)]
    free = summarise(write(tmp_path / "free.mcap", steady() + intents))["waiting_for_the_planner"]
    assert free["commands_that_waited"] == 0
    assert free["thoughts"] == 5
    assert free["gap_while_planner_busy_s"]["max"] == 0.005
    assert free["least_share_of_commands_during_a_thought"] >= 0.98
    blocked = [c for c in steady() if not any(low < c[0] < high for low, high in thoughts)]
    waiting = summarise(write(tmp_path / "blocked.mcap", blocked + intents))["waiting_for_the_planner"]
    assert waiting["commands_that_waited"] == 5
    assert waiting["gap_while_planner_busy_s"]["max"] == 0.3
    assert waiting["gap_while_planner_idle_s"]["max"] == 0.005


def test_a_planner_that_never_answers_counts_as_busy_to_the_end(tmp_path: Path) -> None:
    thought = m.Thought(task_id=1, intent_id=8, observation_ns=T0 + 500 * MS, text="hm", complete=False)
    sent = [c for c in steady() if c[0] <= T0 + 505 * MS] + [command(999, T0 + 1500 * MS)]
    sent.append((T0 + 600 * MS, "thought", thought))
    waiting = summarise(write(tmp_path / "a.mcap", sent))["waiting_for_the_planner"]
    assert waiting["commands_that_waited"] == 1


def test_holds_have_their_causes_and_durations(tmp_path: Path) -> None:
    sent = [
        safety(T0, m.Mode.ENABLED, clamped=5, refused=1),
        safety(T0 + 100 * MS, m.Mode.HOLD, ("intent_stale",), clamped=6, refused=1),
        safety(T0 + 150 * MS, m.Mode.HOLD, ("intent_stale", "feedback_stale"), clamped=6, refused=1),
        safety(T0 + 400 * MS, m.Mode.ENABLED, clamped=6, refused=1),
        safety(T0 + 600 * MS, m.Mode.FAULT, ("driver_error",), clamped=9, refused=3),
        command(0, T0 + 1000 * MS),
    ]
    summary = summarise(write(tmp_path / "a.mcap", sent))
    assert summary["holds"]["count"] == 2
    assert summary["holds"]["total_s"] == 0.7
    first, second = summary["holds"]["each"]
    assert (first["mode"], first["start_s"], first["duration_s"]) == ("hold", 0.1, 0.3)
    assert sorted(cause["code"] for cause in first["causes"]) == ["feedback_stale", "intent_stale"]
    assert first["causes"][0]["next_step"] == "resume"
    assert (second["mode"], second["duration_s"]) == ("fault", 0.4)
    assert (summary["gate"]["clamped"], summary["gate"]["refused"]) == (4, 2)


def test_intent_ages_are_judged_by_the_recorded_configuration(tmp_path: Path) -> None:
    policy = IntentPolicy(time_to_live_s=0.5, stale_policy="use")
    run = RunConfig(rig=RigConfig(name="t", kind="twin", left=ArmConfig(), right=ArmConfig(), intent=policy))
    sent = [command(i, T0 + 5 * MS * i, age_s=0.1 * i) for i in range(10)]
    sent += [command(10, T0 + 60 * MS, age_s=-1.0), command(11, T0 + 70 * MS, age_s=2.0, source=m.Source.HOLD)]
    figures = summarise(write(tmp_path / "a.mcap", sent, run))["intent"]
    assert figures["time_to_live_s"] == 0.5
    assert figures["stale_policy"] == "use"
    assert figures["commands_beyond_time_to_live"] == 4
    assert figures["age_at_command_s"]["n"] == 10


def test_topics_count_gaps_losses_and_restarts(tmp_path: Path) -> None:
    log = McapLog(tmp_path / "a.mcap", {})
    stamps = [(0, 0, 0), (0, 1, 100), (0, 4, 200), (1, 0, 600), (1, 1, 700)]  # epoch, sequence, ms
    for epoch, sequence, at_ms in stamps:
        task = m.Task(task_id=1, instruction="x", issued_ns=0)
        log.write(Header("task", epoch, sequence, at_ms * MS, 0), m.Task, encode_body(task), at_ms * MS)
    log.close({"outcome": "failure"})
    summary = summarise(tmp_path / "a.mcap")
    assert summary["topics"] == {
        "task": {"count": 5, "rate_hz": round(4 / 0.7, 3), "longest_gap_s": 0.4, "lost": 2, "restarts": 1}
    }
    assert summary["instruction"] == "x"
    assert summary["success"] is False


def test_the_twin_says_whether_it_was_done(tmp_path: Path) -> None:
    truth = m.SimTruth(
        stamp_ns=T0, reset_id=1, task="t", instruction="do it", progress=0.5, success=False, names=(),
        pose=np.zeros((0, 7)), held_by=(), inside=(), hands_m=np.zeros((2, 3)),
    )  # fmt: skip
    summary = summarise(write(tmp_path / "a.mcap", [(T0, "sim/truth", truth)]))
    assert (summary["success"], summary["progress"], summary["instruction"]) == (False, 0.5, "do it")


def test_an_empty_recording_has_a_summary(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path / "a.mcap", []))
    assert summary["control"]["commands"] == 0
    assert summary["waiting_for_the_planner"]["commands_that_waited"] is None
    json.dumps(summary, allow_nan=False)


def test_overlaps_with_intervals_inside_one_another() -> None:
    lows, highs = np.array([0, 10, 45, 90]), np.array([5, 20, 50, 95])
    starts, ends = np.array([8, 12, 60]), np.array([80, 15, 70])
    assert overlaps(lows, highs, starts, ends).tolist() == [False, True, True, False]


def test_the_whole_story(episode: Path) -> None:
    summary = summarise(episode)
    assert summary["complete"]
    assert summary["success"]
    assert summary["instruction"].startswith("put the red bar")
    assert summary["waiting_for_the_planner"]["commands_that_waited"] == 0
    assert [hold["causes"][0]["code"] for hold in summary["holds"]["each"]] == ["intent_stale"]
    assert summary["topics"]["command"]["rate_hz"] == 200.0
    assert all(topic["lost"] == 0 for topic in summary["topics"].values())


def test_a_recording_without_an_end_is_summarised(episode: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mcap.partial"
    path.write_bytes(episode.read_bytes()[: episode.stat().st_size // 2])
    summary = summarise(path)
    assert not summary["complete"]
    assert summary["outcome"] == "interrupted"
    assert 3 < summary["duration_s"] < 9
