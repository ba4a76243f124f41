"""How long a thought takes, beside what transformers takes for the same: ``generate``, then one full forward pass.

The images are those of an episode, one after the other, and all are asked in turn about each. Words and query states
must be the same. What transformers does is also what the tests hold the planner against. Where there is an NVIDIA GPU,
a planner of the robot's size, 3B, is timed there as well, with random weights.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessorList, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from syvla.message import UInt8
from syvla.messages import Observation, Task
from syvla.topics import CAMERAS
from syvla_models.describe import config_3b
from syvla_models.images import patches, view_of
from syvla_models.planner import SyvlaPlanner
from syvla_models.prefix import GRIPPERS
from syvla_models.prompt import Tokenizer, told
from syvla_models.spec import CameraView, PlannerSpec

TARGET, TARGET_GPU = 1.5, 3.0  # of the tiny planner on a CPU, of 3B on a GPU
CLOSE = 1e-3  # of the largest number of the query states
SIZE, THOUGHT = 224, 64  # pixels of each of the robot's views; tokens that 3B thinks
GPU_IMAGES, EXACT_IMAGES = 10, 2  # timed in bfloat16; compared in float32


def generated(planner: SyvlaPlanner, images: Sequence[UInt8], instruction: str) -> list[int]:
    """The thought's ids by transformers' ``generate``, which leaves its ``rope_deltas`` on the model."""
    vision, device = planner.vlm.config.vision_config, planner.queries.device
    ids = torch.tensor([planner.prompt(instruction)], device=device)
    pixel_values, grids = (each.to(device) for each in patches(images, vision.patch_size, vision.spatial_merge_size))

    def allowed(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # One write, as the planner's own: 150 000 ``suppress_tokens`` would cost more.
        return scores.masked_fill(planner.forbidden, -torch.inf)

    out = planner.vlm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixel_values,
        image_grid_thw=grids,
        mm_token_type_ids=(ids == planner.vlm.config.image_token_id).int(),
        do_sample=False,
        max_new_tokens=planner.spec.max_thought_tokens,
        eos_token_id=planner.end_id,
        pad_token_id=planner.pad_id,
        logits_processor=LogitsProcessorList([allowed]),
    )[0, ids.shape[1] :].tolist()
    return list(itertools.takewhile(lambda token: token != planner.end_id, out))


@torch.no_grad()
def full_pass_states(
    planner: SyvlaPlanner, images: Sequence[UInt8], instruction: str, thought: Sequence[int]
) -> torch.Tensor:
    """The query states (n, D) by transformers' own forward: no cache, everything in one pass."""
    model, vision, device = planner.vlm.model, planner.vlm.config.vision_config, planner.queries.device
    ids = torch.tensor([[*planner.prompt(instruction), *thought, planner.end_id]], device=device)
    pixel_values, grids = (each.to(device) for each in patches(images, vision.patch_size, vision.spatial_merge_size))
    embeddings = model.get_input_embeddings()(ids)
    features = torch.cat(model.get_image_features(pixel_values, grids).pooler_output)
    mask = ids == planner.vlm.config.image_token_id
    embeddings = embeddings.masked_scatter(mask[..., None], features.to(embeddings.dtype))
    embeddings = torch.cat([embeddings, planner.queries[None]], dim=1)
    kinds = torch.nn.functional.pad(mask.int(), (0, len(planner.queries)))
    padded = torch.nn.functional.pad(ids, (0, len(planner.queries)))
    positions, _ = model.get_rope_index(padded, mm_token_type_ids=kinds, image_grid_thw=grids)
    hidden = model.language_model(
        inputs_embeds=embeddings, position_ids=positions, attention_mask=torch.ones_like(padded)
    ).last_hidden_state
    states: torch.Tensor = hidden[0, -len(planner.queries) :]
    return states


@torch.no_grad()
def by_transformers(planner: SyvlaPlanner, images: Sequence[UInt8], instruction: str) -> tuple[list[int], torch.Tensor]:
    """The thought's ids and the query states (n, D)."""
    thought = generated(planner, images, instruction)
    return thought, full_pass_states(planner, images, instruction, thought)


class Timed(NamedTuple):
    """What came of it: ``times_s`` of each way, for how many images words and states were the same, tokens thought."""

    times_s: dict[str, list[float]]
    equal: int
    tokens: list[int]

    @property
    def medians_ms(self) -> dict[str, float]:
        """Without the first image, which warms up."""
        return {name: 1e3 * statistics.median(values[1:]) for name, values in self.times_s.items()}


def compared(planner: SyvlaPlanner, plain: SyvlaPlanner, cases: Sequence[tuple[Sequence[UInt8], str]]) -> Timed:
    """Each case, images and words, by transformers with ``plain``, and by ``planner`` from nothing and as it runs."""
    times_s: dict[str, list[float]] = {"transformers": [], "from nothing": [], "as it runs": []}
    equal = 0
    tokens: list[int] = []
    last: list[int] = []

    def noted(name: str, begun_s: float) -> None:
        if planner.queries.is_cuda:
            torch.cuda.synchronize()
        times_s[name].append(time.perf_counter() - begun_s)

    for images, text in cases:
        begun_s = time.perf_counter()
        thought, states = by_transformers(plain, images, text)
        noted("transformers", begun_s)
        same = True
        for name, reuse in (("from nothing", False), ("as it runs", True)):
            planner.draft(last)  # of the image before
            begun_s = time.perf_counter()
            *_, made = planner.think(images, text, reuse=reuse)
            noted(name, begun_s)
            assert not isinstance(made, str)  # noqa: S101 - think() ends with text and states
            off = float((made[1] - states).abs().max())
            same = same and planner.thought == thought and off <= CLOSE * float(states.abs().max())
        last = planner.thought
        tokens.append(len(last))
        equal += same
    return Timed(times_s, equal, tokens)


