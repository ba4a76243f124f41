"""Delays of devices: a twin has those of its rig file, and a runtime that knows them is as precise as without any."""

import msgspec
import numpy as np
import pytest

from syvla.config import RigConfig, RunConfig
from syvla.control.kinematics import HOME_RAD
from syvla.hosts.lockstep import LockstepHost
from syvla.messages import ARMS, ActionChunk, ArmState, OperatorCommand, SafetyState
from syvla.rig import robot_stage
from syvla.runs import load_rig
from syvla.sim.model import ARMS_QPOS
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.twin_arm import TwinArm
from syvla.sim.world import TwinWorld
from syvla.stages.twin import TwinStage

MS = 1_000_000
TICK_NS = 5 * MS
PERIOD_NS = 20 * MS
WEIGHTS = np.array([1.0] * 12 + [10.0] * 2)
PROMPT = load_rig("twin")
LATE = msgspec.structs.replace(
    PROMPT,
    left=msgspec.structs.replace(PROMPT.left, feedback_delay_s=0.02, actuation_delay_s=0.06, gripper_delay_s=0.1),
    right=msgspec.structs.replace(PROMPT.right, feedback_delay_s=0.01, actuation_delay_s=0.03, gripper_delay_s=0.03),
)


class Run:
    """A chunk is executed by a runtime that believes in the rig ``believed`` on a twin of the rig ``real``."""

    def __init__(self, real: RigConfig, believed: RigConfig) -> None:
        self.world = TwinWorld(real, ALL_TASKS)
        drivers = {arm: TwinArm(arm, self.world.plant(arm)) for arm in ARMS}
        robot = robot_stage(RunConfig(rig=believed), drivers)
        self.host = LockstepHost([TwinStage(self.world, (), TICK_NS), robot], {})
        self.run(0.2)
        self.host.inject("operator", OperatorCommand(command_id=1, issued_ns=self.host.now_ns, action="enable"))
        self.run(0.3)
        safety = self.host.message("safety")
        assert isinstance(safety, SafetyState)
        assert safety.mode == "enabled"

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.host.run_until(self.host.now_ns + round(seconds * 1e9))

    def joints(self) -> np.ndarray:
        """Where the joints and the grippers truly are now, in the order of a chunk's columns (14,)."""
        arms = self.world.state(self.host.now_ns).qpos[:ARMS_QPOS].reshape(2, 8)
        return np.concatenate((arms[:, :6].ravel(), arms[:, 6:].sum(axis=1)))

    def errors(self) -> tuple[float, float]:
        """Of a wave: how far the worst column was from its row when that was due, and a feedback from the truth.

        A gripper counts tenfold.
        """
        start_ns = self.host.now_ns
        rows = wave(np.arange(45) * PERIOD_NS / 1e9)
        chunk = ActionChunk(
            task_id=0, chunk_id=0, intent_id=0, intent_observation_ns=start_ns, observation_ns=start_ns - MS,
            period_ns=PERIOD_NS, position_rad=rows[:, :12].astype(np.float32),
            gripper_width_m=rows[:, 12:].astype(np.float32), inference_delay_steps=0,
        )  # fmt: skip
        self.host.inject("chunk", chunk)
        true: dict[int, np.ndarray] = {}
        moved, told = [], []
        for tick in range(150):
            self.run(0.005)
            now_ns = self.host.now_ns
            true[now_ns] = self.joints()
            if tick < 50:  # it fades in, and the servos get going
                continue
            due = wave(np.array([(now_ns - chunk.observation_ns) / 1e9]))[0]
            moved.append(np.abs(true[now_ns] - due) * WEIGHTS)
            for k, arm in enumerate(ARMS):
                state = self.host.message(f"arm/{arm}")
                assert isinstance(state, ArmState)
                then = true[state.measured_ns][6 * k : 6 * k + 6]
                told.append(np.abs(state.position_rad - then))
        return float(np.max(moved)), float(np.max(told))


def test_a_runtime_that_knows_the_delays_is_as_precise_as_without_any() -> None:
    """The rest is how far the servos drag behind, and the resolution of the bus."""
    (prompt, honest), (known, corrected) = Run(PROMPT, PROMPT).errors(), Run(LATE, LATE).errors()
    assert known == pytest.approx(prompt, rel=0.05)
    assert corrected == pytest.approx(honest, abs=2e-5)


def test_delays_that_nobody_knows_of_show() -> None:
    (prompt, honest), (unknown, wrong) = Run(PROMPT, PROMPT).errors(), Run(LATE, PROMPT).errors()
    assert unknown > 2.0 * prompt
    assert wrong > 0.005 + honest


def wave(t_s: np.ndarray) -> np.ndarray:
    """Rows (N, 14): 0.15 rad and 10 mm, once in 0.8 s, from where the arms stand."""
    size = np.array([0.15] * 12 + [0.01] * 2)
    rest = np.array((*HOME_RAD, *HOME_RAD, 0.02, 0.02))
    return rest + size * 0.5 * (1.0 - np.cos(2 * np.pi * t_s / 0.8))[:, None]
