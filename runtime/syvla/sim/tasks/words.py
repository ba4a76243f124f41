"""Other words for the things on the table, numbers in words, and places in words."""

import re

import numpy as np

from syvla.sim.scene import Table

SYNONYMS: dict[str, tuple[str, ...]] = {
    "cube": ("block",),
    "can": ("tin",),
    "bar": ("stick",),
    "tray": ("plate",),
    "box": ("carton",),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_USUAL = 0.6  # share of the names that are left as they are

_NOUNS = {word: noun for noun, others in SYNONYMS.items() for word in (noun, *others)}
_NAME = re.compile(rf"(?:\b([a-z]+)\s+)?\b({'|'.join(_NOUNS)})s?\b")
_NUMBER = re.compile(rf"\b(\d+|{'|'.join(NUMBERS)})\b")


def called(name: str, rng: np.random.Generator) -> str:
    """``name``, or now and then the same thing by another noun: "red block" for "red cube"."""
    *before, noun = name.split()
    others = SYNONYMS.get(noun, ())
    if others and rng.random() >= _USUAL:
        noun = others[int(rng.integers(len(others)))]
    return " ".join((*before, noun))


def place_in_words(x_m: float, y_m: float) -> str:
    """A place of the world frame in whole centimetres: "23 cm ahead and 31 cm left"."""
    return f"{round(100 * x_m)} cm ahead and {round(100 * abs(y_m))} cm {'left' if y_m >= 0.0 else 'right'}"


def state_in_words(table: Table, name: str) -> str:
    """What a thing is in, or on which side it lies: "in the white tray", "in the left hand", "on the right"."""
    i = table.index[name]
    if table.inside[i]:
        return f"in the {table.inside[i]}"
    if table.held_by[i]:
        return f"in the {table.held_by[i]} hand"
    return f"on the {'left' if table.pose[i, 1] >= 0.0 else 'right'}"


def names_in(text: str) -> list[tuple[str, str]]:
    """The word before each noun in ``text`` ("" if there is none) and the noun itself, synonyms undone."""
    return [(before, _NOUNS[noun]) for before, noun in _NAME.findall(text.lower())]


def numbers_in(text: str) -> list[int]:
    """The numbers in ``text``, in digits or words."""
    return [int(n) if n.isdigit() else NUMBERS.index(n) for n in _NUMBER.findall(text.lower())]
