"""What a training stage begins from: its sources, planner, expert, and the policy's spec."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import torch

from syvla.config import RigConfig
from syvla.control.kinematics import Base
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla_models.actions import POSITION, ActionSpace, action_space, fit_state
from syvla_models.checkpoint import load_expert
from syvla_models.expert import Expert
from syvla_models.planner import SyvlaPlanner
from syvla_models.qwen import load_qwen
from syvla_models.qwen_config import load_config
from syvla_models.spec import (
    SLOTS,
    SPEC_FILE,
    ActionSpec,
    CameraView,
    PlannerSpec,
    PolicySpec,
    ThinkingType,
    load_spec,
)
from syvla_models.tiny import build_tiny, tiny_spec
from syvla_models.train.batch import Batches, Collator
from syvla_models.train.config import PERIOD_S, SourceConfig, TrainConfig
from syvla_models.train.log import Say, silent
from syvla_models.train.mixture import Mixture, generator
from syvla_models.train.questions import SCENES_FILE, Questions
from syvla_models.train.samples import Demonstrations, Source, find
from syvla_models.train.sight import PLACE_UNIT_M
from syvla_models.train.wordings import read_wordings

_STATISTICS = 3  # the stream of random numbers for statistics; a mixture has those below


class Policy(NamedTuple):
    """A policy about to be trained. ``spec`` has no digests yet."""

    planner: SyvlaPlanner
    expert: Expert
    spec: PolicySpec
    space: ActionSpace


class Stage(NamedTuple):
    """All that a stage needs."""

    policy: Policy
    mixture: Mixture
    collator: Collator
    names: tuple[str, ...]  # what things in the pictures are called

    def batches(self, config: TrainConfig, process: int = 0) -> Batches:
        """The batches of one of the processes that share a step."""
        rows = config.data.batch_size
        return Batches(self.mixture, self.collator, rows, first_slot=process * rows, augmented=config.data.augment)


def build_stage(config: TrainConfig, rig: RigConfig, say: Say = silent) -> Stage:
    """Read the sources, saying how far that is, and build or load the policy that ``config`` asks for."""
    earlier = _spec_of(config)
    views = _planner_spec(config, 0).views if earlier is None else earlier.planner.views
    action = earlier.action if earlier is not None and earlier.action.space == config.action.space else None
    sources = [_source(source, config, views, action, say) for source in config.sources]
    mixture = Mixture(sources, [source.weight for source in config.sources], config.seed)
    planner = _planner(config, earlier, sources)
    policy = _policy(config, rig, planner, earlier, sources)
    vision = planner.vlm.config.vision_config
    names = tuple(sorted({name for source in sources if isinstance(source, Questions) for name in source.names}))
    collator = Collator(
        planner,
        None if config.stage == "see" else policy.space,
        feature_queries=planner.spec.feature_queries,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        names=names,
    )
    return Stage(policy, mixture, collator, names)


def _spec_of(config: TrainConfig) -> PolicySpec | None:
    """The spec of the checkpoint to begin from; None for a fresh planner or a bare Qwen2.5-VL folder."""
    if not config.init:
        return None
    folder = Path(config.init)
    if not folder.is_dir():
        raise ConfigError(f"init: {folder} is not a folder; the stage before writes it")
    return load_spec(folder) if (folder / SPEC_FILE).exists() else None


def _source(
    source: SourceConfig, config: TrainConfig, views: Sequence[CameraView], action: ActionSpec | None, say: Say
) -> Source:
    data = config.data
    thoughts = data.thought_probability if source.thought_probability is None else source.thought_probability
    if source.kind == "scenes":
        files = find(source.paths, SCENES_FILE)
        share = source.validation_share
        return Questions(source.name, files, views, thoughts=thoughts > 0.0, validation_share=share)
    recordings = find(source.paths, "*.mcap")
    return Demonstrations(
        source.name,
        recordings,
        views,
        horizon=config.model.expert.horizon,
        period_s=(action or _unfitted(config)).period_s,
        action_samples=0 if config.stage == "see" else data.action_samples,
        intent_uses=data.intent_uses,
        imitable_only=config.optimiser.freeze_vlm,
        grasp_share=data.grasp_share,
        delay_range_s=data.delay_range_s,
        max_prefix=data.max_prefix,
        perturbation_rad=data.perturbation_rad,
        thought_probability=thoughts,
        validation_share=source.validation_share,
        reworded=source.reworded,
        wordings=read_wordings(recordings) if source.reworded else {},
        say=say,
    )


def _planner(config: TrainConfig, earlier: PolicySpec | None, sources: Sequence[Source]) -> SyvlaPlanner:
    planner, model = _begun(config, earlier, sources), config.model
    if model.think is not None:
        planner.spec = msgspec.structs.replace(planner.spec, think=model.think, think_every_s=model.think_every_s)
    return planner


def _begun(config: TrainConfig, earlier: PolicySpec | None, sources: Sequence[Source]) -> SyvlaPlanner:
    """The earlier stage's planner, or one around a bare Qwen2.5-VL, or a tiny one."""
    if earlier is not None:
        return SyvlaPlanner.from_pretrained(Path(config.init))
    if config.init:
        vlm, tokenizer = load_qwen(Path(config.init))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            spec = _planner_spec(config, vlm.config.text_config.hidden_size)
            own = str(load_config(Path(config.init)).dtype).removeprefix("torch.")  # trained in float32 nevertheless
            if own in get_args(ThinkingType):
                spec = msgspec.structs.replace(spec, gpu_dtype=own)
            return SyvlaPlanner(vlm, tokenizer, spec)

    def texts() -> Iterator[str]:
        for source in sources:
            yield from source.texts()

    return build_tiny(texts(), _planner_spec(config, tiny_spec().hidden_size), seed=config.seed)


