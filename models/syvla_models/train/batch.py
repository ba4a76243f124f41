"""From samples to the padded tensors that the planner and the expert train on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from syvla.errors import ConfigError
from syvla.message import Float32, Float64, UInt8
from syvla_models.flow import HAND_STRIDE
from syvla_models.images import patches
from syvla_models.prompt import TokenSequence, collate, told, training_sequence
from syvla_models.spec import PlannerSpec
from syvla_models.train.augment import augment
from syvla_models.train.mixture import Mixture
from syvla_models.train.samples import Actions, Sample, Seen

_REMEMBERED_TEXTS = 65536


class ActionEncoder(Protocol):
    """What is needed of ``syvla_models.actions.ActionSpace``."""

    def encode(self, rows: Float64, anchor: Float64) -> Float32:
        """Normalised actions (..., H, slots) of raw ``rows`` (..., H, 14), measured from ``anchor`` (..., 14)."""
        ...

    def state(self, proprioception: Float64) -> Float32:
        """The normalised state (..., 32) of what was measured (..., 14)."""
        ...

    def leverage(self, rows: Float64, stride: int) -> Float32:
        """How far grasp points move for a change of each slot, at every ``stride``-th of the raw ``rows``."""
        ...


class PromptedPlanner(Protocol):
    """What is needed of ``syvla_models.planner.SyvlaPlanner``."""

    spec: PlannerSpec
    end_id: int
    pad_id: int

    def prompt(self, instruction: str) -> list[int]:
        """The ids before the chain of thought."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a chain of thought."""
        ...


class ActionBatch(NamedTuple):
    """The robot samples of a batch: R rows with K chunks each."""

    rows: torch.Tensor  # (R,) int64, their places in the batch
    actions: torch.Tensor  # (R, K, H, slots) normalised
    state: torch.Tensor  # (R, K, 32) as measured, normalised
    age_s: torch.Tensor  # (R, K)
    prefix: torch.Tensor  # (R, K) int64, first rows that are given clean
    leverage: torch.Tensor  # (R, K, H // 5, 2, 3, 16) [m], see ``ActionSpace.leverage``


class ThingBatch(NamedTuple):
    """M things in the images of a batch."""

    token: torch.Tensor  # (M,) int64, among all image tokens of the batch, in the order of the rows
    name: torch.Tensor  # (M,) int64
    point_m: torch.Tensor  # (M, 2) in the world
    labelled: torch.Tensor  # (image tokens,) bool: of rows whose things are known
    asked: torch.Tensor  # (M,) bool: the thing that its row's question is about
    pointed: torch.Tensor  # (image tokens,) bool: of rows of which it is known what the question is about


class GazeBatch(NamedTuple):
    """G tokens, and what each should look at.

    A word that has just named a thing looks at the image token that shows it. The feature queries look at the last such
    word, which by then knows the place; where nothing was said they look at the image themselves.
    """

    row: torch.Tensor  # (G,) int64
    position: torch.Tensor  # (G,) int64, in the row
    image: torch.Tensor  # (G,) bool: at an image token, just past half way; else at a word, in the last layer
    target: torch.Tensor  # (G,) int64: among all image tokens of the batch, or a position in the row
    weight: torch.Tensor  # (G,), 1 for each time that something is spoken of


