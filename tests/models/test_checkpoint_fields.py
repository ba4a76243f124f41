"""Checkpoint folders whose settings or files are not what the weights were made for: one line names file and field."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syvla.digest import file_sha256
from syvla.errors import ConfigError
from syvla_models.checkpoint import load_expert
from syvla_models.planner import SyvlaPlanner
from syvla_models.qwen import load_qwen
from syvla_models.spec import HEADS_FILE, SPEC_FILE, PolicySpec, load_json, load_spec, save_spec

Change = Callable[[dict[str, Any]], Any]
READ = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path: Path, change: Change) -> None:
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields))


def reseal(folder: Path) -> None:
    """Make every digest right, so that what is refused is what is written."""
    save_spec(folder, load_json(folder / SPEC_FILE, PolicySpec))


def refusal(folder: Path) -> str:
    """Of the planner; it must be one line that names the folder's file."""
    with pytest.raises(ConfigError) as refused:
        SyvlaPlanner.from_pretrained(folder)
    words = str(refused.value)
    assert "\n" not in words
    assert str(folder) in words
    return words


# ---------------------------------------------------------------- syvla.json


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("planner", "feature_queries", 10),
        ("planner", "hands_told", True),
        ("planner", "instruction_first", False),
        ("expert", "heads", 2),
        ("expert", "heads", 3),
        ("expert", "depth", 5),
        ("action", "space", "end_effector"),
        ("action", "scale", [[0.1] * 32]),
        ("action", "offset", [[-1.0] * 32]),
        ("action", "state_scale", [2.0] * 32),
        ("action", "period_s", 0.05),
        ("action", "max_prefix", 20),
    ],
)
def test_a_setting_that_the_weights_were_not_made_for_is_refused(
    damaged: Path, section: str, field: str, value: object
) -> None:
    """They fit the shapes, and loaded: an expert with two heads for four, or with actions ten times as large."""
    edit(damaged / SPEC_FILE, lambda spec: spec[section].update({field: value}))
    assert refusal(damaged) == (
        f"{damaged / SPEC_FILE}: {section}.{field} is not what the weights were made for (made_for says otherwise)"
    )
    with pytest.raises(ConfigError, match=rf"{section}\.{field}"):
        load_expert(damaged)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("planner", "max_thought_tokens", 20),
        ("planner", "think", "every_s"),
        ("action", "euler_steps", 2),
        ("action", "noise_scale", 0.0),
        ("action", "execution_horizon_s", 0.2),
    ],
)
def test_how_a_policy_is_run_may_be_changed(damaged: Path, section: str, field: str, value: object) -> None:
    before = load_spec(damaged).model_id
    edit(damaged / SPEC_FILE, lambda spec: spec[section].update({field: value}))
    assert load_expert(damaged)[1].model_id == before
    assert SyvlaPlanner.from_pretrained(damaged).spec == load_spec(damaged).planner


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["action"].update(euler_steps=0), "euler_steps must be 1..100, not 0"),
        (lambda c: c["action"].update(euler_steps=-3), "euler_steps must be 1..100, not -3"),
        (lambda c: c["action"].update(period_s=0.0), "period_s must be 0.001..1, not 0.0"),
        (lambda c: c["action"].update(period_s=-0.1), "period_s must be 0.001..1, not -0.1"),
        (lambda c: c["action"].update(max_prefix=-1), "max_prefix must be at least 0, not -1"),
        (lambda c: c["action"].update(max_prefix=51), r"max_prefix must be 0..50 \(expert.horizon\), not 51"),
        (lambda c: c["action"].update(scale=[[0.0] * 32]), "scales must be positive"),
        (lambda c: c["action"].update(scale=[[0.1] * 31]), "scale must have rows of 32 numbers, not of"),
        (lambda c: c["action"].update(offset=[[0.1] * 32] * 2), "offset has 2 rows, scale has 1"),
        (lambda c: c["planner"].update(max_thought_tokens=0), "max_thought_tokens must be 1..4096, not 0"),
        (lambda c: c["planner"].update(think_every_s=-1.0), "think_every_s must be 0..3600, not -1.0"),
        (lambda c: c["planner"].update(think="often"), "often"),
        (lambda c: c["planner"].update(temperature=1.0), "temperature"),
        (lambda c: c["made_for"].pop("expert.heads"), r"made_for has no entry for expert\.heads"),
        (lambda c: c.pop("made_for"), r"made_for has no entry for planner\.views"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(damaged: Path, change: Change, named: str) -> None:
    edit(damaged / SPEC_FILE, change)
    with pytest.raises(ConfigError, match=named) as refused:
        load_spec(damaged)
    assert str(damaged / SPEC_FILE) in str(refused.value)
    with pytest.raises(ConfigError, match=named):
        load_expert(damaged)


def test_heads_that_do_not_divide_the_width_are_refused_by_their_name(damaged: Path) -> None:
    edit(damaged / SPEC_FILE, lambda spec: spec["expert"].update(heads=3))
    reseal(damaged)
    with pytest.raises(ConfigError, match=r"expert\.width \(128\) must be a multiple of expert\.heads \(3\)"):
        load_expert(damaged)


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize("name", READ)
def test_every_file_that_is_read_has_a_digest_and_is_held_to_it(damaged: Path, name: str) -> None:
    (damaged / name).write_bytes((damaged / name).read_bytes() + b" ")
    assert f"{name} has sha256" in refusal(damaged)
    edit(damaged / SPEC_FILE, lambda spec: spec["sha256"].pop(name))
    assert f"no entry for {name}" in refusal(damaged)


@pytest.mark.parametrize("name", READ)
def test_a_file_with_a_digest_must_be_there(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    assert f"{name} is missing" in refusal(damaged)


def test_a_file_that_was_put_in_and_would_be_read_is_refused(damaged: Path) -> None:
    (damaged / "added_tokens.json").write_text('{"<|im_end|>": 7}')
    assert "no entry for added_tokens.json" in refusal(damaged)


def test_the_model_id_is_of_the_weights_that_act(damaged: Path) -> None:
    """Or the heads that only training needs, and every changed setting, would make it another policy."""
    before = load_spec(damaged)
    shutil.copy(damaged / "planner.safetensors", damaged / HEADS_FILE)
    edit(damaged / "generation_config.json", lambda fields: fields.update(do_sample=False))
    reseal(damaged)
    after = load_spec(damaged)
    assert after.model_id == before.model_id
    assert after.sha256[HEADS_FILE] == file_sha256(damaged / HEADS_FILE)


# ---------------------------------------------------------------- config.json, tokenizer.json and weights


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(model_type="qwen3_vl"), "model_type must be qwen2_5_vl, not 'qwen3_vl'"),
        (lambda c: c.pop("text_config"), "text_config must be a table with hidden_size"),
        (lambda c: c.update(text_config=5), "text_config must be a table with hidden_size"),
        (lambda c: c.update(text_config={}), "text_config must be a table with hidden_size"),
        (lambda c: c.pop("vision_config"), "vision_config must be a table with hidden_size"),
        (lambda c: c["text_config"].update(hidden_size="x"), "'hidden_size' expected int, got str"),
        (lambda c: c["text_config"].update(rms_norm_eps="x"), "'rms_norm_eps' expected float"),
        (lambda c: c["text_config"].update(num_attention_heads=0), "text_config.num_attention_heads must be 1.."),
        (lambda c: c["text_config"].update(vocab_size=-1), "text_config.vocab_size must be 1.."),
        (lambda c: c["text_config"].update(num_hidden_layers=3), "`num_hidden_layers` (3) must be equal"),
        (lambda c: c["text_config"].update(num_attention_heads=5), "hidden_size (192) must be a multiple of"),
        (lambda c: c["text_config"].update(hidden_act="nope"), "text_config.hidden_act 'nope' is unknown"),
        (lambda c: c["vision_config"].update(hidden_act="nope"), "vision_config.hidden_act 'nope' is unknown"),
        (lambda c: c["vision_config"].update(patch_size=0), "vision_config.patch_size must be 1.."),
        (lambda c: c["vision_config"].update(depth=10**9), "vision_config.depth must be 1..1024"),
        (lambda c: c["vision_config"].update(window_size=1), "vision_config.window_size, 1, must hold"),
        (lambda c: c["vision_config"].update(out_hidden_size=64), "vision_config.out_hidden_size is 64"),
        (lambda c: c["vision_config"].update(hidden_size=2**20), "its sizes make"),
        (lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[8, 8, 8]), "mrope_section must be"),
        (lambda c: c["text_config"]["rope_parameters"].update(mrope_section=["a"]), "mrope_section must be"),
        (lambda c: c["text_config"]["rope_parameters"].update(rope_type="dance"), "rope_type must be default"),
        (lambda c: c["text_config"].update(rope_parameters=None), "rope_parameters."),
        (lambda c: c.update({"image_token_id": "x"}), "'image_token_id' expected int"),
    ],
)
def test_a_model_config_that_cannot_be_is_refused_by_its_field(damaged: Path, change: Change, named: str) -> None:
    edit(damaged / "config.json", change)
    reseal(damaged)
    words = refusal(damaged)
    assert words.startswith(f"{damaged / 'config.json'}: ")
    assert named in words


