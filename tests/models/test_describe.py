"""How large the policies are."""

from pathlib import Path

import msgspec
import pytest

from syvla.errors import ConfigError
from syvla_models.checkpoint import save
from syvla_models.describe import config_3b, describe, describe_checkpoint, kv_bytes_per_token, table
from syvla_models.expert import TINY, Expert, tiny_config
from syvla_models.spec import ActionSpec, PolicySpec
from syvla_models.tiny import build_tiny
from syvla_models.train.config import TINY_EXPERT, load_config

CONFIGS = Path(__file__).parents[2] / "models" / "configs"


def test_the_robots_policy_has_qwens_true_size() -> None:
    parts = {part.name: part.parameters for part in describe("3b").parts}
    vlm = sum(parts[name] for name in ("vision tower", "token embedding", "language model layers"))
    assert vlm == 3_754_622_976, "Qwen2.5-VL-3B, its output head being the embedding"
    assert parts["feature queries"] == 20 * 2048
    assert parts["action expert"] == pytest.approx(300e6, rel=0.03)
    assert kv_bytes_per_token(config_3b()) == 36864


def test_the_table_says_parameters_memory_and_cache() -> None:
    text = table(describe("3b"))
    for words in ("3.755 B", "7.0 GiB", "action expert", "KV cache 36.9 kB a token"):
        assert words in text


def test_the_base_expert_is_described_alone() -> None:
    described = describe("base")
    assert [part.name for part in described.parts] == ["action expert"]
    assert described.total.parameters == describe("3b").parts[-1].parameters
    assert "KV cache" not in table(described)


def test_the_tiny_policy_fits_what_ships() -> None:
    assert describe("tiny").total.float32_bytes < 60e6


def test_a_checkpoint_is_described_by_its_own_files(tmp_path: Path) -> None:
    planner = build_tiny(["a red cube"], vocabulary=400)
    expert = Expert(tiny_config(planner.spec.hidden_size))
    action = ActionSpec(space="joint", offset=((0.0,) * 32,), scale=((1.0,) * 32,))
    spec = save(
        tmp_path, planner, expert, PolicySpec(name="t", planner=planner.spec, expert=expert.config, action=action)
    )
    described = describe_checkpoint(tmp_path)
    assert described.name == spec.model_id
    assert described.total.parameters == sum(p.numel() for m in (planner, expert) for p in m.parameters())
    (tmp_path / "syvla.json").unlink()
    bare = describe_checkpoint(tmp_path)
    assert "action expert" not in [part.name for part in bare.parts]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        describe_checkpoint(tmp_path)


def test_training_files_mean_the_sizes_that_have_names() -> None:
    assert TINY_EXPERT == TINY
    assert load_config(CONFIGS / "tiny-finetune.toml", "finetune").model.expert == TINY
    from syvla_models.expert import BASE

    robots = load_config(CONFIGS / "finetune-3b.toml", "finetune").model.expert
    assert robots == msgspec.structs.replace(BASE, aimed=False), "of a robot's recordings nobody knows where to aim"
