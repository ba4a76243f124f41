"""How large a policy is: parameters, memory and KV cache, counted on the meta device without any weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from syvla.messages import FEATURE_QUERIES
from syvla_models.expert import Expert, base_config
from syvla_models.expert import tiny_config as tiny_expert
from syvla_models.prompt import SPECIAL_TOKENS
from syvla_models.qwen_config import load_config
from syvla_models.spec import SPEC_FILE, ExpertConfig, load_spec
from syvla_models.tiny import tiny_config

Size = Literal["tiny", "base", "3b"]
_TINY_VOCABULARY = 1024  # the most that the tiny tokenizer may have
_VLM = ("vision tower", "token embedding", "language model layers", "language model head")


class Part(NamedTuple):
    """One part of a policy."""

    name: str
    parameters: int

    @property
    def bfloat16_bytes(self) -> int:
        """Memory of the weights in bfloat16."""
        return 2 * self.parameters

    @property
    def float32_bytes(self) -> int:
        """Memory of the weights in float32."""
        return 4 * self.parameters


class Description(NamedTuple):
    """A policy's size. ``parts`` are disjoint; a shared embedding is counted once."""

    name: str
    parts: tuple[Part, ...]
    kv_bytes_per_token: int  # of the planner, in bfloat16

    @property
    def total(self) -> Part:
        """Everything together."""
        return Part("total", sum(part.parameters for part in self.parts))


def config_3b() -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-3B-Instruct, by the numbers of its ``config.json``."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
    )


def describe(size: Size) -> Description:
    """A policy by its name: ``tiny`` is the twin's, ``3b`` the robot's, ``base`` the robot's expert alone."""
    config = tiny_config(_Vocabulary()) if size == "tiny" else config_3b()
    width = config.text_config.hidden_size
    expert = tiny_expert(width) if size == "tiny" else base_config(width)
    return _description("base expert", None, expert) if size == "base" else _description(size, config, expert)


def describe_checkpoint(folder: Path) -> Description:
    """The policy in a checkpoint folder, or a bare Qwen2.5-VL folder; its weights are not read."""
    config = load_config(folder)
    if not (folder / SPEC_FILE).exists():
        return _description(str(folder), config, None)
    spec = load_spec(folder)
    return _description(spec.model_id, config, spec.expert)


def kv_bytes_per_token(config: Qwen2_5_VLConfig, bytes_per_number: int = 2) -> int:
    """Keys and values of every layer for one token."""
    text = config.text_config
    head = text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head * bytes_per_number)


def table(description: Description) -> str:
    """The description as lines of text."""
    lines = [f"{description.name}", f"  {'':24s} {'parameters':>14s} {'bfloat16':>10s} {'float32':>10s}"]
    vlm = [part.parameters for part in description.parts if part.name in _VLM]
    sums = [Part("the VLM alone", sum(vlm))] if vlm else []
    lines += [
        f"  {part.name:24s} {_count(part.parameters):>14s} {_size(part.bfloat16_bytes):>10s} "
        f"{_size(part.float32_bytes):>10s}"
        for part in (*description.parts, *sums, description.total)
    ]
    if description.kv_bytes_per_token:
        lines.append(f"  KV cache {description.kv_bytes_per_token / 1000:.1f} kB a token (bfloat16)")
    return "\n".join(lines)


class _Vocabulary:
    """Stands in for the tiny tokenizer, of which only the size counts here."""

    def __len__(self) -> int:
        return _TINY_VOCABULARY

    def get_vocab(self) -> Mapping[str, int]:
        return {token: index for index, token in enumerate(SPECIAL_TOKENS)}


def _description(name: str, vlm: Qwen2_5_VLConfig | None, expert: ExpertConfig | None) -> Description:
    parts: list[Part] = []
    with torch.device("meta"):
        if vlm is not None:
            model = Qwen2_5_VLForConditionalGeneration(vlm)
            embedding = model.get_input_embeddings()
            parts += [
                Part("vision tower", _parameters(model.model.visual)),
                Part("token embedding", _parameters(embedding)),
                Part("language model layers", _parameters(model.model.language_model) - _parameters(embedding)),
            ]
            rest = _parameters(model) - sum(part.parameters for part in parts)
            if rest:
                parts.append(Part("language model head", rest))
            parts.append(Part("feature queries", FEATURE_QUERIES * vlm.text_config.hidden_size))
        if expert is not None:
            parts.append(Part("action expert", _parameters(Expert(expert))))
    return Description(name, tuple(parts), 0 if vlm is None else kv_bytes_per_token(vlm))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.3f} B" if parameters >= 1e9 else f"{parameters / 1e6:.3f} M"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
