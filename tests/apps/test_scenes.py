"""``syvla scenes``: a folder of pictures with questions, complete after every line, and never over another."""

import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syvla.apps.scenes import random_tables, visited_tables, write_scenes
from syvla.cli import main
from syvla.errors import ConfigError
from syvla.runs import load_rig, lockstep_run
from syvla.sim.model import ARMS_QPOS
from syvla.sim.tasks import TASKS
from syvla.sim.tasks.snack_loading import SNACKS

RIG = load_rig("twin")


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["syvla", "scenes", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return left.value.code


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]


def test_a_line_and_a_picture_for_each_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "scenes"
    assert status(monkeypatch, str(out), "--count", "6", "--seed", "40", "--questions-per-image", "3") == 0
    assert "6/6" in capsys.readouterr().out
    lines = lines_of(out)
    assert [line["image"] for line in lines] == [f"000/{i:06d}.jpg" for i in range(6)]
    pictures = []
    for line in lines:
        with Image.open(out / str(line["image"])) as image:
            assert (image.format, image.size) == ("JPEG", (RIG.cameras.width, RIG.cameras.height))
            pictures.append(np.asarray(image, dtype=np.int64))
        assert line["camera"] == "cam_high"
        questions = line["questions"]
        assert isinstance(questions, list)
        assert len(questions) == 3
        for question in questions:
            assert set(question) == {"question", "answer", "point", "kind", "named"}
            assert question["question"]
            assert question["answer"]
            assert question["point"] is None or len(question["point"]) == 2
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(pictures))


def test_things_are_where_the_picture_shows_them(tmp_path: Path) -> None:
    """Most patches around the place that is named are of the thing's own colour: some are hidden behind an arm."""
    for _ in write_scenes(RIG, tmp_path / "a", random_tables(RIG, 70), 40, 70, 1):
        pass
    hits, count, names = 0, 0, set()
    for line in lines_of(tmp_path / "a"):
        with Image.open(tmp_path / "a" / str(line["image"])) as image:
            rgb = np.asarray(image, dtype=np.float64)
        things = line["things"]
        assert isinstance(things, list)
        names |= {thing["name"] for thing in things}
        for thing in things:
            red, _, blue = next((rgba[:3] for name, (_, rgba) in SNACKS.items() if name == thing["name"]), (0.0, 0, 0))
            if red > 0.8 and blue < 0.15:  # red, orange and yellow things
                u, v = thing["place"]
                pixel = rgb[int(v * rgb.shape[0]), int(u * rgb.shape[1])]
                hits += pixel[0] > 120 and pixel[0] > 2.0 * pixel[2]
                count += 1
    assert count > 30
    assert hits / count > 0.7
    assert {"candy", "box", "white tray", "red cube"} <= names
    assert not any(name.startswith("candy ") for name in names)


def test_the_same_seed_is_the_same_scene(tmp_path: Path) -> None:
    for _ in write_scenes(RIG, tmp_path / "a", random_tables(RIG, 10), 3, 10, 2):
        pass
    for _ in write_scenes(RIG, tmp_path / "b", random_tables(RIG, 12), 1, 12, 2):
        pass
    first, second = lines_of(tmp_path / "a")[2], lines_of(tmp_path / "b")[0]
    assert first["questions"] == second["questions"]
    assert (tmp_path / "a/000/000002.jpg").read_bytes() == (tmp_path / "b/000/000000.jpg").read_bytes()


def test_every_line_is_there_before_the_next_picture(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    scenes = write_scenes(RIG, out, random_tables(RIG, 0), 3, 0, 2)
    for done in (1, 2):
        assert next(scenes) == done
        assert len(lines_of(out)) == done


def test_the_thing_is_where_its_point_says(tmp_path: Path) -> None:
    """Its colour is in the picture where the camera sees that place of the table, if no arm hides it."""
    out = tmp_path / "scenes"
    for _ in write_scenes(RIG, out, random_tables(RIG, 500), 100, 500, 8):
        pass
    asked = seen = 0
    for line in lines_of(out):
        with Image.open(out / str(line["image"])) as image:
            pixels = np.asarray(image, dtype=np.int64)
        questions = line["questions"]
        assert isinstance(questions, list)
        for question in questions:
            about = re.search("red (cube|block)", question["question"])
            if about is None or question["point"] is None or question["kind"] == "order":
                continue
            column, row = _pixel(*question["point"])
            patch = pixels[max(row - 7, 0) : row + 5, max(column - 5, 0) : column + 6].reshape(-1, 3)
            asked += 1
            seen += bool(((patch[:, 0] > 120) & (patch[:, 1] < 80) & (patch[:, 2] < 80)).any())
    assert asked >= 8
    assert seen >= 0.7 * asked


def _pixel(x: float, y: float) -> tuple[int, int]:
    """Where the high camera, at (0.80, 0, 0.95) with 42 degrees from top to bottom, sees a place of the table."""
    down, ahead = np.array([-0.8733, 0.0, 0.4872]), np.array([-0.4872, 0.0, -0.8733])
    offset = np.array([x, y, 0.0]) - np.array([0.80, 0.0, 0.95])
    depth = offset @ ahead
    focal = RIG.cameras.height / 2.0 / np.tan(np.radians(21.0))
    column = RIG.cameras.width / 2.0 + focal * (offset @ np.array([0.0, 1.0, 0.0])) / depth
    row = RIG.cameras.height / 2.0 - focal * (offset @ down) / depth
    return round(column), round(row)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--count", "0"), "count must be at least 1"),
        (("--seed", "-1"), "seed must be 0 to"),
        (("--questions-per-image", "0"), "questions-per-image must be 1 to 12, not 0"),
        (("--rig", "nonesuch"), "no rig 'nonesuch'"),
    ],
)
def test_bad_input_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert status(monkeypatch, str(tmp_path / "scenes"), *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "scenes").exists()


def test_an_existing_folder_is_never_touched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("here")
    assert status(monkeypatch, str(tmp_path), "--count", "1") == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="new folder"):
        next(write_scenes(RIG, tmp_path / "mine", random_tables(RIG, 0), 1, 0, 1))


def test_what_a_policy_comes_upon_is_shown_as_it_was(tmp_path: Path) -> None:
    """Its own episodes, half a second apart, with hands at work in them."""
    run = lockstep_run("twin", 0.3, 0.03, "reference")
    shown = list(itertools.islice(visited_tables(run, ("snack_loading",), 7), 20))
    assert {(table.state.task, table.state.seed) for table in shown} == {("snack_loading", 7)}
    stamps_ns = np.array([table.state.stamp_ns for table in shown])
    assert (np.diff(stamps_ns) == 500_000_000).all()
    held = [name for table in shown for name, arm in zip(table.table.names, table.table.held_by, strict=True) if arm]
    assert len(held) > 3
    things = TASKS["snack_loading"].reset(7, "id").scene.objects
    for state, table in shown:
        lying = state.qpos[ARMS_QPOS : ARMS_QPOS + 7 * len(things)].reshape(-1, 7)[:, :3]
        np.testing.assert_allclose([table.position_m(thing.name) for thing in things], lying, atol=1e-3)
    for _ in write_scenes(RIG, tmp_path / "seen", iter(shown), 4, 7, 2):
        pass
    assert len(lines_of(tmp_path / "seen")) == 4
