"""The slow system: Qwen2.5-VL, unmodified, and n learnable feature query tokens.

One cycle: the views and the instruction are read, the chain of thought is decoded greedily, and the feature queries
are appended behind it over the same cache. Their final hidden states are the intent.

Speculative reuse: thoughts change slower than images, so the last one is offered as a draft in the same pass that
reads the prompt. Where the model agrees with every token of it, the whole cycle is that one pass; where it does not,
decoding goes on from the first token that differs. The outcome is that of plain greedy decoding (up to ties closer
than rounding).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration

from syvla.errors import MessageError
from syvla.message import UInt8
from syvla_models import images as pixels
from syvla_models.decoder import Decoder, Lender
from syvla_models.draft import Draft
from syvla_models.language import Cache, extend, rotary
from syvla_models.prompt import (
    IGNORE,
    QUERY_ID,
    SPECIAL_TOKENS,
    Tokenizer,
    encode,
    prompt_ids,
    special_id,
)
from syvla_models.qwen import check_fit, files_read, load_qwen
from syvla_models.spec import PlannerSpec, load_spec, verify
from syvla_models.weights import load_tensors

PLANNER_FILE = "planner.safetensors"
_KNOWN_PROMPTS = 16
Thinking = str | tuple[str, torch.Tensor]


class _Prompt(NamedTuple):
    """What does not change while the instruction stands. Of the L tokens the first P come before any image."""

    ids: torch.Tensor  # (L - P,)
    image_mask: torch.Tensor  # (L - P,)
    rotations: tuple[torch.Tensor, torch.Tensor]  # of L + thought budget + 1 + n tokens
    capacity: int  # how many these are
    read: Cache  # the first P
    weights: int  # which weights read them


class Reading(NamedTuple):
    """What one training pass gives."""

    text_loss: torch.Tensor  # mean cross entropy of the labelled tokens, 0 without any
    query_states: torch.Tensor | None  # (B, n, D) float32, zero for a row without; None if none were asked for
    image_features: torch.Tensor  # (image tokens, D) float32: what the vision tower makes of the images, row after row
    image_states: torch.Tensor  # (image tokens, D) float32: the same tokens half way through the language model
    gaze: torch.Tensor | None  # (2, B, L, L), if asked for: attention of the first head, past half way and at the end


class SyvlaPlanner(nn.Module):
    """``vlm`` and ``queries`` (n, D); ``spec`` says what it looks at. ConfigError where the three do not fit."""

    forbidden: torch.Tensor  # (V,) bool: tokens that are never thought

    def __init__(self, vlm: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer, spec: PlannerSpec) -> None:
        super().__init__()
        check_fit(vlm, tokenizer, spec)
        self.vlm = vlm
        self.tokenizer = tokenizer
        self.spec = spec
        weight = vlm.get_input_embeddings().weight
        self.queries = nn.Parameter(0.02 * torch.randn(spec.feature_queries, spec.hidden_size).to(weight))
        self.end_id = special_id(tokenizer, "<|im_end|>")
        self.pad_id = special_id(tokenizer, "<|endoftext|>")
        allowed = torch.zeros(vlm.config.text_config.vocab_size, dtype=torch.bool)
        allowed[list(tokenizer.get_vocab().values())] = True
        allowed[[special_id(tokenizer, t) for t in SPECIAL_TOKENS]] = False
        allowed[self.end_id] = True
        self.register_buffer("forbidden", ~allowed.to(weight.device), persistent=False)
        self._prompts: dict[tuple[str, PlannerSpec, torch.device], _Prompt] = {}
        self.last: tuple[str, list[int]] = ("", [])  # instruction and ids of the last whole thought
        self.steps_statically = self.queries.is_cuda  # elsewhere launching a kernel costs nothing to speak of
        self._decoders = Lender()

    @classmethod
    def from_pretrained(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> "SyvlaPlanner":
        """The planner of a checkpoint folder, in evaluation mode.

        ``folder`` is a Qwen2.5-VL folder of any size with ``syvla.json`` and ``planner.safetensors`` beside it.
        ConfigError names the file, field or tensor that does not fit; digests are checked before anything is read.
        """
        spec = load_spec(folder)
        verify(folder, spec.sha256, [*files_read(folder, spec.sha256), PLANNER_FILE])
        vlm, tokenizer = load_qwen(folder, dtype, device)
        planner = cls(vlm, tokenizer, spec.planner)
        load_tensors(folder / PLANNER_FILE, {"queries": planner.queries})
        return planner.eval()

    # ------------------------------------------------------------ words

    @property
    def grids(self) -> torch.Tensor:
        """Patches of each view: (views, 3) of 1, height, width."""
        patch = self.vlm.config.vision_config.patch_size
        return torch.tensor([(1, view.height // patch, view.width // patch) for view in self.spec.views])

    def prompt(self, instruction: str) -> list[int]:
        """The ids that come before the chain of thought, with every image's ``<|image_pad|>`` written out."""
        merge = self.vlm.config.vision_config.spatial_merge_size
        counts = [int(grid.prod()) // merge**2 for grid in self.grids]
        return prompt_ids(self.tokenizer, self.spec, instruction, counts)

    def encode(self, text: str) -> list[int]:
        """The ids of a chain of thought or an answer."""
        return encode(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; a character whose bytes are not all there yet is left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.rstrip("\ufffd")

    # ------------------------------------------------------------ training

    def forward(
        self,
        ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_grid_thw: torch.Tensor | None,
        labels: torch.Tensor | None = None,
        query_start: torch.Tensor | None = None,
        *,
        gaze: bool = False,
    ) -> Reading:
        """One pass over a batch padded on the right; see ``prompt.training_sequence`` and ``prompt.collate``.

        Args:
            ids: (B, L) int64, ``QUERY_ID`` where a feature query stands.
            attention_mask: (B, L), 1 for a token and 0 for padding, which must be on the right.
            pixel_values: (P, C) patches of all images in the order of the rows; None or empty without images.
            image_grid_thw: (images, 3).
            labels: (B, L), ``IGNORE`` or the id at that place, which is to be predicted from the one before.
            query_start: (B,) index of the first feature query; negative for a row without.
            gaze: Whether the attention is wanted; fused kernels do not tell it.

        Returns:
            The losses and states, see :class:`Reading`.
        """
        eager = gaze or ids.device.type == "cpu"  # the fused kernel's backward is slower on a CPU
        if eager and self.vlm.config._attn_implementation != "eager":  # noqa: SLF001
            self.vlm.set_attn_implementation("eager")
        hidden, halfway, features, looks = self._hidden(ids, attention_mask, pixel_values, image_grid_thw, gaze=gaze)
        shown = halfway[ids == self.vlm.config.image_token_id].float()
        loss = hidden.new_zeros((), dtype=torch.float32)
        if labels is not None:
            wanted = labels[:, 1:] != IGNORE
            if wanted.any():
                logits = self.vlm.lm_head(hidden[:, :-1][wanted]).float()
                loss = functional.cross_entropy(logits, labels[:, 1:][wanted])
        if query_start is None:
            return Reading(loss, None, features, shown, looks)
        has = (query_start >= 0)[:, None]
        places = query_start.clamp(min=0)[:, None] + torch.arange(len(self.queries), device=ids.device)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        states = hidden[rows, places.clamp(max=ids.shape[1] - 1)].float()
        return Reading(loss, states * has[..., None], features, shown, looks)

    def _hidden(
        self,
        ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_grid_thw: torch.Tensor | None,
        *,
        gaze: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Final and half-way hidden states (B, L, D), image features (image tokens, D), attention.

        Causal attention alone hides padding on the right, so no mask is given, which keeps the fast kernel.
        """
        model = self.vlm.model
        queries = ids == QUERY_ID
        embeddings = model.get_input_embeddings()(ids.clamp(min=0))
        rank = (queries.cumsum(1) - 1).clamp(min=0)  # the how-manieth query of its row
        embeddings = torch.where(queries[..., None], self.queries[rank % len(self.queries)], embeddings)
        images = ids == self.vlm.config.image_token_id
        features = embeddings.new_zeros(0, embeddings.shape[-1])
        if pixel_values is not None and len(pixel_values):
            features = self.see(pixel_values, image_grid_thw)
            embeddings = embeddings.masked_scatter(images[..., None], features.to(embeddings.dtype))
        positions, _ = model.get_rope_index(
            ids, mm_token_type_ids=images.long(), image_grid_thw=image_grid_thw, attention_mask=attention_mask
        )
        read = model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            use_cache=False,
            output_hidden_states=True,
            output_attentions=gaze,
        )
        middle = len(model.language_model.layers) // 2
        looks = torch.stack([read.attentions[layer][:, 0] for layer in (middle, -1)]) if gaze else None
        return read.last_hidden_state, read.hidden_states[middle], features.float(), looks

    def see(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None) -> torch.Tensor:
        """Image embeddings (image tokens, D)."""
        visual = self.vlm.model.visual
        features: torch.Tensor = visual(pixel_values.to(visual.dtype), grid_thw=image_grid_thw).pooler_output
        return features

    # ------------------------------------------------------------ thinking

    def think(self, images: Sequence[UInt8], instruction: str, *, reuse: bool = True) -> Iterator[Thinking]:
        """Yield the growing chain of thought, then once (chain of thought, query states (n, D)).

        ``images`` (H, W, 3) are the views of ``spec.views``, in order (see ``images.view_of``). Closed before
        its end it leaves the last whole thought as the draft of the next. ``reuse=False`` decodes from nothing.
        """
        run = _Run(self, self._prompt(instruction), images)
        draft = Draft(self.last[1] if reuse else [])
        thought: list[int] = []
        known = run.prompt
        while True:
            offer = draft.offer(self.spec.max_thought_tokens - len(thought))
            agreed, upcoming, states = run.advance(known, offer, len(thought))
            if agreed:
                thought += offer[:agreed]
                yield self.decode(thought)
            if states is not None:
                break
            if upcoming == self.end_id or len(thought) == self.spec.max_thought_tokens:
                states = run.finish()
                break
            thought.append(upcoming)
            yield self.decode(thought)
            known = run.embed([upcoming])
            draft.learn(agreed, thought)
        self.last = (instruction, thought)
        yield self.decode(thought), states.clone()

    def refresh(self, images: Sequence[UInt8], instruction: str) -> tuple[str, torch.Tensor] | None:
        """The last thought kept as it is, and query states (n, D) made with these ``images``: one pass.

        None if the last thought was about another instruction.
        """
        about, thought = self.last
        if about != instruction:
            return None
        run = _Run(self, self._prompt(instruction), images)
        return self.decode(thought), run.finish(thought).clone()

    @property
    def thought(self) -> list[int]:
        """The ids of the last whole thought."""
        return list(self.last[1])

    def draft(self, thought: Sequence[int]) -> None:
        """Let the ids ``thought`` be what the next thought is tried with first."""
        self.last = ("", list(thought))

    def _prompt(self, instruction: str) -> _Prompt:
        device = self.queries.device
        key = (instruction, self.spec, device)
        known, weights = self._prompts.get(key), self._weights()
        if known is not None and known.weights == weights:
            return known
        ids = torch.tensor([self.prompt(instruction)], device=device)
        mask = ids == self.vlm.config.image_token_id
        positions, delta = self.vlm.model.get_rope_index(
            ids, mm_token_type_ids=mask.long(), image_grid_thw=self.grids.to(device)
        )
        tail = self.spec.max_thought_tokens + 1 + len(self.queries)
        following = torch.arange(tail, device=device) + ids.shape[1] + delta  # (1, tail): text goes on counting
        positions = torch.cat([positions, following.expand(3, 1, tail)], dim=2)
        if len(self._prompts) >= _KNOWN_PROMPTS:
            self._prompts.clear()
        self._prompts[key] = self._read(ids[0], mask[0], positions, weights)
        return self._prompts[key]

    @torch.inference_mode()
    def _read(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, weights: int) -> _Prompt:
        """The prompt with what comes before its first image already in a cache."""
        text = self.vlm.model.language_model
        first = int(mask.nonzero()[0])
        rotations, read = rotary(text, positions), Cache(text, first)
        if first:
            extend(text, read, text.embed_tokens(ids[None, :first]), rotations)
        return _Prompt(ids[first:], mask[first:], rotations, positions.shape[2], read, weights)

    def _choices(self, hidden: torch.Tensor) -> torch.Tensor:
        """The greedy choice after each hidden state (..., D)."""
        logits: torch.Tensor = self.vlm.lm_head(hidden)
        return logits.masked_fill(self.forbidden, -torch.inf).argmax(-1)

    def _lend(self, run: "_Run", capacity: int) -> Decoder | None:
        if not self.steps_statically:
            return None
        return self._decoders.lend(
            run, self.vlm.model.language_model, lambda hidden: self._choices(hidden)[0], capacity
        )

    def _weights(self) -> int:
        """Another number as soon as a weight of the language model was written to."""
        return sum(parameter._version for parameter in self.vlm.model.language_model.parameters())  # noqa: SLF001


class _Run:
    """One cycle over one cache of its own, so that cycles may interleave."""

    @torch.inference_mode()
    def __init__(self, planner: SyvlaPlanner, prompt: _Prompt, images: Sequence[UInt8]) -> None:
        self.planner = planner
        self.text = planner.vlm.model.language_model
        self.rotations = prompt.rotations
        self.decoder = planner._lend(self, prompt.capacity)  # noqa: SLF001 - its own module
        if self.decoder is None:
            self.cache = prompt.read.copy(prompt.capacity)
        else:
            self.cache = self.decoder.begin(prompt.read, prompt.rotations)
        self.unread = True
        vision = planner.vlm.config.vision_config
        pixel_values, grids = pixels.patches(images, vision.patch_size, vision.spatial_merge_size)
        if not torch.equal(grids, planner.grids):
            raise MessageError(f"the images must be {_sizes(planner.spec)}, not {[i.shape[:2] for i in images]}")
        device = prompt.ids.device
        features = planner.see(pixel_values.to(device), grids.to(device))
        self.prompt = self.text.embed_tokens(prompt.ids)  # (L - P, D)
        self.prompt[prompt.image_mask] = features.to(self.prompt.dtype)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Embeddings (T, D) of ``ids``."""
        embedded: torch.Tensor = self.text.embed_tokens(torch.tensor(ids, device=self.prompt.device))
        return embedded

    @torch.inference_mode()
    def advance(
        self, known: torch.Tensor, offer: Sequence[int], thought_tokens: int
    ) -> tuple[int, int, torch.Tensor | None]:
        """Append ``known`` (T, D) and, in the same pass, try ``offer`` after ``thought_tokens`` of thought.

        Returns how many offered tokens greedy decoding agrees with (those stay in the cache), the token that follows
        them, and the query states if it agrees with all of them and with ending there.
        """
        self.unread = False
        length, planner = self.cache.length + len(known), self.planner
        if not offer and self.decoder is not None and len(known) == 1:
            return 0, self.decoder.step(known), None
        if not offer:
            hidden = extend(self.text, self.cache, known[None], self.rotations)[0]
            return 0, self._choices(hidden[-1:])[0], None
        hidden = extend(self.text, self.cache, torch.cat([known, self._tail(offer)])[None], self.rotations)[0]
        choices = self._choices(hidden[len(known) - 1 : len(known) + len(offer)])
        agreed = next((i for i, token in enumerate(offer) if choices[i] != token), len(offer))
        budget = planner.spec.max_thought_tokens - thought_tokens
        if agreed == len(offer) and (agreed == budget or choices[agreed] == planner.end_id):
            return agreed, planner.end_id, hidden[-len(planner.queries) :]
        self.cache.length = length + agreed
        return agreed, choices[agreed], None

    @torch.inference_mode()
    def finish(self, thought: Sequence[int] = ()) -> torch.Tensor:
        """Append ``thought``, the end and the feature queries; the final hidden states (n, D) of the queries.

        With a ``thought`` the prompt is read in the same pass.
        """
        tail = self._tail(thought)
        if self.unread:
            tail = torch.cat([self.prompt, tail])
        return extend(self.text, self.cache, tail[None], self.rotations)[0, -len(self.planner.queries) :]

    def _tail(self, thought: Sequence[int]) -> torch.Tensor:
        """Embeddings (T, D) of ``thought``, the end and the feature queries."""
        return torch.cat([self.embed([*thought, self.planner.end_id]), self.planner.queries])

    def _choices(self, hidden: torch.Tensor) -> list[int]:
        """The greedy choice after each of ``hidden`` (T, D)."""
        choices: list[int] = self.planner._choices(hidden).tolist()  # noqa: SLF001 - its own module
        return choices


def _sizes(spec: PlannerSpec) -> str:
    return ", ".join(f"{view.camera} {view.height}x{view.width}" for view in spec.views)
