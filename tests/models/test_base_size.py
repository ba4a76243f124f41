"""The robot's size: planner and expert with the widths of the 3B policy, fewer layers and random weights."""

import msgspec
import numpy as np
import torch
from transformers import Qwen2_5_VLConfig

from syvla_models.describe import config_3b
from syvla_models.expert import Expert, base_config
from syvla_models.flow import sample
from syvla_models.planner_bench import full_pass_states, random_planner
from syvla_models.prompt import Tokenizer
from syvla_models.spec import SLOTS, CameraView, PlannerSpec
from syvla_models.tiny import train_tokenizer

INSTRUCTION = "Put the red cube into the white tray."
SIZE = 224  # pixels: two windows of the vision tower in each direction
VIEWS = tuple(CameraView(camera=c, height=SIZE, width=SIZE) for c in ("cam_high", "cam_left_wrist", "cam_right_wrist"))


def shallow(tokenizer: Tokenizer) -> Qwen2_5_VLConfig:
    """The 3B config with two layers of text, two of vision (one looks through windows) and this vocabulary."""
    config = config_3b()
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers, text.layer_types = 2, ["full_attention"] * 2
    text.vocab_size = len(tokenizer.get_vocab())
    vision.depth, vision.fullatt_block_indexes = 2, [1]
    return config


def expert_with_open_gates() -> Expert:
    expert = Expert(msgspec.structs.replace(base_config(2048), depth=2))
    for layer in (expert.time_out, expert.action_out):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return expert.eval()


def test_the_base_size_makes_an_intent_and_a_chunk_of_it() -> None:
    tokenizer = train_tokenizer([INSTRUCTION] * 5, vocabulary=320)
    spec = PlannerSpec(views=VIEWS, hidden_size=2048, system_prompt="You help.", max_thought_tokens=6)
    planner = random_planner(shallow(tokenizer), tokenizer, spec, torch.float32, "cpu")
    text, vision = planner.vlm.config.text_config, planner.vlm.config.vision_config
    assert (text.num_attention_heads, text.num_key_value_heads, vision.patch_size) == (16, 2, 14)
    images = list(np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8))

    *_, made = planner.think(images, INSTRUCTION, reuse=False)
    assert isinstance(made, tuple)
    in_one_pass = full_pass_states(planner, images, INSTRUCTION, planner.thought)
    torch.testing.assert_close(made[1], in_one_pass, rtol=1e-4, atol=1e-4 * float(in_one_pass.abs().max()))
    *_, other = planner.think(images[::-1], INSTRUCTION, reuse=False)
    assert isinstance(other, tuple)
    assert not torch.allclose(other[1], made[1], rtol=1e-2), "it sees which camera shows what"

    expert = expert_with_open_gates()
    noise, live = torch.randn(1, 50, SLOTS), torch.ones(SLOTS, dtype=torch.bool)
    chunks = []
    with torch.inference_mode():
        for states in (made[1], other[1]):
            cache = expert.condition(states[None].clone())
            assert cache.key.shape == (2, 1, 16, 20, 64)
            chunks.append(sample(expert, cache, torch.zeros(1, SLOTS), torch.zeros(1), noise, None, None, 3, live))
    assert chunks[0].shape == (1, 50, SLOTS)
    assert chunks[0].isfinite().all()
    assert not torch.allclose(chunks[0], chunks[1]), "it acts on the intent"
