"""Checkpoint folders: what was saved comes back exactly, and what does not fit is refused by its name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from syvla.digest import file_sha256
from syvla.errors import ConfigError
from syvla_models.checkpoint import load_expert, save
from syvla_models.expert import Expert
from syvla_models.planner import PLANNER_FILE, SyvlaPlanner
from syvla_models.qwen import INDEX_FILE, load_qwen
from syvla_models.spec import (
    EXPERT_FILE,
    SLOTS,
    SPEC_FILE,
    ActionSpec,
    CameraView,
    ExpertConfig,
    PolicySpec,
    load_json,
    load_spec,
    save_spec,
)
from syvla_models.tiny import build_tiny, tiny_spec

MODEL_FILE = "model.safetensors"
VIEW = CameraView(camera="cam_high", height=64, width=64)
INSTRUCTION = "Put the red cube into the white tray."


def policy_spec() -> PolicySpec:
    return PolicySpec(
        name="test",
        planner=tiny_spec(views=(VIEW,), max_thought_tokens=6),
        expert=ExpertConfig(width=48, depth=1, heads=2, intent_width=192),
        action=ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,)),
    )


@pytest.fixture(scope="module")
def parts() -> tuple[SyvlaPlanner, Expert]:
    planner = build_tiny([INSTRUCTION] * 5, policy_spec().planner, vocabulary=320)
    return planner.eval(), Expert(policy_spec().expert).eval()


@pytest.fixture(scope="module")
def saved(parts: tuple[SyvlaPlanner, Expert], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, *parts, policy_spec())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def think(planner: SyvlaPlanner) -> tuple[str, torch.Tensor]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    *_, final = planner.think([image], INSTRUCTION, reuse=False)
    assert isinstance(final, tuple)
    return final


def rehash(folder: Path) -> None:
    """Make ``syvla.json`` agree with the files and with itself, so that what is refused is not a digest."""
    save_spec(folder, load_json(folder / SPEC_FILE, PolicySpec))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    rehash(path.parent)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields))


# ---------------------------------------------------------------- what was saved comes back


def test_a_planner_comes_back_as_it_was(parts: tuple[SyvlaPlanner, Expert], saved: Path) -> None:
    planner = SyvlaPlanner.from_pretrained(saved)
    assert planner.spec == policy_spec().planner
    assert not planner.training
    ours = parts[0].state_dict()
    assert ours.keys() == planner.state_dict().keys()
    for name, tensor in planner.state_dict().items():
        assert torch.equal(tensor, ours[name]), name
    text, states = think(planner)
    expected_text, expected_states = think(parts[0])
    assert text == expected_text
    torch.testing.assert_close(states, expected_states)


def test_an_expert_comes_back_and_needs_no_planner(
    parts: tuple[SyvlaPlanner, Expert], saved: Path, tmp_path: Path
) -> None:
    for name in (SPEC_FILE, EXPERT_FILE):
        shutil.copy(saved / name, tmp_path / name)
    expert, spec = load_expert(tmp_path)
    assert not expert.training
    assert spec == load_spec(saved)
    for name, tensor in expert.state_dict().items():
        assert torch.equal(tensor, parts[1].state_dict()[name]), name


def test_the_tokenizer_is_one_that_transformers_finds_itself(saved: Path) -> None:
    planner = SyvlaPlanner.from_pretrained(saved)
    found = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    assert found.encode(INSTRUCTION, add_special_tokens=False) == planner.encode(INSTRUCTION)
    assert found.get_vocab() == planner.tokenizer.get_vocab()


def test_the_dtype_is_the_one_asked_for(saved: Path) -> None:
    planner = SyvlaPlanner.from_pretrained(saved, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in planner.parameters()} == {torch.bfloat16}
    _, states = think(planner)
    assert torch.isfinite(states).all()


def test_the_model_id_follows_the_weights(parts: tuple[SyvlaPlanner, Expert], saved: Path, tmp_path: Path) -> None:
    first = load_spec(saved)
    assert first.model_id.startswith("test@")
    assert save(tmp_path / "again", *parts, policy_spec()).model_id == first.model_id
    shutil.copytree(saved, tmp_path / "other")
    edit_tensors(tmp_path / "other" / PLANNER_FILE, lambda tensors: tensors["queries"].add_(1.0))
    assert load_spec(tmp_path / "other").model_id != first.model_id


def test_every_file_has_its_digest_and_nothing_is_pickled(saved: Path) -> None:
    spec = load_spec(saved)
    others = [path.name for path in saved.iterdir() if path.name != SPEC_FILE]
    assert spec.sha256 == {name: file_sha256(saved / name) for name in others}
    assert {MODEL_FILE, PLANNER_FILE, EXPERT_FILE, "config.json", "tokenizer.json"} <= set(others)
    assert {path.suffix for path in saved.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_saving_over_another_checkpoint_leaves_no_old_weights(parts: tuple[SyvlaPlanner, Expert], folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (folder / INDEX_FILE).write_text("{}")
    save(folder, *parts, policy_spec())
    assert not (folder / INDEX_FILE).exists()
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [EXPERT_FILE, MODEL_FILE, PLANNER_FILE]


def test_weights_in_several_files_are_read_and_checked(parts: tuple[SyvlaPlanner, Expert], folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    parts[0].vlm.save_pretrained(folder, max_shard_size="4MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    with pytest.raises(ConfigError, match=f"no entry for {shards[0].name}"):
        SyvlaPlanner.from_pretrained(folder)
    rehash(folder)
    torch.testing.assert_close(think(SyvlaPlanner.from_pretrained(folder))[1], think(parts[0])[1])
    shards[-1].unlink()
    with pytest.raises(ConfigError, match=rf"{shards[-1].name} is missing"):
        SyvlaPlanner.from_pretrained(folder)


# ---------------------------------------------------------------- what does not fit is refused


def test_a_changed_weight_is_refused_by_its_file(folder: Path) -> None:
    for name in (MODEL_FILE, PLANNER_FILE, EXPERT_FILE):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{MODEL_FILE} has sha256 [0-9a-f]{{12}}\.\.\., syvla\.json says"):
        SyvlaPlanner.from_pretrained(folder)
    with pytest.raises(ConfigError, match=f"{EXPERT_FILE} has sha256"):
        load_expert(folder)


@pytest.mark.parametrize("name", [PLANNER_FILE, EXPERT_FILE])
def test_a_missing_file_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        load_expert(folder) if name == EXPERT_FILE else SyvlaPlanner.from_pretrained(folder)


def test_a_folder_without_a_model_is_refused(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    with pytest.raises(ConfigError, match=f"neither {MODEL_FILE} nor {INDEX_FILE}"):
        SyvlaPlanner.from_pretrained(folder)
    (folder / SPEC_FILE).unlink()
    with pytest.raises(ConfigError, match=SPEC_FILE):
        SyvlaPlanner.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        (MODEL_FILE, lambda t: t.pop(_key(t, "norm.weight")), r"missing tensor model\.language_model\.norm\.weight"),
        (MODEL_FILE, lambda t: t.update(stray=torch.ones(1)), "unexpected tensor stray"),
        (
            MODEL_FILE,
            lambda t: t.update({_key(t, "norm.weight"): torch.ones(7)}),
            r"language_model\.norm\.weight has shape \(7,\), expected \(192,\)",
        ),
        (PLANNER_FILE, lambda t: t.pop("queries"), "missing tensor queries"),
        (PLANNER_FILE, lambda t: t.update(stray=torch.ones(1)), "unexpected tensor stray"),
        (
            PLANNER_FILE,
            lambda t: t.update(queries=torch.ones(19, 192)),
            r"queries has shape \(19, 192\), expected \(20, 192\)",
        ),
        (EXPERT_FILE, lambda t: t.update(stray=torch.ones(1)), "unexpected tensor stray"),
        (EXPERT_FILE, lambda t: t.pop(min(t)), "missing tensor "),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_its_name(
    folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], Any], named: str
) -> None:
    edit_tensors(folder / file, change)
    with pytest.raises(ConfigError, match=named):
        load_expert(folder) if file == EXPERT_FILE else SyvlaPlanner.from_pretrained(folder)


def _key(tensors: dict[str, torch.Tensor], end: str) -> str:
    """The name in the file of the language model's last norm."""
    (name,) = (n for n in tensors if n.endswith(end) and "layers" not in n)
    return name


