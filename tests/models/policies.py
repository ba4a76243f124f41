"""A tiny checkpoint with random weights, and what the learned policy is given, for the tests of both its halves."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from syvla.message import Float64, UInt8
from syvla.messages import ActionChunk, CameraFrame, Intent, Observation, Task
from syvla_models import checkpoint
from syvla_models.expert import Expert, tiny_config
from syvla_models.learned_planner import LearnedPlanner
from syvla_models.spec import SLOTS, ActionSpaceName, ActionSpec, CameraView, PlannerSpec, PolicySpec, load_spec
from syvla_models.tiny import build_tiny, tiny_spec

TEXTS = ["Put the red cube into the white tray. Next the left arm picks up the green can."] * 5
VIEW = CameraView(camera="cam_high", height=64, width=96)
PERIOD_NS = 33_333_333
MS = 1_000_000
POSE = np.array([0.1, 1.2, -1.0, 0.2, 0.3, -0.1, 0.03, -0.1, 1.3, -1.1, 0.1, 0.4, 0.2, 0.05])


def planner_spec(**changes: Any) -> PlannerSpec:
    return tiny_spec(**{"views": (VIEW,), "max_thought_tokens": 10, **changes})


def make(folder: Path, spec: PlannerSpec, space: ActionSpaceName = "joint") -> PolicySpec:
    """A checkpoint whose thought and chunk depend on what it is given: no weight is zero."""
    planner = build_tiny(TEXTS, spec, vocabulary=320)
    torch.manual_seed(0)
    expert = Expert(tiny_config(spec.hidden_size))
    with torch.no_grad():
        for module, scale in ((planner, 4.0), (expert, 1.0)):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
        for layer in (expert.time_out, expert.action_out):
            layer.weight.normal_(0.0, 0.02)
    action = ActionSpec(space=space, offset=((0.0,) * SLOTS,), scale=((0.05,) * SLOTS,), euler_steps=3)
    draft = PolicySpec(name="random", planner=spec, expert=expert.config, action=action)
    return checkpoint.save(folder, planner, expert, draft)


@functools.cache
def picture(seed: int) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def seen(observation_ns: int = 0, rgb: UInt8 | None = None, camera: str = "cam_high") -> Observation:
    rgb = picture(0) if rgb is None else rgb
    frame = CameraFrame(camera=camera, frame_id=0, exposure_ns=observation_ns, rgb=rgb)
    return Observation(observation_ns=observation_ns, proprioception=POSE, frames=(frame,), source_age_s={})


def chunk_of(rows: Float64, observation_ns: int) -> ActionChunk:
    """The chunk of set-points (H, 14)."""
    return ActionChunk(
        chunk_id=1,
        task_id=1,
        intent_id=1,
        intent_observation_ns=0,
        observation_ns=observation_ns,
        period_ns=PERIOD_NS,
        position_rad=rows[:, [*range(6), *range(7, 13)]].astype(np.float32),
        gripper_width_m=rows[:, [6, 13]].astype(np.float32),
        inference_delay_steps=0,
    )


def an_intent(folder: Path, seed: int = 0, **changes: Any) -> Intent:
    states = np.random.default_rng(seed).standard_normal((20, 192)).astype(np.float16)
    fields: dict[str, Any] = {
        "intent_id": 3,
        "task_id": 1,
        "observation_ns": 0,
        "chain_of_thought": "",
        "feature_query_states": states,
        "model_id": load_spec(folder).model_id,
    }
    return Intent(**{**fields, **changes})


def task(task_id: int = 1, instruction: str = "Put the red cube into the white tray.") -> Task:
    return Task(task_id=task_id, instruction=instruction, issued_ns=0)


def think(planner: LearnedPlanner, observation: Observation, asked: Task | None = None, intent_id: int = 0) -> Intent:
    *_, last = planner.think(observation, asked or task(), intent_id, None)
    assert isinstance(last, Intent)
    return last
