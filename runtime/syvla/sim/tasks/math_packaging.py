"""Math packaging: put as many candies into the box as the sum in the instruction says, then push the box."""

import re

from syvla.sim.scene import Container, FreeObject, Scene, Slide, Table
from syvla.sim.tasks.goal import (
    ENOUGH_M,
    SPLITS,
    Goal,
    LanguageEpisode,
    Side,
    far_m,
    generator,
    loaded_of,
    pushed_m,
)
from syvla.sim.tasks.layout import spread

BOX = "box"
CANDIES = tuple(f"candy {i}" for i in range(1, 7))
NEXT_CANDY = "packs the nearest candy"  # which one that is: next_candy()
_WORDS = ("zero", "one", "two", "three", "four", "five", "six")
_CANDY_M = (0.034, 0.034, 0.034)
_CANDY_RGBA = (0.93, 0.35, 0.55, 1.0)
_BOX_RGBA = (0.70, 0.52, 0.32, 1.0)
_BOX_CENTRE_M = (0.26, 0.03)  # y is towards the arm that pushes
_BOX_INNER_M = (0.15, 0.15)

TEMPLATES = (
    "Pack {a} + {b} candies, then push the box to the {side}.",
    "Put {a} + {b} candies into the box and push it to the {side}.",
    "Solve {a} + {b}, pack that many candies and push the box {side}.",
)
_UNSEEN_TEMPLATES = (
    "How much is {word_a} plus {word_b}? Count that many candies into the box and slide it to the {side}.",
    "Box up {word_a} and {word_b} more candies before shoving the box {side}.",
    "The customer paid for {word_a} candies and gets {word_b} for free: fill the box, then send it {side}.",
    "Take the sum of {a} and {b}, fill in as many candies, and move the carton to the {side}.",
)

_NUMBER = re.compile(rf"\b(\d+|{'|'.join(_WORDS)})\b")
_LESS = re.compile(r"\bminus\b|\bless\b|\btake away\b|\d\s*-\s*\d")
_SIDE = re.compile(r"\b(left|right)\b")


class MathPackaging:
    """Six candies on one side, which only that side's arm packs; the other arm then pushes the box towards it."""

    name = "math_packaging"
    splits = SPLITS

    def reset(self, seed: int, split: str) -> LanguageEpisode:
        """The episode of ``seed`` in ``split``; ConfigError names the valid splits."""
        rng = generator(self.name, split, seed)
        side: Side = ("left", "right")[int(rng.integers(2))]
        total = int(rng.integers(2, 6))
        a = int(rng.integers(1, total))
        spots = spread(rng, side, len(CANDIES), split == "ood_position", spacing_m=0.072)
        yaws = rng.uniform(-3.14, 3.14, len(CANDIES)).tolist()
        objects = tuple(
            FreeObject(name, "box", _CANDY_M, _CANDY_RGBA, (*spot, _CANDY_M[2] / 2.0), yaw)
            for name, spot, yaw in zip(CANDIES, spots, yaws, strict=True)
        )
        x = _BOX_CENTRE_M[0] + float(rng.uniform(-0.01, 0.01))
        y = _BOX_CENTRE_M[1] * (-1.0 if side == "left" else 1.0)
        rail = Slide("y", (-0.15, 0.15))
        box = Container(BOX, (x, y), _BOX_INNER_M, 0.045, _BOX_RGBA, slide=rail)
        templates = _UNSEEN_TEMPLATES if split == "ood_wording" else TEMPLATES
        text = templates[int(rng.integers(len(templates)))].format(
            a=a, b=total - a, word_a=_WORDS[a], word_b=_WORDS[total - a], side=side
        )
        return LanguageEpisode(self, Scene(objects, (box,)), text, Goal(BOX, CANDIES, total, push=side))

    def goal(self, instruction: str) -> Goal | None:
        """The result of the sum and the side that ``instruction`` names; None if either is missing."""
        text = instruction.lower()
        numbers = [int(n) if n.isdigit() else _WORDS.index(n) for n in _NUMBER.findall(text)]
        sides = _SIDE.findall(text)
        if not numbers or not sides:
            return None
        total = numbers[0] - sum(numbers[1:]) if _LESS.search(text) else sum(numbers)
        if not 1 <= total <= len(CANDIES):
            return None
        return Goal(BOX, CANDIES, total, push=sides[-1])

    def chain_of_thought(self, goal: Goal, table: Table, rest_m: float) -> str:
        """The sum's result, the count so far, what comes next.

        Where the candy is stays unsaid: a place in words was as coarse as the words and did not leave the places of
        the demonstrations, and the hand closed centimetres beside what the planner saw well enough.
        """
        count = len(loaded_of(goal, table))
        text = f"The sum makes {goal.count}. The box holds {count} of {goal.count} candies."
        packer, pusher = ("left", "right") if goal.push == "left" else ("right", "left")
        if count < goal.count:
            does = "drops the candy it holds" if packer in table.held_by else NEXT_CANDY
            return f"{text} Next the {packer} arm {does}."
        if pushed_m(goal, table, rest_m) < ENOUGH_M:
            return f"{text} Next the {pusher} arm pushes the box to the {goal.push}."
        return f"{text} The box is on the {goal.push}, so the arms go home."


def next_candy(goal: Goal, table: Table) -> str:
    """Which candy is fetched: the nearest (``goal.far_m``), of those on the left hand's side while there are any."""
    remaining = [name for name in goal.candidates if table.inside[table.index[name]] != goal.container]
    left = [name for name in remaining if table.position_m(name)[1] > 0.0]
    hand_m = table.hands_m[0 if left else 1]
    return min(left or remaining, key=lambda name: far_m(table.position_m(name), hand_m))