class Batch(NamedTuple):
    """B samples; see ``SyvlaPlanner.forward`` for the first six. What is not said to be an integer is float32."""

    ids: torch.Tensor  # (B, L) int64
    attention_mask: torch.Tensor  # (B, L) int64
    labels: torch.Tensor  # (B, L) int64
    query_start: torch.Tensor  # (B,) int64, -1 in a row without feature queries
    pixel_values: torch.Tensor  # (P, C), all images in the order of the rows
    image_grid_thw: torch.Tensor  # (images, 3) int64
    grounding: torch.Tensor  # (B, 8)
    grounding_known: torch.Tensor  # (B, 8) bool
    robot: ActionBatch | None  # None: no row is a robot sample
    sources: tuple[str, ...]  # of each row
    things: ThingBatch | None = None  # None: nothing is known of what the images show
    gaze: GazeBatch | None = None  # None: of no token is it known what it should look at

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on ``device``."""
        moved: dict[str, Any] = {n: v.to(device) for n, v in self._asdict().items() if isinstance(v, torch.Tensor)}
        robot = None if self.robot is None else ActionBatch(*(value.to(device) for value in self.robot))
        things = None if self.things is None else ThingBatch(*(value.to(device) for value in self.things))
        gaze = None if self.gaze is None else GazeBatch(*(value.to(device) for value in self.gaze))
        return self._replace(robot=robot, things=things, gaze=gaze, **moved)


class Collator:
    """Makes a batch of samples for one planner and one action space."""

    def __init__(
        self,
        planner: PromptedPlanner,
        encoder: ActionEncoder | None,
        *,
        feature_queries: int,
        patch: int,
        merge: int,
        names: Sequence[str] = (),
    ) -> None:
        """For ``planner``, whose vision tower has patches of ``patch`` pixels, ``merge`` x ``merge`` to a token.

        ``names`` are what things in the images may be called.

        ``encoder`` None leaves the actions of robot samples out.
        """
        self._planner = planner
        self._encoder = encoder
        self._queries = feature_queries
        self._patch, self._merge = patch, merge
        self._names = {name: index for index, name in enumerate(names)}
        self._prompts: dict[str, list[int]] = {}
        self._texts: dict[str, list[int]] = {}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """``samples`` as one batch, padded on the right."""
        sequences = [self.sequence(sample) for sample in samples]
        tokens = collate(sequences, self._planner.pad_id)
        pixel_values, grid = patches([image for s in samples for image in s.images], self._patch, self._merge)
        return Batch(
            ids=tokens.ids,
            attention_mask=tokens.attention_mask,
            labels=tokens.labels,
            query_start=tokens.query_start,
            pixel_values=pixel_values,
            image_grid_thw=grid,
            grounding=torch.from_numpy(np.stack([s.grounding for s in samples])),
            grounding_known=torch.from_numpy(np.stack([s.grounding_known for s in samples])),
            robot=self._robot(samples),
            sources=tuple(s.source for s in samples),
            things=self._things(samples),
            gaze=self._gaze(samples, sequences),
        )

    def sequence(self, sample: Sample) -> TokenSequence:
        """The tokens of one sample. A question has feature queries only if it says where the thing is."""
        end = self._planner.end_id
        if sample.question is not None:
            if sample.answer is None:
                raise ConfigError(f"{sample.source}: the question {sample.question!r} has no answer")
            queries = self._queries if sample.grounding_known.any() else 0
            prompt = self._prompt(sample, sample.question)
            return training_sequence(prompt, self._text(sample.answer), end, queries)
        said = sample.chain_of_thought
        prompt = self._prompt(sample, sample.instruction)
        return training_sequence(prompt, self._text(said or ""), end, self._queries, learn_thought=said is not None)

    # ------------------------------------------------------------ inside

    def _robot(self, samples: Sequence[Sample]) -> ActionBatch | None:
        found = [(row, s.actions) for row, s in enumerate(samples) if s.actions is not None]
        if not found or self._encoder is None:
            return None
        every = Actions(*(np.stack(values) for values in zip(*(actions for _, actions in found), strict=True)))
        return ActionBatch(
            rows=torch.tensor([row for row, _ in found]),
            actions=torch.from_numpy(self._encoder.encode(every.rows, every.proprioception)),
            state=torch.from_numpy(self._encoder.state(every.proprioception)),
            age_s=_float32(every.age_s),
            prefix=torch.from_numpy(every.prefix),
            leverage=torch.from_numpy(self._encoder.leverage(every.rows, HAND_STRIDE)),
        )

    def _things(self, samples: Sequence[Sample]) -> ThingBatch | None:
        """Each thing at the image token that shows its middle."""
        if not any(sample.seen for sample in samples):
            return None
        found: list[tuple[int, int, float, float, bool]] = []
        labelled: list[bool] = []
        pointed: list[bool] = []
        for sample in samples:
            first = len(labelled)
            tokens = sum(self._tokens(image) for image in sample.images)
            labelled += [bool(sample.seen)] * tokens
            pointed += [any(seen.asked is not None for seen in sample.seen)] * tokens
            for seen in sample.seen:
                token = first + self._token(sample, seen)
                found.append((token, self._names[seen.name], seen.x_m, seen.y_m, bool(seen.asked)))
        table = torch.tensor(found, dtype=torch.float64)
        return ThingBatch(
            token=table[:, 0].long(),
            name=table[:, 1].long(),
            point_m=table[:, 2:4].float(),
            labelled=torch.tensor(labelled),
            asked=table[:, 4].bool(),
            pointed=torch.tensor(pointed),
        )

    def _gaze(self, samples: Sequence[Sample], sequences: Sequence[TokenSequence]) -> GazeBatch | None:
        found: list[tuple[int, int, bool, int, float]] = []
        first = 0
        for row, (sample, sequence) in enumerate(zip(samples, sequences, strict=True)):
            for seen in sample.seen:
                token = first + self._token(sample, seen)
                words = self._words(sample, seen)
                found += [(row, word, True, token, 1.0) for word in words]
                if seen.sought and sequence.query_start >= 0:
                    target = (not words, words[-1] if words else token)
                    places = range(sequence.query_start, sequence.query_start + self._queries)
                    found += [(row, place, *target, 1.0 / self._queries) for place in places]
            first += sum(self._tokens(image) for image in sample.images)
        if not found:
            return None
        table = torch.tensor(found, dtype=torch.float64)
        whole = table[:, :4].long()
        return GazeBatch(whole[:, 0], whole[:, 1], whole[:, 2].bool(), whole[:, 3], table[:, 4].float())

    def _words(self, sample: Sample, seen: Seen) -> list[int]:
        """The positions in the row of the words that have just named what is seen."""
        if sample.question is None or sample.answer is None:
            return []
        before = len(self._prompt(sample, sample.question)) - 1
        return [before + len(self._text(sample.answer[:end])) for end in seen.said_at]

    def _tokens(self, image: UInt8) -> int:
        """How many tokens show an image."""
        rows, columns = self._rows_and_columns(image)
        return rows * columns

    def _token(self, sample: Sample, seen: Seen) -> int:
        """The token, among those of the sample's images, that shows the middle of what is seen."""
        rows, columns = self._rows_and_columns(sample.images[seen.view])
        earlier = sum(self._tokens(image) for image in sample.images[: seen.view])
        return earlier + int(seen.down * rows) * columns + int(seen.across * columns)

    def _rows_and_columns(self, image: UInt8) -> tuple[int, int]:
        """Of an image's tokens."""
        height, width = image.shape[:2]
        block = self._patch * self._merge
        return height // block, width // block

    def _prompt(self, sample: Sample, text: str) -> list[int]:
        return _remember(self._prompts, told(self._planner.spec, text, sample.widths_m), self._planner.prompt)

    def _text(self, text: str) -> list[int]:
        return _remember(self._texts, text, self._planner.encode)