def bench(folder: Path, seen: Sequence[tuple[Observation, Task]], threads: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Time the planner of the checkpoint ``folder`` on what was ``seen``."""
    torch.set_num_threads(threads)
    planner = SyvlaPlanner.from_pretrained(folder)
    plain = SyvlaPlanner.from_pretrained(folder)  # with nothing of the other's left on its model
    cases = []
    for observation, task in seen:
        frames = {frame.camera: frame.rgb for frame in observation.frames}
        left, right = observation.proprioception[GRIPPERS].tolist()
        images = [view_of(frames[view.camera], view) for view in planner.spec.views]
        cases.append((images, told(planner.spec, task.instruction, (left, right))))
    found = compared(planner, plain, cases)
    result, line = _told(f"{folder.name}, {threads} thread(s)", found, TARGET)
    lines = [line, f"  words and query states the same for {found.equal} of {len(seen)} images"]
    result = {"benchmark": "planner", **result, "reached": found.equal == len(seen) and result["fast"]}
    if not torch.cuda.is_available():
        return result, [*lines, "  3B: not timed, there is no NVIDIA GPU here"]
    large, said = robots_size(config_3b(), planner.tokenizer, "cuda")
    return {**result, "gpu_3b": large, "reached": result["reached"] and large["reached"]}, [*lines, *said]


def robots_size(config: Qwen2_5_VLConfig, tokenizer: Tokenizer, device: str) -> tuple[dict[str, Any], list[str]]:
    """A planner of ``config`` with random weights and the robot's three views: timed in bfloat16, compared in float32.

    What it says is noise, in which two words may be as likely as each other to within what bfloat16 can tell.
    """
    views = tuple(CameraView(camera=camera, height=SIZE, width=SIZE) for camera in CAMERAS)
    spec = PlannerSpec(views=views, hidden_size=config.text_config.hidden_size, max_thought_tokens=THOUGHT)
    rng = np.random.default_rng(0)
    cases = [
        (list(rng.integers(0, 256, (len(views), SIZE, SIZE, 3), dtype=np.uint8)), "Put the red cube into the tray.")
        for _ in range(GPU_IMAGES)
    ]
    exact = random_planner(config, tokenizer, spec, torch.float32, device)
    equal = compared(exact, exact, cases[:EXACT_IMAGES]).equal
    planner = random_planner(config, tokenizer, spec, torch.bfloat16, device)
    del exact
    found = compared(planner, planner, cases)
    result, line = _told(f"3B's shape, random weights, bfloat16 on {device}", found, TARGET_GPU)
    words = (
        f"  words and query states the same for {equal} of {EXACT_IMAGES} images in float32, for {found.equal} of "
        f"{GPU_IMAGES} in bfloat16"
    )
    return {**result, "equal_float32": equal, "reached": equal == EXACT_IMAGES and result["fast"]}, [line, words]


def random_planner(
    config: Qwen2_5_VLConfig, tokenizer: Tokenizer, spec: PlannerSpec, dtype: torch.dtype, device: str
) -> SyvlaPlanner:
    """A planner of ``config`` that speaks by ``tokenizer``; the same one every time."""
    ids = tokenizer.get_vocab()
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = ids["<|vision_start|>"], ids["<|vision_end|>"]
    torch.manual_seed(0)
    with torch.device(device):
        vlm = Qwen2_5_VLForConditionalGeneration(config)
    return SyvlaPlanner(vlm.to(dtype), tokenizer, spec).eval()


def _told(name: str, found: Timed, target: float) -> tuple[dict[str, Any], str]:
    medians = found.medians_ms
    times = {way: medians["transformers"] / medians[way] for way in ("from nothing", "as it runs")}
    images, mean_tokens = len(found.tokens), statistics.mean(found.tokens)
    line = (
        f"planner, {name}, {images} images, {mean_tokens:.0f} tokens each: "
        f"transformers {medians['transformers']:.1f} ms; from nothing {medians['from nothing']:.1f} ms, "
        f"{times['from nothing']:.2f}x as fast; with the last thought as a draft {medians['as it runs']:.1f} ms, "
        f"{times['as it runs']:.2f}x ({target:g}x wanted from nothing)"
    )
    p99 = {way: 1e3 * float(np.quantile(values[1:], 0.99)) for way, values in found.times_s.items()}
    return {
        "images": images,
        "mean_tokens": mean_tokens,
        "median_ms": medians,
        "p99_ms": p99,
        "times_transformers": times,
        "equal": found.equal,
        "fast": times["from nothing"] >= target,
    }, line
