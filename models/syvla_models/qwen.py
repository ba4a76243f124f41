"""A Qwen2.5-VL folder, of any size: read and written through transformers, from safetensors, never from a hub."""

import json
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from syvla.errors import ConfigError
from syvla_models.prompt import SPECIAL_TOKENS, Tokenizer, special_id
from syvla_models.qwen_config import CONFIG_FILE, least_parameters, load_config
from syvla_models.spec import PlannerSpec
from syvla_models.weights import check_tensors, refuse

INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"
# What transformers reads besides, if it is there.
_ALSO_READ = (
    INDEX_FILE,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def files_read(folder: Path, known: Collection[str] = ()) -> list[str]:
    """The names of all files that :func:`load_qwen` reads in ``folder``, those it should have by ``known`` included."""
    also = [name for name in _ALSO_READ if name in known or (folder / name).exists()]
    return [*weight_files(folder), CONFIG_FILE, TOKENIZER_FILE, *also]


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

    ConfigError names what does not fit: a file, a field of ``config.json``, or the first tensor that is missing,
    unexpected or of another shape (transformers alone would fill it with random numbers and go on).
    """
    config = load_config(folder)
    weights = [folder / name for name in weight_files(folder)]
    for path in weights:
        check_tensors(path)
    held, wanted = sum(path.stat().st_size for path in weights), least_parameters(config)
    if wanted > held:  # told before they are drawn at random, which may never end
        raise ConfigError(f"{folder / CONFIG_FILE}: its sizes make {wanted} weights or more, in files of {held} bytes")
    disable_progress_bar()  # of transformers, in the midst of what is said here
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
    except Exception as error:  # safetensors, the Hub's checks and transformers each have errors of their own
        raise ConfigError(f"{folder}: {_first_line(error)}") from error
    refuse(
        folder,
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        mismatched={name: (tuple(found), tuple(expected)) for name, found, expected in info["mismatched_keys"]},
    )
    return model.to(device).eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder`` as ``tokenizer.json`` describes it."""
    if not (folder / TOKENIZER_FILE).is_file():
        raise ConfigError(f"{folder} has no {TOKENIZER_FILE}")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # that itself is what tokenizers raises
        raise ConfigError(f"{folder / TOKENIZER_FILE}: the tokenizer does not load: {_first_line(error)}") from error


def save_qwen(folder: Path, model: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Write a folder that transformers itself also reads; weights that were there before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / INDEX_FILE):
        old.unlink(missing_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_fit(vlm: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer, spec: PlannerSpec) -> None:
    """ConfigError, naming the field, where model, tokenizer and spec do not fit together."""
    text, vision = vlm.config.text_config, vlm.config.vision_config
    if spec.hidden_size != text.hidden_size:
        raise ConfigError(f"planner.hidden_size is {spec.hidden_size}, the language model's is {text.hidden_size}")
    if set(text.layer_types) != {"full_attention"}:
        raise ConfigError(f"text_config.layer_types must all be full_attention, not {sorted(set(text.layer_types))}")
    if not spec.views:
        raise ConfigError("planner.views must have at least one view")
    block = vision.patch_size * vision.spatial_merge_size
    for view in spec.views:
        for field, value in (("height", view.height), ("width", view.width)):
            if value % block:
                raise ConfigError(f"planner.views {view.camera}.{field} must be a multiple of {block}, not {value}")
    for token in SPECIAL_TOKENS:
        special_id(tokenizer, token)
    for field, token in (("image_token_id", "<|image_pad|>"), ("vision_start_token_id", "<|vision_start|>")):
        if getattr(vlm.config, field) != special_id(tokenizer, token):
            raise ConfigError(
                f"config.{field} is {getattr(vlm.config, field)}, but {token} is token {special_id(tokenizer, token)}"
            )
    highest = max(tokenizer.get_vocab().values())
    if highest >= text.vocab_size:
        raise ConfigError(f"the tokenizer has ids up to {highest}, text_config.vocab_size is only {text.vocab_size}")


def _first_line(error: Exception) -> str:
    """With its type, where it is only a key or nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines and not isinstance(error, KeyError) else repr(error)
