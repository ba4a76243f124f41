"""An episode as the recorder sees it: two arms, a planner of 300 ms that once hangs, and the hold that follows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from syvla import messages as m
from syvla.config import ArmConfig, RecorderConfig, RigConfig, RunConfig
from syvla.message import Float32, Float64, Message
from syvla.protocols import Header, Inbox, Received
from syvla.stages.recorder import RecorderStage
from syvla.topics import CAMERAS
from syvla.transport.codec import encode_body

MS = 1_000_000
S = 1_000 * MS
T0 = 5_000 * S
PERIOD = 33_333_333
HANG = (T0 + 5 * S, T0 + 7 * S)  # the planner takes 2 s once
THOUGHTS = (
    "The left arm reaches for the red bar while the right arm waits beside the blue tray.",
    "The left gripper closes on the red bar; next it lifts it over the edge of the blue tray.",
    "The red bar is above the blue tray: open the gripper, and let the right arm take the green can.",
)


def motion(t_s: float) -> tuple[Float64, Float64]:
    """Joints (12,) and gripper widths (2,) at ``t_s``."""
    phase = np.arange(12) * 0.7
    scale = np.tile([0.6, 0.5, -0.4, 0.3, 0.4, 0.8], 2)
    offset = np.tile([0.0, 1.2, -1.1, 0.0, 0.4, 0.0], 2)
    joints = offset + scale * np.sin(0.9 * t_s + phase)
    return joints, 0.035 + 0.035 * np.tanh(4 * np.sin(np.array([0.8, 0.6]) * t_s))


class Script:
    """Collects messages with their stamps and puts them in the order of arrival."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._sequence: dict[str, int] = {}

    def send(self, at_ns: int, topic: str, message: Message, step_ns: int = 0) -> None:
        """One message, sent at ``at_ns`` and received 0.2 ms later."""
        sequence = self._sequence.get(topic, 0)
        self._sequence[topic] = sequence + 1
        header = Header(topic, 1, sequence, at_ns, step_ns)
        self.received.append(Received(header, message, at_ns + 200_000, lambda: encode_body(message)))

    def batches(self, width_ns: int = 20 * MS) -> Iterator[tuple[int, list[Received]]]:
        """(now, what came since the last one)."""
        ordered = sorted(self.received, key=lambda r: r.received_ns)
        start = 0
        while start < len(ordered):
            end_ns = ordered[start].received_ns + width_ns
            stop = start
            while stop < len(ordered) and ordered[stop].received_ns <= end_ns:
                stop += 1
            yield end_ns, ordered[start:stop]
            start = stop


def record(folder: Path, script: Script, run: RunConfig) -> RecorderStage:
    """Feed the script to a recorder."""
    stage = RecorderStage(folder, run, {"policy": "scripted"})
    latest: dict[str, Received] = {}
    for now_ns, batch in script.batches():
        latest.update({r.header.topic: r for r in batch})
        list(stage.step(now_ns, Inbox(latest, batch)))
    return stage


def run_config(image_format: str = "jpeg") -> RunConfig:
    """The twin's rig, by its defaults."""
    recorder = RecorderConfig(image_format="raw" if image_format == "raw" else "jpeg")
    return RunConfig(
        rig=RigConfig(name="test_twin", kind="twin", left=ArmConfig(), right=ArmConfig(), recorder=recorder)
    )


def realistic(
    duration_s: float = 12.0, cameras: tuple[str, ...] = CAMERAS, size: tuple[int, int] = (120, 160)
) -> Script:
    """The whole story."""
    script = Script()
    end = T0 + round(duration_s * S)
    script.send(
        T0 - S,
        "task",
        m.Task(task_id=3, instruction="put the red bar and the green can into the blue tray", issued_ns=T0 - S),
    )
    script.send(T0, "episode", m.EpisodeControl(action="start", name="snack_loading-7", issued_ns=T0))
    intents = _think(script, end)
    splices = _act(script, intents, end)
    holds = _move(script, intents, splices, end)
    _sense(script, cameras, size, end)
    for i in range(round(duration_s * 2)):
        lateness = np.abs(np.sin(np.arange(100) * 1.7 + i)).astype(np.float32) * np.float32(80e-6)
        script.send(T0 + i * 500 * MS, "health/robot", health(T0 + i * 500 * MS, lateness))
    script.send(end - MS, "episode", m.EpisodeControl(action="success", name="snack_loading-7", issued_ns=end - MS))
    assert holds == 0 or duration_s > 6
    return script


