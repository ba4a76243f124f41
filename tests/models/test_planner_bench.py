"""The benchmark of the planner: the same words and states as transformers, in less time."""

import pytest
import torch
from tests.models.test_base_size import shallow

from syvla.bench import BENCHMARKS
from syvla_models import planner_bench
from syvla_models.tiny import train_tokenizer


def test_the_shipped_planner_says_the_same_as_transformers() -> None:
    result, lines = BENCHMARKS["planner"](3, True)
    assert (result["images"], result["equal"]) == (3, 3)
    assert result["mean_tokens"] > 10
    medians = result["median_ms"]
    for name, times in result["times_transformers"].items():
        assert times == medians["transformers"] / medians[name] > 0.0
    assert result["reached"] is (result["times_transformers"]["from nothing"] >= 1.5)
    assert "the same for 3 of 3 images" in lines[1]
    if not torch.cuda.is_available():
        assert lines[2] == "  3B: not timed, there is no NVIDIA GPU here"


def test_a_planner_of_the_robots_widths_is_compared_with_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU, on a CPU: two layers, fewer images and a shorter thought."""
    for name, value in (("SIZE", 56), ("THOUGHT", 5), ("GPU_IMAGES", 2)):
        monkeypatch.setattr(planner_bench, name, value)
    tokenizer = train_tokenizer(["Put the red cube into the tray."] * 5, vocabulary=320)
    result, lines = planner_bench.robots_size(shallow(tokenizer), tokenizer, "cpu")
    assert result["equal_float32"] == 2
    assert result["images"] == 2
    assert result["mean_tokens"] == 5
    assert "3B's shape, random weights, bfloat16 on cpu" in lines[0]
    assert "for 2 of 2 images in float32" in lines[1]
