"""How long a thought takes, beside what transformers takes for the same: ``generate``, then one full forward pass.

The images are those of an episode, one after the other, and all are asked in turn about each. Words and query states
must be the same. What transformers does is also what the tests hold the planner against.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from syvla.message import UInt8
from syvla.messages import Observation, Task
from syvla_models.images import patches, view_of
from syvla_models.planner import SyvlaPlanner
from syvla_models.prefix import GRIPPERS
from syvla_models.prompt import told

TARGET = 1.5  # on a CPU, of the tiny planner
CLOSE = 1e-3  # of the largest number of the query states


def generated(planner: SyvlaPlanner, images: Sequence[UInt8], instruction: str) -> list[int]:
    """The thought's ids by transformers' ``generate``, which leaves its ``rope_deltas`` on the model."""
    vision = planner.vlm.config.vision_config
    ids = torch.tensor([planner.prompt(instruction)])
    pixel_values, grids = patches(images, vision.patch_size, vision.spatial_merge_size)
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
        suppress_tokens=planner.forbidden.nonzero()[:, 0].tolist(),
    )[0, ids.shape[1] :].tolist()
    return list(itertools.takewhile(lambda token: token != planner.end_id, out))


@torch.no_grad()
def full_pass_states(
    planner: SyvlaPlanner, images: Sequence[UInt8], instruction: str, thought: Sequence[int]
) -> torch.Tensor:
    """The query states (n, D) by transformers' own forward: no cache, everything in one pass."""
    model, vision = planner.vlm.model, planner.vlm.config.vision_config
    ids = torch.tensor([[*planner.prompt(instruction), *thought, planner.end_id]])
    pixel_values, grids = patches(images, vision.patch_size, vision.spatial_merge_size)
    embeddings = model.get_input_embeddings()(ids)
    features = torch.cat(model.get_image_features(pixel_values, grids).pooler_output)
    mask = ids == planner.vlm.config.image_token_id
    embeddings = embeddings.masked_scatter(mask[..., None], features)
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


def bench(folder: Path, seen: Sequence[tuple[Observation, Task]], threads: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Time the planner of the checkpoint ``folder`` on what was ``seen``."""
    torch.set_num_threads(threads)
    planner = SyvlaPlanner.from_pretrained(folder)
    plain = SyvlaPlanner.from_pretrained(folder)  # with nothing of the other's left on its model
    times_s: dict[str, list[float]] = {"transformers": [], "from nothing": [], "as it runs": []}
    equal = 0
    tokens: list[int] = []
    last: list[int] = []
    for observation, task in seen:
        frames = {frame.camera: frame.rgb for frame in observation.frames}
        images = [view_of(frames[view.camera], view) for view in planner.spec.views]
        left, right = observation.proprioception[GRIPPERS].tolist()
        text = told(planner.spec, task.instruction, (left, right))
        begun_s = time.perf_counter()
        thought, states = by_transformers(plain, images, text)
        times_s["transformers"].append(time.perf_counter() - begun_s)
        same = True
        for name, reuse in (("from nothing", False), ("as it runs", True)):
            planner.draft(last)  # of the image before
            begun_s = time.perf_counter()
            *_, made = planner.think(images, text, reuse=reuse)
            times_s[name].append(time.perf_counter() - begun_s)
            assert not isinstance(made, str)  # noqa: S101 - think() ends with text and states
            off = float((made[1] - states).abs().max())
            same = same and planner.thought == thought and off <= CLOSE * float(states.abs().max())
        last = planner.thought
        tokens.append(len(last))
        equal += same
    medians = {name: 1e3 * statistics.median(values[1:]) for name, values in times_s.items()}  # the first one warms up
    times = {name: medians["transformers"] / medians[name] for name in ("from nothing", "as it runs")}
    lines = [
        f"planner, {folder.name}, {threads} thread(s), {len(seen)} images, {statistics.mean(tokens):.0f} tokens each: "
        f"transformers {medians['transformers']:.1f} ms; from nothing {medians['from nothing']:.1f} ms, "
        f"{times['from nothing']:.2f}x as fast; with the last thought as a draft {medians['as it runs']:.1f} ms, "
        f"{times['as it runs']:.2f}x ({TARGET:g}x wanted from nothing)",
        f"  words and query states the same for {equal} of {len(seen)} images",
    ]
    p99 = {name: 1e3 * float(np.quantile(values[1:], 0.99)) for name, values in times_s.items()}
    return {
        "benchmark": "planner",
        "images": len(seen),
        "mean_tokens": statistics.mean(tokens),
        "median_ms": medians,
        "p99_ms": p99,
        "times_transformers": times,
        "equal": equal,
        "reached": equal == len(seen) and times["from nothing"] >= TARGET,
    }, lines
