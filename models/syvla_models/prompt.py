"""The token sequences that the planner reads: Qwen2.5-VL's chat template with images, a thought and feature queries.

One sequence is ``prompt | chain of thought | <|im_end|> | feature queries``. Text is never parsed for special tokens:
an instruction that says ``<|im_end|>`` is spelt out, so nobody can end the user's turn from inside it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from syvla.errors import ConfigError
from syvla_models.spec import PlannerSpec

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QUERY_ID = -1  # stands in token ids where a feature query's embedding goes; no vocabulary has it
IGNORE = -100  # a label that is not learned

Tokenizer = Any  # transformers' PreTrainedTokenizerFast, which carries no types


class TokenSequence(NamedTuple):
    """One training sequence; ``labels[t]`` is ``ids[t]`` where it is to be predicted (from t - 1), else ``IGNORE``."""

    ids: list[int]
    labels: list[int]
    query_start: int  # -1: no feature queries


class TokenBatch(NamedTuple):
    """Right-padded sequences; all (B, L) int64 but ``query_start`` (B,)."""

    ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    query_start: torch.Tensor


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token; ConfigError if the tokenizer does not have it."""
    index = tokenizer.get_vocab().get(token)
    if index is None:
        raise ConfigError(f"the tokenizer has no special token {token}; it needs {', '.join(SPECIAL_TOKENS)}")
    return int(index)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of plain text; special tokens written in it are spelt out."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def told(spec: PlannerSpec, text: str, widths_m: tuple[float, float] | None) -> str:
    """What a planner is told: ``text``, and how far the hands are open if ``spec`` has it so and that is known."""
    return with_hands(text, widths_m) if spec.hands_told and widths_m is not None else text


_NARROW_M, _OPEN_M = 0.027, 0.0675  # around a bar held by its ends they are up to 67 mm apart, in an empty hand 0 or 70


def with_hands(text: str, widths_m: tuple[float, float]) -> str:
    """``text`` and how far the left and the right hand are open, in words.

    What a hand holds keeps its fingers apart. A camera above sees little difference between a thing that is held and
    one that lies below an open hand, and a planner that had only that went back and forth between the two. Told in
    millimetres, a small one did not learn which numbers mean that something is held.
    """
    left, right = ("shut" if width_m < _NARROW_M else "narrow" if width_m < _OPEN_M else "open" for width_m in widths_m)
    return f"{text} Hands: left {left}, right {right}."


def prompt_ids(tokenizer: Tokenizer, spec: PlannerSpec, instruction: str, image_tokens: Sequence[int]) -> list[int]:
    """The ids up to where the chain of thought begins.

    ``image_tokens`` has the number of ``<|image_pad|>`` of each image, in the order of ``spec.views``. The same as
    Qwen2.5-VL's chat template (whose system turn is left out if ``spec.system_prompt`` is empty).
    """
    pieces: list[int | str] = []
    start, end = special_id(tokenizer, "<|im_start|>"), special_id(tokenizer, "<|im_end|>")
    if spec.system_prompt:
        pieces += [start, f"system\n{spec.system_prompt}", end, "\n"]
    pieces += [start, "user\n"]
    images: list[int | str] = []
    for count in image_tokens:
        images.append(special_id(tokenizer, "<|vision_start|>"))
        images += [special_id(tokenizer, "<|image_pad|>")] * count
        images.append(special_id(tokenizer, "<|vision_end|>"))
    pieces += [instruction, *images] if spec.instruction_first else [*images, instruction]
    pieces += [end, "\n", start, "assistant\n"]
    return _encode_pieces(tokenizer, pieces)


def _encode_pieces(tokenizer: Tokenizer, pieces: Sequence[int | str]) -> list[int]:
    """Ids of ``pieces``; neighbouring texts are tokenised as one, as they would be in the whole string."""
    ids: list[int] = []
    text = ""
    for piece in [*pieces, None]:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            ids += encode(tokenizer, text)
            text = ""
        if piece is not None:
            ids.append(piece)
    return ids


def training_sequence(
    prompt: Sequence[int], thought: Sequence[int], end_id: int, queries: int, *, learn_thought: bool = True
) -> TokenSequence:
    """``prompt | thought | end_id | queries``; the thought and its end are labelled if ``learn_thought``.

    ``queries`` 0 makes a sequence of text only, as a question and its answer. An empty thought that is not to be
    learned (``learn_thought=False``) leaves the sequence without labels.
    """
    ids = [*prompt, *thought, end_id, *[QUERY_ID] * queries]
    labels = [IGNORE] * len(ids)
    if learn_thought:
        labels[len(prompt) : len(prompt) + len(thought) + 1] = [*thought, end_id]
    return TokenSequence(ids, labels, len(prompt) + len(thought) + 1 if queries else -1)


def collate(sequences: Sequence[TokenSequence], pad_id: int) -> TokenBatch:
    """Pad ``sequences`` on the right to one length."""
    length = max(len(s.ids) for s in sequences)
    ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        count = len(sequence.ids)
        ids[row, :count] = torch.tensor(sequence.ids)
        labels[row, :count] = torch.tensor(sequence.labels)
        mask[row, :count] = 1
    return TokenBatch(ids, mask, labels, torch.tensor([s.query_start for s in sequences]))
