"""A Qwen2.5-VL folder, of any size: read and written through transformers, from safetensors, never from a hub."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from syvla.errors import ConfigError
from syvla_models.prompt import Tokenizer
from syvla_models.weights import refuse

INDEX_FILE = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[str]:
    """The names of the weight files that transformers would read in ``folder``; ConfigError if there are none."""
    index = folder / INDEX_FILE
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not index.is_file():
        raise ConfigError(f"{folder} has neither model.safetensors nor {INDEX_FILE}")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{index}: weight_map is not readable: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(f"{index}: weight_map must name safetensors files beside it, not {name!r}")
    return names


def load_qwen(
    folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[Qwen2_5_VLForConditionalGeneration, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of ``folder``.

    ConfigError names what does not fit: a file, ``model_type``, or the first tensor that is missing, unexpected or of
    another shape (transformers alone would fill it with random numbers and go on).
    """
    config = _config(folder)
    weight_files(folder)
    try:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are reported here, with their names
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{folder}: {str(error).splitlines()[0]}") from error
    refuse(
        folder,
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        mismatched={name: (tuple(found), tuple(expected)) for name, found, expected in info["mismatched_keys"]},
    )
    return model.to(device).eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder`` as ``tokenizer.json`` describes it."""
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{folder} has no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: the tokenizer does not load: {error}") from error


def save_qwen(folder: Path, model: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Write a folder that transformers itself also reads; weights that were there before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / INDEX_FILE):
        old.unlink(missing_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(folder: Path) -> Qwen2_5_VLConfig:
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "qwen2_5_vl":
        raise ConfigError(f"{path}: model_type must be qwen2_5_vl, not {kind!r}")
    return Qwen2_5_VLConfig.from_dict(fields)