def _planner_spec(config: TrainConfig, hidden_size: int) -> PlannerSpec:
    model = config.model
    return PlannerSpec(
        views=model.views or tiny_spec().views,
        hidden_size=hidden_size,
        system_prompt=model.system_prompt,
        instruction_first=model.instruction_first,
        hands_told=model.hands_told,
        max_thought_tokens=model.max_thought_tokens,
    )


def _policy(
    config: TrainConfig,
    rig: RigConfig,
    planner: SyvlaPlanner,
    earlier: PolicySpec | None,
    sources: Sequence[Source],
) -> Policy:
    """The expert of the earlier stage if it fits, else a fresh one whose actions are normalised by the sources'."""
    size = msgspec.structs.replace(
        config.model.expert, intent_width=planner.spec.hidden_size, queries=planner.spec.feature_queries
    )
    expert: Expert | None = None
    action = _unfitted(config)
    kept = earlier is not None and not config.model.fresh_expert and _fitted(earlier)
    if kept and earlier is not None and earlier.action.space == action.space and earlier.expert == size:
        expert, _ = load_expert(Path(config.init))
        action = earlier.action
    elif config.stage != "see":
        action = _measured(config, action, action_space(action, rig.safety), sources)
    if expert is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            expert = Expert(size)
        _place_arms(expert, rig, action)
    action = msgspec.structs.replace(
        action,
        euler_steps=config.action.euler_steps,
        noise_scale=config.action.noise_scale,
        execution_horizon_s=config.action.execution_horizon_s,
        max_prefix=config.data.max_prefix,
    )
    spec = PolicySpec(name=config.model.name, planner=planner.spec, expert=expert.config, action=action, rig=rig.name)
    return Policy(planner, expert, spec, action_space(action, rig.safety))


def _place_arms(expert: Expert, rig: RigConfig, action: ActionSpec) -> None:
    """Tell the expert's aim how a place on the table appears among the slots of what is measured of each arm."""
    if expert.aim is None:
        return
    slots = np.array((action.state_offset, action.state_scale)).reshape(2, 2, -1)
    if expert.aim.in_hand:
        expert.aim.pose.copy_(torch.from_numpy(slots[..., : expert.aim.pose.shape[-1]]))
    slots = slots[..., POSITION]
    for side, (base, offset, scale) in enumerate(zip(map(Base.of, (rig.left, rig.right)), *slots, strict=True)):
        origin, turn = base.from_world(np.zeros(3), np.eye(3))
        expert.aim.turn[side] = torch.from_numpy(turn / scale[:, None] * PLACE_UNIT_M)
        expert.aim.shift[side] = torch.from_numpy((origin - offset) / scale)


def _unfitted(config: TrainConfig) -> ActionSpec:
    """The action space of a new expert, not normalised yet."""
    return ActionSpec(space=config.action.space, offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,), period_s=PERIOD_S)


def _fitted(spec: PolicySpec) -> bool:
    """Whether an expert was trained: a stage that only learns to see leaves the actions as they are."""
    return any(scale != 1.0 for row in spec.action.scale for scale in row)


def _measured(config: TrainConfig, action: ActionSpec, space: ActionSpace, sources: Sequence[Source]) -> ActionSpec:
    """``action`` with the normalisation of the sources, each counted as often as training draws from it."""
    weights = {s.name: s.weight for s in config.sources}
    robots = [s for s in sources if isinstance(s, Demonstrations) and weights[s.name] > 0.0]
    total = sum(weights[s.name] for s in robots)
    raw: list[Float64] = []  # (K, H, slots) each
    proprioception: list[Float64] = []
    for slot, source in enumerate(robots):
        rng = generator(config.seed, _STATISTICS, 0, slot)
        share = weights[source.name] / total
        for _ in range(max(2, round(share * config.action.statistics_samples / config.data.action_samples))):
            actions = source.draw_actions(rng)
            raw.append(space.raw(actions.rows, actions.proprioception))
            proprioception.append(actions.proprioception)
    offset, scale = space.fit(np.concatenate(raw))
    state_offset, state_scale = fit_state(np.concatenate(proprioception))
    return msgspec.structs.replace(
        action,
        offset=offset,
        scale=scale,
        state_offset=state_offset,
        state_scale=state_scale,
    )