def health(stamp_ns: int, lateness: Float32) -> m.Health:
    """Of the robot's process."""
    return m.Health(
        process="robot", stamp_ns=stamp_ns, pid=1, realtime="SCHED_FIFO 50, memory locked", steps=len(lateness),
        step_p50_s=1e-4, step_p99_s=2e-4, step_max_s=3e-4,
        lateness_p50_s=float(np.median(lateness)), lateness_p99_s=float(np.quantile(lateness, 0.99)),
        lateness_max_s=float(lateness.max()), received=0, refused=0, dropped=0, last_refusal="", lateness_s=lateness,
    )  # fmt: skip


def _think(script: Script, end: int) -> list[tuple[int, int, int]]:
    """Intents as (id, observation, arrival)."""
    intents = []
    at, number = T0 + 20 * MS, 0
    while at < end:
        takes = HANG[1] - HANG[0] if HANG[0] <= at < HANG[1] else 300 * MS + (number % 5) * 12 * MS
        text = THOUGHTS[min(len(THOUGHTS) - 1, int((at - T0) / (4 * S)))]
        words = text.split()
        for k in range(1, 6):
            part = " ".join(words[: len(words) * k // 5])
            thought = m.Thought(task_id=3, intent_id=number, observation_ns=at, text=part, complete=k == 5)
            script.send(at + takes * k // 6, "thought", thought)
        states = np.full((20, 32), number % 7, np.float16)
        intent = m.Intent(
            intent_id=number,
            task_id=3,
            observation_ns=at,
            chain_of_thought=text,
            feature_query_states=states,
            model_id="scripted",
        )
        script.send(at + takes, "intent", intent, takes)
        intents.append((number, at, at + takes))
        at += takes + 4 * MS
        number += 1
    return intents


def _newest(intents: list[tuple[int, int, int]], at: int) -> tuple[int, int, int] | None:
    return next((i for i in reversed(intents) if i[2] <= at), None)


def _act(script: Script, intents: list[tuple[int, int, int]], end: int) -> list[tuple[int, int, int, int]]:
    """Splices as (at, chunk, observation, intent)."""
    splices: list[tuple[int, int, int, int]] = []
    chunk = 0
    for at in range(T0 + 350 * MS, end, 50 * MS):
        intent = _newest(intents, at)
        if intent is None or at - intent[1] > S:
            continue
        rows = [motion((at + k * PERIOD - T0) / S) for k in range(50)]
        arrival = at + 30 * MS + (chunk % 4) * MS
        message = m.ActionChunk(
            task_id=1,
        chunk_id=chunk, intent_id=intent[0], intent_observation_ns=intent[1], observation_ns=at, period_ns=PERIOD,
            position_rad=np.array([r[0] for r in rows], np.float32),
            gripper_width_m=np.array([r[1] for r in rows], np.float32).clip(0, 0.07), inference_delay_steps=1,
        )  # fmt: skip
        script.send(arrival, "chunk", message, 30 * MS)
        splice = m.Splice(
            splice_id=chunk, chunk_id=chunk, intent_id=intent[0], replaced_chunk_id=chunk - 1, observation_ns=at,
            spliced_ns=arrival + 2 * MS, inference_delay_steps=1 + (chunk % 9 == 0),
            jump_rad=0.002 + 0.01 * (chunk % 11 == 0),
        )  # fmt: skip
        script.send(arrival + 2 * MS, "splice", splice)
        splices.append((arrival + 2 * MS, chunk, at, intent[0]))
        chunk += 1
    return splices


def _move(
    script: Script, intents: list[tuple[int, int, int]], splices: list[tuple[int, int, int, int]], end: int
) -> int:
    """Commands, arms and safety; returns how many commands were a hold's."""
    held, last, holds, splice_at = 0.0, 0.0, 0, -1
    mode = m.Mode.ENABLED
    for i, at in enumerate(range(T0, end, 5 * MS)):
        while splice_at + 1 < len(splices) and splices[splice_at + 1][0] <= at:
            splice_at += 1
        splice = splices[splice_at] if splice_at >= 0 else None
        observed = {i[0]: i[1] for i in intents}[splice[3]] if splice else -1
        age = (at - observed) / S if splice else -1.0
        stale = splice is not None and age > 1.0
        resumed = at > HANG[1] + 400 * MS
        mode = m.Mode.HOLD if stale or (mode is m.Mode.HOLD and not resumed) else m.Mode.ENABLED
        holding = mode is m.Mode.HOLD
        holds += holding
        if splice and not holding:
            last = (at - T0) / S - held
        elif splice:
            held += 0.005
        joints, gripper = motion(last)
        source = m.Source.HOLD if holding or splice is None else m.Source.POLICY
        provenance = m.Provenance(source=source) if holding or splice is None else m.Provenance(
            source=source, observation_ns=splice[2], intent_id=splice[3], intent_observation_ns=observed,
            chunk_id=splice[1], chunk_row=(at - splice[2]) // PERIOD, splice_id=splice[1],
        )  # fmt: skip
        command = m.JointCommand(
            command_id=i, commanded_ns=at, position_rad=joints, gripper_width_m=gripper, provenance=provenance,
            intent_age_s=age, limited_joints=0,
        )  # fmt: skip
        script.send(at, "command", command)
        lagged, opened = motion(max(0.0, last - 0.04))
        for k, arm in enumerate(("left", "right")):
            state = m.ArmState(
                arm="left" if k == 0 else "right", measured_ns=at - 2 * MS,
                position_rad=lagged[6 * k : 6 * k + 6],
                velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6), gripper_width_m=float(opened[k]), enabled=True,
            )  # fmt: skip
            script.send(at, f"arm/{arm}", state)
        if i % 10 == 0:
            reasons = (
                (
                    m.Reason(
                        code="intent_stale",
                        detail=f"intent is {age:.2f} s old",
                        next_step="resume when the planner answers",
                    ),
                )
                if holding
                else ()
            )
            safety = m.SafetyState(
                stamp_ns=at, mode=mode, source=source, reasons=reasons, limited_joints=0, clamped_count=3 + i // 800,
                refused_count=0, arm_distance_m=0.2,
            )  # fmt: skip
            script.send(at, "safety", safety)
            truth = m.SimTruth(
                stamp_ns=at, reset_id=1, task="snack_loading", instruction="",
                progress=min(1.0, (at - T0) / (end - T0 - S)),
                success=at > end - S, names=("red bar",), pose=np.zeros((1, 7)), held_by=("",), inside=("",),
                hands_m=np.zeros((2, 3)),
            )  # fmt: skip
            script.send(at, "sim/truth", truth)
    return holds


def _sense(script: Script, cameras: tuple[str, ...], size: tuple[int, int], end: int) -> None:
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for k, camera in enumerate(cameras):
        for i, at in enumerate(range(T0 + 7 * MS * k, end, 1_000_000_000 // 15)):
            shift = 4.0 * i
            rgb = np.stack([127 + 127 * np.sin((x + shift) / 17 + k), 110 + 80 * np.sin(y / 13 + k), 90 + 0 * x], -1)
            frame = m.CameraFrame(camera=camera, frame_id=i, exposure_ns=at, rgb=rgb.astype(np.uint8))
            script.send(at + 4 * MS, f"camera/{camera}", frame)


@pytest.fixture(scope="session")
def two_cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of it, with raw images of two of the cameras."""
    folder = tmp_path_factory.mktemp("recordings")
    record(folder, realistic(3.0, CAMERAS[:2]), run_config("raw")).close()
    return folder / "snack_loading-7.mcap"


@pytest.fixture(scope="session")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of it without any camera."""
    folder = tmp_path_factory.mktemp("recordings")
    record(folder, realistic(2.0, ()), run_config()).close()
    return folder / "snack_loading-7.mcap"


@pytest.fixture(scope="session")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the whole story."""
    folder = tmp_path_factory.mktemp("recordings")
    record(folder, realistic(), run_config()).close()
    return folder / "snack_loading-7.mcap"
