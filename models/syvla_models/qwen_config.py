"""``config.json`` of a Qwen2.5-VL folder, checked before anything is built from it."""

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLConfig
from transformers.activations import ACT2FN

from syvla.errors import ConfigError

CONFIG_FILE = "config.json"
_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_VISION = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "out_hidden_size",
    "window_size",
)
_LAYERS = {"num_hidden_layers": 1024, "depth": 1024}  # the most of each; of all else ``_MOST``
_MOST = 2**24


def load_config(folder: Path) -> Qwen2_5_VLConfig:
    """The config of ``folder``; ConfigError names the file and the field that cannot be."""
    path = folder / CONFIG_FILE
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "qwen2_5_vl":
        raise ConfigError(f"{path}: model_type must be qwen2_5_vl, not {kind!r}")
    # Without them it would be the largest model of the family. Older folders have the text's fields at the top.
    text = fields.get("text_config", fields)
    for name, given, needed in (
        ("text_config", text, "hidden_size"),
        ("vision_config", fields.get("vision_config"), "hidden_size"),
    ):
        if not isinstance(given, dict) or needed not in given:
            raise ConfigError(f"{path}: {name} must be a table with {needed} and the other sizes")
    try:
        config = Qwen2_5_VLConfig.from_dict(fields)
    except Exception as error:  # the Hub's checks of fields are that itself, the rest is what they stumble on
        raise ConfigError(f"{path}: {' '.join(str(error).split()) or repr(error)}") from error
    try:
        _check(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def least_parameters(config: Qwen2_5_VLConfig) -> int:
    """How many weights there are at least: those of the large matrices."""
    text, vision = config.text_config, config.vision_config
    wide = vision.hidden_size
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    merged = wide * vision.spatial_merge_size**2
    language = text.vocab_size + text.num_hidden_layers * (2 * text.hidden_size + 3 * text.intermediate_size)
    tower = patch + vision.depth * (4 * wide + 3 * vision.intermediate_size)
    return int(text.hidden_size * language + wide * tower + merged * (merged + vision.out_hidden_size))


def _check(config: Qwen2_5_VLConfig) -> None:
    """ValueError, naming the field, for sizes that no model can have."""
    text, vision = config.text_config, config.vision_config
    for section, part, names in (("text_config", text, _TEXT), ("vision_config", vision, _VISION)):
        for name in names:
            value = getattr(part, name)
            if type(value) is not int or not 1 <= value <= _LAYERS.get(name, _MOST):
                raise ValueError(f"{section}.{name} must be 1..{_LAYERS.get(name, _MOST)}, not {value!r}")
        if part.hidden_act not in ACT2FN:
            raise ValueError(f"{section}.hidden_act {part.hidden_act!r} is unknown; there are {', '.join(ACT2FN)}")
    _divides("text_config.hidden_size", text.hidden_size, "num_attention_heads", text.num_attention_heads)
    _divides(
        "text_config.num_attention_heads", text.num_attention_heads, "num_key_value_heads", text.num_key_value_heads
    )
    _divides("vision_config.hidden_size", vision.hidden_size, "4 * num_heads", 4 * vision.num_heads)
    if vision.out_hidden_size != text.hidden_size:
        raise ValueError(
            f"vision_config.out_hidden_size is {vision.out_hidden_size}, text_config.hidden_size is {text.hidden_size}"
        )
    if vision.window_size < vision.patch_size * vision.spatial_merge_size:
        raise ValueError(f"vision_config.window_size, {vision.window_size}, must hold patch_size * spatial_merge_size")
    _check_rope(text.rope_parameters, text.hidden_size // text.num_attention_heads)


def _check_rope(rope: Any, head: int) -> None:
    kind, sections = (rope.get("rope_type"), rope.get("mrope_section")) if isinstance(rope, dict) else (None, None)
    if kind != "default":
        raise ValueError(f"text_config.rope_parameters.rope_type must be default, not {kind!r}")
    counts = sections if isinstance(sections, list) else []
    if len(counts) != 3 or not all(type(n) is int and n >= 0 for n in counts) or 2 * sum(counts) != head:
        raise ValueError(
            f"text_config.rope_parameters.mrope_section must be three numbers whose sum is half the head dimension, "
            f"{head / 2:g}, not {sections}"
        )


def _divides(name: str, value: int, by: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{name} ({value}) must be a multiple of {by} ({divisor})")
