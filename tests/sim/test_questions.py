"""Questions about tables: true answers, canonical words, variety, and never an unseen instruction."""

import functools
import re

import numpy as np
import pytest

from syvla.messages import ARMS
from syvla.runs import load_rig
from syvla.sim.questions import Question, ask
from syvla.sim.scene import Table
from syvla.sim.tables import RandomTables
from syvla.sim.tasks import math_packaging, snack_loading
from syvla.sim.tasks.table_play import TablePlay
from syvla.sim.tasks.words import numbers_in, place_in_words

NAMES = ("red cube", "blue can", "candy 1", "candy 2", "white tray", "black tray", "box")


def table(held: str = "", in_tray: str = "") -> Table:
    """The red cube and a candy on the left, the blue can and another candy on the right."""
    places = ((0.23, 0.31), (0.30, -0.25), (0.15, 0.40), (0.15, -0.40), (0.145, 0.0), (0.315, 0.0), (0.30, 0.12))
    pose = np.array([(*place, 0.02, 1.0, 0.0, 0.0, 0.0) for place in places])
    return Table(
        NAMES,
        pose,
        tuple("right" if name == held else "" for name in NAMES),
        tuple("white tray" if name == in_tray else "" for name in NAMES),
        np.array([[0.15, 0.3, 0.2], [0.15, -0.3, 0.2]]),
    )


@functools.cache
def all_of(held: str, in_tray: str) -> list[Question]:
    made = table(held, in_tray)
    return [q for seed in range(1600) for q in ask(made, 4, np.random.default_rng(seed))]


def answers(words: str, held: str = "", in_tray: str = "") -> set[tuple[str, tuple[float, float] | None]]:
    """All answers that are ever given to questions with these words in them."""
    found = (q for q in all_of(held, in_tray) if re.search(rf"\b(?:{words})", q.question, re.IGNORECASE))
    return {(q.answer, q.point) for q in found}


@pytest.mark.parametrize(
    ("words", "answer", "point"),
    [
        ("(where is|find|point to) the red (cube|block)", "23 cm ahead and 31 cm left", (0.23, 0.31)),
        ("(where is|find|point to) the leftmost candy", "15 cm ahead and 40 cm left", (0.15, 0.40)),
        ("(where is|find|point to) the white (tray|plate)", "14 cm ahead and 0 cm left", (0.145, 0.0)),
        ("what colour is the (can|tin) on the right", "blue", (0.30, -0.25)),
        ("which side is the blue (can|tin)", "right", (0.30, -0.25)),
        ("how many snacks (are|lie|do you see) on the left", "1", None),
        ("count the candies on the table", "2", None),
        ("how many things (are|lie|do you see) in the (box|carton)", "0", None),
        ("(is|does) the (box|carton) (stand )?on the left", "yes", (0.30, 0.12)),
        ("(is|does) the (box|carton) (stand )?on the right", "no", (0.30, 0.12)),
        ("which number is four", "4", None),
    ],
)
def test_answers_are_true(words: str, answer: str, point: tuple[float, float] | None) -> None:
    assert answers(words) == {(answer, point)}


@pytest.mark.parametrize(
    ("words", "held", "in_tray", "answer"),
    [
        ("(which arm|who) holds the red (cube|block)", "red cube", "", "right"),
        ("(which arm|who) holds a candy", "candy 2", "", "right"),
        ("(which arm|who) holds the red (cube|block)", "", "red cube", "none"),
        ("(what does|which thing does) the right arm (hold|carry)", "red cube", "", "red cube"),
        ("(what does|which thing does) the right arm (hold|carry)", "candy 1", "", "candy"),
        ("(what does|which thing does) the left arm (hold|carry)", "red cube", "", "nothing"),
        ("is the red (cube|block) on the table, in something", "red cube", "", "in the right hand"),
        ("what is the red (cube|block) on or in", "", "red cube", "in the white tray"),
        ("what is the red (cube|block) on or in", "", "", "on the table"),
        ("is the red (cube|block) (already )?in the white (tray|plate)", "", "red cube", "yes"),
        ("is the red (cube|block) (already )?in the white (tray|plate)", "", "", "no"),
        ("is the red (cube|block) (already )?in the (box|carton)", "", "red cube", "no"),
        ("how many snacks (are|lie|do you see) in the white (tray|plate)", "", "red cube", "1"),
        ("how many snacks (are|lie|do you see) on the left", "", "red cube", "0"),
        ("how many snacks (are|lie|do you see) on the left", "red cube", "", "0"),
        ("what colour is the (cube|block) that the right arm holds", "red cube", "", "red"),
    ],
)
def test_hands_and_containers(words: str, held: str, in_tray: str, answer: str) -> None:
    assert {said for said, _ in answers(words, held, in_tray)} == {answer}


