"""A Qwen2.5-VL small enough for two CPU cores, with fresh weights and a tokenizer made from our own texts.

The same code as the 3B model, another config: what works here loads there.
"""

from collections.abc import Iterable, Iterator

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from syvla_models.planner import SyvlaPlanner
from syvla_models.prompt import SPECIAL_TOKENS, with_hands
from syvla_models.spec import CameraView, PlannerSpec

# What there is to see in the twin: the table, without the wall above and the arms' bases below.
TABLE_VIEW = CameraView(camera="cam_high", crop=(44 / 240, 0.0, 172 / 240, 1.0), height=128, width=320)

# Words with their space, numbers of at most two digits, runs of signs. A coordinate in centimetres is one token, so
# that a thought which changes in a number keeps its length.
_PIECES = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+"


def tiny_spec(**changes: object) -> PlannerSpec:
    """The planner of the twin."""
    fields: dict[str, object] = {"views": (TABLE_VIEW,), "hidden_size": 192, "instruction_first": True}
    return PlannerSpec(**{**fields, **changes})  # type: ignore[arg-type]


def train_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocabulary`` tokens that merges nothing across the pieces of ``_PIECES``.

    Any text can be encoded (bytes are its letters); every number of one or two digits is one token.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_with_numbers(texts), trainer)
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    others = [token for token in SPECIAL_TOKENS if token not in roles.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, additional_special_tokens=others, clean_up_tokenization_spaces=False, **roles
    )


def _with_numbers(texts: Iterable[str]) -> Iterator[str]:
    """``texts``, each once, the frame of the chat, and every small number often enough to become a token."""
    yield from dict.fromkeys(texts)
    for _ in range(1000):
        yield "user\nassistant\nsystem\n"
        for width_m in (0.0, 0.035, 0.07):
            yield with_hands("", (width_m, width_m))
    numbers = [*map(str, range(100)), *(f"{n:02}" for n in range(10))]
    for number in numbers:
        for _ in range(1000):
            yield f"{number} {number}"


def tiny_config(tokenizer: PreTrainedTokenizerFast, hidden_size: int = 192, merge: int = 1) -> Qwen2_5_VLConfig:
    """Four layers of text and three of vision; every vision layer sees the whole image, which is small.

    Not 2 x 2 patches make a token, as in the large model, but one: it shows 5.5 cm of the table, rarely two things.
    """
    depth = 3
    ids = tokenizer.get_vocab()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": 4,
            "num_attention_heads": hidden_size // 64,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1000.0},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": None,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": depth,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
            "out_hidden_size": hidden_size,
            "window_size": 64,
            "fullatt_block_indexes": list(range(depth)),
            "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_tiny(
    texts: Iterable[str], spec: PlannerSpec | None = None, *, vocabulary: int = 1024, seed: int = 0, merge: int = 1
) -> SyvlaPlanner:
    """A fresh tiny planner: the tokenizer is trained on ``texts``, the weights are drawn from ``seed``."""
    tokenizer = train_tokenizer(texts, vocabulary)
    spec = tiny_spec() if spec is None else spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer, spec.hidden_size, merge))
        return SyvlaPlanner(vlm, tokenizer, spec)