def test_a_config_of_another_vocabulary_is_refused_by_its_field(damaged: Path) -> None:
    edit(damaged / "config.json", lambda fields: fields.update(image_token_id=9))
    reseal(damaged)
    with pytest.raises(ConfigError, match=r"config\.image_token_id is 9, but <\|image_pad\|>"):
        SyvlaPlanner.from_pretrained(damaged)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(hidden_size=256), r"planner\.hidden_size is 256"),
        (lambda c: c["views"][0].update(width=72), r"cam_high\.width must be a multiple of 16"),
    ],
)
def test_a_planner_that_its_model_does_not_fit_is_refused(damaged: Path, change: Change, named: str) -> None:
    edit(damaged / SPEC_FILE, lambda spec: change(spec["planner"]))
    reseal(damaged)
    with pytest.raises(ConfigError, match=named):
        SyvlaPlanner.from_pretrained(damaged)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\x00\x01"])
def test_a_tokenizer_that_cannot_be_read_is_refused_in_a_line(damaged: Path, text: str) -> None:
    (damaged / "tokenizer.json").write_text(text)
    reseal(damaged)
    assert refusal(damaged).startswith(f"{damaged / 'tokenizer.json'}: the tokenizer does not load: ")


@pytest.mark.parametrize("name", ["model.safetensors", "planner.safetensors", "expert.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_weights_that_were_cut_off_are_refused_by_their_file(damaged: Path, name: str, kept: int) -> None:
    path = damaged / name
    path.write_bytes(path.read_bytes()[:kept])
    reseal(damaged)
    with pytest.raises(ConfigError) as refused:
        load_expert(damaged) if name == "expert.safetensors" else SyvlaPlanner.from_pretrained(damaged)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_bare_folder_whose_texts_sizes_stand_at_the_top_loads(damaged: Path) -> None:
    """As Qwen2.5-VL's own folders have them."""

    def flatten(fields: dict[str, Any]) -> None:
        text = fields.pop("text_config")
        fields.update({name: value for name, value in text.items() if name not in ("model_type", "dtype")})

    expected = load_qwen(damaged)[0].config.text_config.hidden_size
    edit(damaged / "config.json", flatten)
    assert load_qwen(damaged)[0].config.text_config.hidden_size == expected