def test_a_tokenizer_without_a_special_token_is_refused_by_its_name(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<|vision_end|>", "<|vision_over|>"))
    rehash(folder)
    with pytest.raises(ConfigError, match=r"no special token <\|vision_end\|>"):
        SyvlaPlanner.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        SyvlaPlanner.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load_qwen(folder)


def test_an_index_cannot_lead_out_of_the_folder_or_to_a_pickle(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    for name in ("../elsewhere/model.safetensors", "pytorch_model.bin"):
        (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ConfigError, match="must name safetensors files beside it"):
            SyvlaPlanner.from_pretrained(folder)


def test_a_plain_qwen_folder_is_where_training_begins(folder: Path) -> None:
    for name in (SPEC_FILE, PLANNER_FILE, EXPERT_FILE):
        (folder / name).unlink()
    planner = SyvlaPlanner(*load_qwen(folder), policy_spec().planner)
    assert planner.queries.shape == (20, 192)


def test_a_spec_of_other_parts_is_not_saved(parts: tuple[SyvlaPlanner, Expert], tmp_path: Path) -> None:
    spec = policy_spec()
    other = msgspec.structs.replace(spec, planner=tiny_spec())
    with pytest.raises(ConfigError, match=r"spec\.planner"):
        save(tmp_path, *parts, other)
    narrow = msgspec.structs.replace(spec, expert=msgspec.structs.replace(spec.expert, intent_width=64))
    with pytest.raises(ConfigError, match=r"expert\.intent_width is 64"):
        save(tmp_path, *parts, narrow)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_is_refused(
    parts: tuple[SyvlaPlanner, Expert], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("syvla_models.checkpoint.save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save(folder, *parts, policy_spec())
    with pytest.raises(ConfigError, match=SPEC_FILE):
        SyvlaPlanner.from_pretrained(folder)