def test_sums_are_right(asked: list[Question]) -> None:
    kinds = set()
    for q in asked:
        numbers = numbers_in(q.question)
        if len(numbers) != 2 or " cm " in q.question or q.answer.startswith("The sum"):
            continue
        less = bool(re.search("minus|less", q.question))
        kinds |= {(less, q.question[-2].isdigit())}
        assert q.answer == str(numbers[0] - numbers[1] if less else sum(numbers)), q.question
    assert len(kinds) == 4


def test_places_are_whole_centimetres_ahead_and_to_a_side() -> None:
    assert place_in_words(0.2349, 0.312) == "23 cm ahead and 31 cm left"
    assert place_in_words(0.1, -0.0551) == "10 cm ahead and 6 cm right"


TABLES = 1500


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    tables = RandomTables(load_rig("twin"))
    drawn = [tables.draw(seed).table for seed in range(TABLES)]
    return [q for seed, made in enumerate(drawn) for q in ask(made, 6, np.random.default_rng(seed))]


def test_as_many_different_questions_as_wanted(asked: list[Question]) -> None:
    assert len(asked) == 6 * TABLES
    for made in (table(), table(held="candy 1")):
        for count in (1, 12):
            questions = [q.question for q in ask(made, count, np.random.default_rng(0))]
            assert len(set(questions)) == len(questions) == count


def test_questions_vary_and_answers_are_canonical(asked: list[Question]) -> None:
    assert len({re.sub(r"\d+", "N", q.question) for q in asked}) > 500
    asked = [q for q in asked if q.kind != "order"]  # what is thought is another matter
    for q in asked:
        assert q.question[0].isupper() or re.match(r"\d \+ \d", q.question)
        assert q.answer == q.answer.strip()
        assert q.answer == q.answer.lower()
        assert not re.search(r"\b(block|tin|stick|plate|carton)s?\b", q.answer)
    plain = {q.answer for q in asked if " cm " not in q.answer}
    names = {*snack_loading.SNACKS, *snack_loading.TRAYS, "candy"}
    colours = {"red", "green", "yellow", "blue", "purple", "orange", "pink"}
    places = {"on the table", "in the box", *(f"in the {t}" for t in snack_loading.TRAYS)}
    places |= {f"in the {arm} hand" for arm in ARMS}
    assert plain <= names | colours | places | {*map(str, range(13)), "left", "right", "yes", "no", "none", "nothing"}


def test_yes_is_not_always_right(asked: list[Question]) -> None:
    for pattern in (r"^Is the .* in the", r"^Is there", r"held\?$", r"stand on|^Is the (box|carton) on"):
        said = [q.answer for q in asked if re.search(pattern, q.question) and q.answer in ("yes", "no")]
        assert len(said) > 8, pattern
        assert 0.15 < said.count("yes") / len(said) < 0.85, pattern


def test_the_nouns_of_unseen_wordings_are_known(asked: list[Question]) -> None:
    """The words themselves may be learned here; the instructions that use them may not."""
    words = set(re.findall(r"[a-z]+", " ".join(q.question for q in asked).lower()))
    assert words >= {*snack_loading._UNSEEN_NOUNS.values(), "carton", *math_packaging._WORDS[:6]}


def runs(text: str, length: int = 4) -> set[tuple[str, ...]]:
    """Every run of so many words of a template or a sentence, with names, sides and numbers taken out."""
    plain = re.sub(r"\{\w+\}", " _ ", text.lower())
    plain = re.sub(r"\b(the )?(\w+ )?(cube|can|bar|tray|block|tin|stick|plate|box|carton)s?\b", " _ ", plain)
    plain = re.sub(rf"\b(\d+|left|right|{'|'.join(math_packaging._WORDS)})\b", " _ ", plain)
    words = re.findall(r"[a-z_]+", plain)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def runs_of(*templates: str) -> set[tuple[str, ...]]:
    return {run for template in templates for run in runs(template) if run.count("_") < 2}


UNSEEN = runs_of(*snack_loading._UNSEEN_TEMPLATES, *math_packaging._UNSEEN_TEMPLATES)
UNSEEN -= runs_of(*snack_loading.TEMPLATES, *math_packaging.TEMPLATES)


def test_nothing_that_is_read_in_pre_training_is_worded_like_an_unseen_instruction(asked: list[Question]) -> None:
    assert len(UNSEEN) > 20
    play = TablePlay()
    for text in (*(q.question for q in asked), *(play.reset(seed, "id").instruction for seed in range(TABLES))):
        assert not runs(text) & UNSEEN, text