class Batches:
    """The batches of a training run: ``batches(step)`` depends on ``step`` alone."""

    def __init__(
        self, mixture: Mixture, collator: Collator, rows: int, *, first_slot: int = 0, augmented: bool = False
    ) -> None:
        """``rows`` of every step from ``first_slot`` on (rank * rows where several processes share a step)."""
        self._mixture, self._collator = mixture, collator
        self._slots = range(first_slot, first_slot + rows)
        self._augmented = augmented

    def __call__(self, step: int) -> Batch:
        """The batch of ``step``."""
        return self._collator.collate([self._sample(step, slot) for slot in self._slots])

    def validation(self, source: str, first: int, rows: int) -> Batch:
        """Validation samples ``first`` to ``first + rows - 1`` of one source, never augmented."""
        return self._collator.collate([self._mixture.validation(source, i) for i in range(first, first + rows)])

    def _sample(self, step: int, slot: int) -> Sample:
        sample = self._mixture.sample(step, slot)
        if not self._augmented:
            return sample
        rng = self._mixture.augmentation(step, slot)
        return sample._replace(images=tuple(augment(image, rng) for image in sample.images))


def _remember(known: dict[str, list[int]], text: str, encode: Callable[[str], list[int]]) -> list[int]:
    ids = known.get(text)
    if ids is None:
        if len(known) >= _REMEMBERED_TEXTS:
            known.clear()
        ids = known[text] = encode(text)
    return ids


def _float32(values: Float64) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
