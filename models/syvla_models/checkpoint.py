"""A checkpoint folder: a Qwen2.5-VL folder with ``syvla.json``, ``planner.safetensors`` and ``expert.safetensors``.

The expert's half needs only ``syvla.json`` and ``expert.safetensors``, so a robot PC need not carry the VLM.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from syvla.errors import ConfigError
from syvla_models.expert import Expert
from syvla_models.planner import PLANNER_FILE, SyvlaPlanner
from syvla_models.qwen import save_qwen
from syvla_models.spec import EXPERT_FILE, HEADS_FILE, SPEC_FILE, PolicySpec, load_spec, save_spec, verify
from syvla_models.weights import load_tensors, save_tensors


def save(
    folder: Path,
    planner: SyvlaPlanner,
    expert: Expert,
    spec: PolicySpec,
    heads: Mapping[str, torch.Tensor] | None = None,
) -> PolicySpec:
    """Write a whole checkpoint, with the ``heads`` that only training needs; the spec as written, with all digests.

    ``syvla.json`` is written last: a folder whose writing was interrupted is refused when it is read.
    """
    if spec.planner != planner.spec:
        raise ConfigError("spec.planner must be the planner's own spec")
    if spec.expert.intent_width != spec.planner.hidden_size:
        raise ConfigError(
            f"expert.intent_width is {spec.expert.intent_width}, planner.hidden_size is {spec.planner.hidden_size}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).unlink(missing_ok=True)
    save_qwen(folder, planner.vlm, planner.tokenizer)
    save_tensors(folder / PLANNER_FILE, {"queries": planner.queries})
    save_tensors(folder / EXPERT_FILE, expert.state_dict())
    if heads:
        save_tensors(folder / HEADS_FILE, heads)
    return save_spec(folder, spec)


def load_expert(folder: Path, device: str | torch.device = "cpu") -> tuple[Expert, PolicySpec]:
    """The expert, in evaluation mode; ConfigError names the file or tensor that is not as ``syvla.json`` says."""
    spec = load_spec(folder)
    verify(folder, spec.sha256, [EXPERT_FILE])
    expert = Expert(spec.expert)
    load_tensors(folder / EXPERT_FILE, expert.state_dict())
    return expert.to(device).eval(), spec
