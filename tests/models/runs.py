"""A few small demonstrations, and training stages of a few steps on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from syvla import messages as m
from syvla.config import ArmConfig, RigConfig, RunConfig
from syvla.message import Message
from syvla.protocols import Header
from syvla.recording.images import compress
from syvla.recording.mcap_log import McapLog
from syvla.transport.codec import encode_body
from syvla_models.spec import CameraView, ExpertConfig
from syvla_models.train.config import (
    ActionConfig,
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
    OutputConfig,
    SourceConfig,
    TrainConfig,
)
from syvla_models.train.trainer import Act, train

MS = 1_000_000

RIG = RigConfig(name="test", kind="twin", left=ArmConfig(), right=ArmConfig())
VIEW = CameraView(camera="cam_high", height=32, width=64)
MODEL = ModelConfig(name="test", views=(VIEW,), expert=ExpertConfig(width=48, depth=2, heads=2, horizon=20, aimed=True))


def record(path: Path, direction: float) -> None:
    """Two seconds in which both arms move steadily; the picture is as bright as they are fast."""
    log = McapLog(path, {}, {"run.json": msgspec.json.encode(RunConfig(rig=RIG)).decode()})
    rgb = np.full((32, 64, 3), 128 + round(100 * direction), np.uint8)
    every: list[tuple[str, Message]] = [("task", m.Task(task_id=1, instruction="move the arms", issued_ns=MS))]
    for ms in range(10, 2000, 10):
        q = np.full(6, 0.2 * direction * ms / 1000)
        every.append(
            ("command", m.JointCommand(
                command_id=ms, commanded_ns=ms * MS, position_rad=np.tile(q, 2), gripper_width_m=np.full(2, 0.03),
                provenance=m.Provenance(source=m.Source.POLICY), intent_age_s=0.0, limited_joints=0,
            ))
        )  # fmt: skip
        every += [
            (f"arm/{arm}", m.ArmState(
                arm=arm, measured_ns=ms * MS, position_rad=q, velocity_rad_s=np.zeros(6), effort_nm=np.zeros(6),
                gripper_width_m=0.03, enabled=True,
            ))
            for arm in m.ARMS
        ]  # fmt: skip
    for k, ms in enumerate(range(20, 1900, 100)):
        frame = m.CameraFrame(camera="cam_high", frame_id=k, exposure_ns=ms * MS, rgb=rgb)
        every.append(("camera/cam_high", compress(frame, 95)))
        words = "Both arms move up." if direction > 0 else "Both arms move down."
        states = np.zeros((20, 8), np.float16)
        every.append(
            ("intent", m.Intent(
                intent_id=k, task_id=1, observation_ns=ms * MS, chain_of_thought=words,
                feature_query_states=states, model_id="test",
            ))
        )  # fmt: skip
    for number, (topic, message) in enumerate(every):
        log.write(Header(topic, 0, number, number, 0), type(message), encode_body(message), number)
    log.close({"outcome": "success"})


def config_of(folder: Path, stage: Any = "finetune", **changes: Any) -> TrainConfig:
    demos = SourceConfig(name="demos", kind="demonstrations", paths=(str(folder),), weight=0.7)
    scenes = SourceConfig(name="scenes", kind="scenes", paths=(str(folder),), weight=0.3)
    fields: dict[str, Any] = {
        "stage": stage,
        "sources": (scenes,) if stage == "see" else (demos, scenes),
        "budget": BudgetConfig(max_steps=6),
        "threads": 1,
        "model": MODEL,
        "data": DataConfig(batch_size=4, action_samples=2, delay_range_s=(0.0, 0.5), max_prefix=5),
        "action": ActionConfig(euler_steps=2, statistics_samples=64),
        "optimiser": OptimiserConfig(warmup_steps=2, ema_decay=0.9),
        "output": OutputConfig(log_every_steps=1, validation_rows=6),
    }
    return TrainConfig(**{**fields, **changes})


def silent(line: str) -> None:
    pass


def run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = silent,
    act: Act | None = None,
) -> bool:
    return train(config, RIG, out, resume=resume, say=say, act=act)


def numbers(out: Path) -> dict[tuple[int, str], float]:
    """The log without what depends on the clock."""
    lines = [line.split(",") for line in (out / "log.csv").read_text().splitlines()[1:]]
    return {(int(step), name): float(value) for step, _, name, value in lines if name != "rows_hz"}
