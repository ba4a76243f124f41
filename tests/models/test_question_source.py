"""Questions about pictures: who is asked what, and where the thing is."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syvla.errors import ConfigError
from syvla_models.spec import CameraView
from syvla_models.train.mixture import generator
from syvla_models.train.questions import Questions
from syvla_models.train.samples import Sample

VIEW = CameraView(camera="cam_high", height=32, width=32)
WRIST = CameraView(camera="cam_left_wrist", height=32, width=64)


def scenes(folder: Path, count: int = 20) -> Path:
    """Grey pictures; every third is of a wrist's camera. The answer says how grey."""
    (folder / "000").mkdir()
    lines = []
    for k in range(count):
        name = f"000/{k:06}.png"
        Image.fromarray(np.full((32, 64, 3), 10 * k, np.uint8)).save(folder / name)
        questions = [
            {"question": "How grey?", "answer": str(10 * k), "point": [0.3, 0.2 if k % 2 else -0.2]},
            {"question": "What colour?", "answer": "grey", "point": None},
        ]
        camera = "cam_left_wrist" if k % 3 == 2 else "cam_high"
        lines.append(json.dumps({"image": name, "camera": camera, "questions": questions}))
    (folder / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "scenes.jsonl"


def draw(questions: Questions, count: int, validation: bool = False) -> list[Sample]:
    return [questions.draw(generator(0, 0, 0, k), validation) for k in range(count)]


def test_the_answer_is_of_the_picture_and_the_point_is_on_its_side(tmp_path: Path) -> None:
    drawn = draw(Questions("vqa", [scenes(tmp_path)], [VIEW]), 80)
    assert {sample.question for sample in drawn} == {"How grey?", "What colour?", None}
    for sample in drawn:
        assert sample.actions is None
        if sample.question is None:
            continue
        known = sample.grounding_known.nonzero()[0].tolist()
        if sample.question == "What colour?":
            assert (sample.answer, known) == ("grey", [])
            continue
        assert sample.answer is not None
        assert int(sample.images[0].mean()) == int(sample.answer)
        left = int(sample.answer) // 10 % 2 == 1
        assert known == ([1, 2] if left else [5, 6]), "x and y of the arm on that side, and nothing about the arm"
        np.testing.assert_allclose(sample.grounding[known], [0.3, 0.2 if left else -0.2], rtol=1e-6)


def test_how_far_the_hands_are_open_is_of_the_picture_where_it_is_known(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    assert {sample.widths_m for sample in draw(Questions("vqa", [file], [VIEW]), 20)} == {None}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(json.dumps({**line, "widths_m": [k / 1000, 0.07]}) for k, line in enumerate(lines)))
    for sample in draw(Questions("vqa", [file], [VIEW]), 40):
        assert sample.widths_m == (int(sample.images[0].mean()) / 10 / 1000, 0.07)


def test_half_of_the_questions_about_a_place_go_without_the_words_that_name_it(tmp_path: Path) -> None:
    """With the answer always before them, the feature queries learned to copy the place from it, not to look."""
    drawn = draw(Questions("vqa", [scenes(tmp_path)], [VIEW]), 400)
    placed = [sample for sample in drawn if sample.grounding_known.any()]
    silent = [sample for sample in placed if sample.question is None]
    assert len(silent) / len(placed) == pytest.approx(0.5, abs=0.12)
    for sample in silent:
        assert (sample.instruction, sample.answer, sample.chain_of_thought) == ("How grey?", None, None)
    assert all(sample.question is not None for sample in drawn if not sample.grounding_known.any())


def test_the_thing_that_is_asked_about_is_marked(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    lines = []
    for line in file.read_text().splitlines():
        things = [{"name": n, "point": p, "place": [0.5, 0.5]} for n, p in (("a", [0.3, 0.1]), ("b", [0.2, -0.1]))]
        asked: list[dict[str, object]] = [
            {"question": thing["name"], "answer": "there", "point": thing["point"]} for thing in things
        ]
        asked.append({"question": "What colour?", "answer": "grey", "point": None})
        lines.append(json.dumps({**json.loads(line), "things": things, "questions": asked}))
    file.write_text("\n".join(lines))
    drawn = draw(Questions("vqa", [file], [VIEW]), 60)
    for sample in drawn:
        text = sample.question or sample.instruction
        marks = {seen.name: seen.asked for seen in sample.seen}
        assert marks == ({"a": None, "b": None} if text == "What colour?" else {"a": text == "a", "b": text == "b"})
    assert {sample.question or sample.instruction for sample in drawn} == {"a", "b", "What colour?"}


def test_it_is_known_which_thing_is_sought_and_where_the_answer_comes_to_it(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    lines = []
    for line in file.read_text().splitlines():
        things = [
            {"name": name, "point": point, "place": [0.5, 0.5], "where": where}
            for name, point, where in (("can", [0.3, 0.1], "in the box"), ("cube", [0.2, -0.1], "on the right"))
        ]
        first, last = "The can is in the box.", "The can is in the box. The cube is on the right. Take the"
        answer = f"{last} cube."
        asked = [{"question": "Go on.", "answer": answer, "point": [0.2, -0.1], "named": [[0.3, 0.1]]}]
        lines.append(json.dumps({**json.loads(line), "things": things, "questions": asked}))
    file.write_text("\n".join(lines))
    can, cube = draw(Questions("vqa", [file], [VIEW]), 1)[0].seen
    assert (can.sought, cube.sought) == (False, True)
    assert [answer[:end] for end in can.said_at] == ["The can", "The can is"]
    assert [answer[:end] for end in cube.said_at] == [f"{first} The cube", f"{first} The cube is", f"{last} cube"]


def test_an_order_goes_without_its_thought_where_none_is_to_be_learned(tmp_path: Path) -> None:
    """A policy trained without chains of thought went on thinking, as the orders of pictures had taught it."""
    file = scenes(tmp_path)
    order = {"question": "Go on.", "answer": "Next comes the can.", "point": [0.2, -0.1], "named": [[0.2, -0.1]]}
    asked = [order, {"question": "What colour?", "answer": "grey", "point": None}]
    lines = [{**json.loads(line), "questions": asked} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    drawn = draw(Questions("vqa", [file], [VIEW], thoughts=False), 40)
    said = {(sample.instruction, sample.chain_of_thought, sample.question, sample.answer) for sample in drawn}
    assert said == {("Go on.", "", None, None), ("", None, "What colour?", "grey")}


def test_of_things_with_one_name_only_the_one_that_is_sought_is_looked_at(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    things = [{"name": "candy", "point": [0.3, y], "place": [0.5, 0.5]} for y in (0.1, 0.2)]
    asked = [{"question": "Go on.", "answer": "A candy lies there. Next comes one.", "point": [0.3, 0.2]}]
    lines = [{**json.loads(line), "things": things, "questions": asked} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    drawn = draw(Questions("vqa", [file], [VIEW]), 1)[0]
    assert [seen.said_at for seen in drawn.seen] == [(), (len("A candy"), len("A candy lies there. Next comes one"))]


def test_things_are_placed_in_the_view_not_in_the_picture(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    things = [
        {"name": "can", "point": [0.3, 0.1], "place": [0.5, 0.75]},
        {"name": "box", "point": [0.2, 0.1], "place": [0.5, 0.25]},
    ]
    lines = [{**json.loads(line), "things": things} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    lower = CameraView(camera="cam_high", height=32, width=32, crop=(0.5, 0.25, 1.0, 1.0))
    questions = Questions("vqa", [file], [WRIST, lower])
    assert questions.names == ("box", "can")
    found = [seen for sample in draw(questions, 40) for seen in sample.seen if seen.view == 1]
    assert found
    for seen in found:
        assert (seen.name, seen.x_m, seen.y_m) == ("can", 0.3, 0.1), "the box is above the view"
        assert (seen.across, seen.down) == pytest.approx((1 / 3, 0.5))


def test_pictures_of_another_camera_are_passed_over_or_take_their_own_place(tmp_path: Path) -> None:
    file = scenes(tmp_path)
    one = Questions("vqa", [file], [VIEW])
    assert len(one.train) + len(one.validation) == 14
    both = Questions("vqa", [file], [WRIST, VIEW])
    assert len(both.train) + len(both.validation) == 20
    for sample in draw(both, 40):
        assert [image.shape for image in sample.images] == [(32, 64, 3), (32, 32, 3)]
        assert sum(bool(image.any()) for image in sample.images) <= 1
    with pytest.raises(ConfigError, match="at least 2"):
        Questions("vqa", [file], [CameraView(camera="cam_right_wrist", height=32, width=32)])


def test_pictures_for_validation_are_not_trained_on(tmp_path: Path) -> None:
    questions = Questions("vqa", [scenes(tmp_path)], [VIEW], validation_share=0.3)
    seen = [{int(s.images[0].mean()) for s in draw(questions, 200, held_out)} for held_out in (False, True)]
    assert len(seen[1]) == 5
    assert len(seen[0]) == 9
    assert not seen[0] & seen[1]
    assert not {str(grey) for grey in seen[1]} & set(questions.texts())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2"),
        ('{"image": "a.png", "camera": "cam_high", "questions": []}', "at least one question"),
        ('{"image": "a.png", "camera": "cam_high", "questions": [{"question": "", "answer": "x"}]}', "not be empty"),
        ('{"image": "a.png", "camera": "cam_high", "asked": []}', "line 2"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    file = scenes(tmp_path)
    first = file.read_text().splitlines()[0]
    file.write_text(f"{first}\n{line}\n")
    with pytest.raises(ConfigError, match=why) as refused:
        Questions("vqa", [file], [VIEW])
    assert "scenes.jsonl, line 2: " in str(refused.value)
