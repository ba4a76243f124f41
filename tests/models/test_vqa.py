"""Answers are counted word for word, by kind, and only for pictures that the planner can see."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syvla.errors import ConfigError
from syvla_models import checkpoint
from syvla_models.cli import main
from syvla_models.expert import Expert
from syvla_models.planner import SyvlaPlanner
from syvla_models.spec import SLOTS, ActionSpec, CameraView, ExpertConfig, PolicySpec
from syvla_models.tiny import build_tiny, tiny_spec
from syvla_models.vqa import accuracy

VIEW = CameraView(camera="cam_high", height=64, width=64)
QUESTIONS = ("What is red?", "How many cans are there?", "Which side is the tray on?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PolicySpec(
        name="test",
        planner=tiny_spec(views=(VIEW,), max_thought_tokens=6),
        expert=ExpertConfig(width=48, depth=1, heads=2, intent_width=192),
        action=ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,)),
    )
    path = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(path, build_tiny(QUESTIONS * 5, spec.planner, vocabulary=320), Expert(spec.expert), spec)
    return path


@pytest.fixture
def scenes(folder: Path, tmp_path: Path) -> Path:
    """Two pictures. The answers to the first question are what the planner says, the others are not."""
    planner = SyvlaPlanner.from_pretrained(folder)
    lines = []
    for k in range(2):
        said, seed = "", k
        while not said.isprintable() or not said.strip():
            rgb = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            *_, made = planner.think([rgb], QUESTIONS[0], reuse=False)
            said, seed = str(made[0]), seed + 2
        Image.fromarray(rgb).save(tmp_path / f"{k}.png")
        asked = [
            {"question": QUESTIONS[0], "answer": said, "kind": "colour"},
            {"question": QUESTIONS[1], "answer": f"{said} and more", "kind": "count"},
        ]
        lines.append({"image": f"{k}.png", "camera": "cam_high", "questions": asked})
    elsewhere = [{"question": QUESTIONS[2], "answer": "left", "kind": "side"}]
    lines.append({"image": "none.png", "camera": "cam_left_wrist", "questions": elsewhere})
    (tmp_path / "scenes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_right_and_wrong_answers_are_counted_by_kind(folder: Path, scenes: Path) -> None:
    found = accuracy(folder, scenes, 100, print)
    assert [(row.kind, row.right, row.asked) for row in found] == [("colour", 2, 2), ("count", 0, 2), ("all", 2, 4)]
    assert all(row.low <= row.right / row.asked <= row.high for row in found)


def test_the_command_prints_a_table_and_writes_it(
    folder: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scenes / "vqa.json"
    monkeypatch.setattr(
        sys, "argv", ["syvla-train", "vqa", str(folder), str(scenes), "--count", "3", "--json", str(out)]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "all         66.7% of    3" in capsys.readouterr().out
    assert [row["right"] for row in json.loads(out.read_text())["kinds"]] == [2, 0, 2]


def test_a_file_that_is_no_result_is_not_overwritten(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (scenes / "scenes.jsonl").read_text()
    file = str(scenes / "scenes.jsonl")
    monkeypatch.setattr(sys, "argv", ["syvla-train", "vqa", "no-folder", str(scenes), "--json", file])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "scenes.jsonl" in capsys.readouterr().err
    assert (scenes / "scenes.jsonl").read_text() == lines


def test_pictures_that_the_planner_does_not_see_are_no_test_of_it(folder: Path, scenes: Path) -> None:
    lines = (scenes / "scenes.jsonl").read_text().splitlines()
    (scenes / "scenes.jsonl").write_text(lines[2])
    with pytest.raises(ConfigError, match="no picture of cam_high"):
        accuracy(folder, scenes, 10, print)
