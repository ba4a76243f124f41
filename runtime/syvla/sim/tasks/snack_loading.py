"""Snack loading: put the named snacks, which lie on both sides, into the named tray."""

import re

from syvla.messages import ARMS
from syvla.sim.scene import Container, FreeObject, Rgba, Scene, Shape, Table, Vector3
from syvla.sim.tasks.goal import SPLITS, Goal, LanguageEpisode, Side, generator, in_words
from syvla.sim.tasks.layout import spread
from syvla.sim.tasks.words import state_in_words

_CUBE: tuple[Shape, Vector3] = ("box", (0.036, 0.036, 0.036))
_CAN: tuple[Shape, Vector3] = ("cylinder", (0.036, 0.036, 0.048))
_BAR: tuple[Shape, Vector3] = ("box", (0.06, 0.032, 0.032))
SNACKS: dict[str, tuple[tuple[Shape, Vector3], Rgba]] = {
    "red cube": (_CUBE, (0.85, 0.12, 0.12, 1.0)),
    "green can": (_CAN, (0.13, 0.60, 0.22, 1.0)),
    "yellow bar": (_BAR, (0.95, 0.80, 0.10, 1.0)),
    "blue can": (_CAN, (0.12, 0.30, 0.85, 1.0)),
    "purple cube": (_CUBE, (0.50, 0.18, 0.65, 1.0)),
    "orange bar": (_BAR, (0.95, 0.48, 0.08, 1.0)),
}
TRAYS: dict[str, Rgba] = {"white tray": (0.95, 0.95, 0.95, 1.0), "black tray": (0.10, 0.10, 0.12, 1.0)}

_NEAR_X_M, _FAR_X_M = 0.145, 0.315
_INNER_M = (0.15, 0.15)

TEMPLATES = (
    "Put {snacks} into {tray}.",
    "Place {snacks} in {tray}.",
    "Load {tray} with {snacks}.",
    "I would like {snacks} in {tray}.",
)
_UNSEEN_TEMPLATES = (
    "Could you move {snacks} over to {tray}, please?",
    "Our guest ordered {snacks}. Serve it on {tray} and leave the rest on the table.",
    "{tray} should end up holding {snacks} and nothing more.",
    "Time for a snack: bring {snacks} to {tray}.",
)
_UNSEEN_NOUNS = {"cube": "block", "can": "tin", "bar": "stick", "tray": "plate"}

_NOUNS = {
    "cube": "cube", "block": "cube", "dice": "cube", "can": "can", "tin": "can", "cylinder": "can",
    "bar": "bar", "stick": "bar", "brick": "bar", "tray": "tray", "plate": "tray", "platter": "tray", "dish": "tray",
}  # fmt: skip
_PAIR = re.compile(rf"\b([a-z]+)\s+({'|'.join(_NOUNS)})s?\b")


class SnackLoading:
    """Six snacks, three on each side; one or two of each side belong into one of two trays in the middle."""

    name = "snack_loading"
    splits = SPLITS

    def reset(self, seed: int, split: str) -> LanguageEpisode:
        """The episode of ``seed`` in ``split``; ConfigError names the valid splits."""
        rng = generator(self.name, split, seed)
        names = tuple(SNACKS)
        order = [names[i] for i in rng.permutation(len(names))]
        sides: tuple[tuple[Side, list[str]], ...] = (("left", order[:3]), ("right", order[3:]))
        where: dict[str, tuple[float, float]] = {}
        for side, group in sides:
            where.update(zip(group, spread(rng, side, len(group), split == "ood_position"), strict=True))
        counts = ((1, 1), (1, 2), (2, 1))[int(rng.integers(3))]
        named = [n for (_, group), count in zip(sides, counts, strict=True) for n in group[:count]]
        named = [named[i] for i in rng.permutation(len(named))]
        nearer, tray = int(rng.integers(2)), list(TRAYS)[int(rng.integers(2))]
        yaws = rng.uniform(-3.14, 3.14, len(names)).tolist()
        jitter = rng.uniform(-0.008, 0.008, (2, 2)).tolist()
        objects = tuple(
            FreeObject(name, shape, size, rgba, (*where[name], size[2] / 2.0), yaw)
            for (name, ((shape, size), rgba)), yaw in zip(SNACKS.items(), yaws, strict=True)
        )
        containers = tuple(
            Container(name, ((_NEAR_X_M if i == nearer else _FAR_X_M) + dx, dy), _INNER_M, 0.022, rgba)
            for i, ((name, rgba), (dx, dy)) in enumerate(zip(TRAYS.items(), jitter, strict=True))
        )
        templates = _UNSEEN_TEMPLATES if split == "ood_wording" else TEMPLATES
        text = templates[int(rng.integers(len(templates)))].format(snacks=in_words(tuple(named)), tray=f"the {tray}")
        if split == "ood_wording":
            text = re.sub("|".join(_UNSEEN_NOUNS), lambda m: _UNSEEN_NOUNS[m[0]], text)
        goal = Goal(container=tray, candidates=tuple(named), count=len(named))
        return LanguageEpisode(self, Scene(objects, containers), text[0].upper() + text[1:], goal)

    def goal(self, instruction: str) -> Goal | None:
        """The snacks and the tray that ``instruction`` names by colour and kind; None if it names too few."""
        found = [f"{colour} {_NOUNS[noun]}" for colour, noun in _PAIR.findall(instruction.lower())]
        snacks = tuple(dict.fromkeys(name for name in found if name in SNACKS))
        trays = [name for name in found if name in TRAYS]
        if not snacks or not trays:
            return None
        return Goal(container=trays[0], candidates=snacks, count=len(snacks))

    def chain_of_thought(self, goal: Goal, table: Table, rest_m: float) -> str:
        """Where each thing of the order is, and what comes next.

        Thing by thing, so that every sentence is one look at the table, and what comes next follows from the words. A
        planner that has to say at once which things are done must look, select and sort in a single step.
        """
        sentences = [f"The {name} is {state_in_words(table, name)}." for name in goal.candidates]
        return " ".join((*sentences, self._next(goal, table)))

    @staticmethod
    def _next(goal: Goal, table: Table) -> str:
        held: dict[str, str] = {}
        lying: dict[str, str] = {}
        for name in reversed(goal.candidates):
            i = table.index[name]
            if table.inside[i]:
                continue
            if table.held_by[i]:
                held[table.held_by[i]] = name
            else:
                lying["left" if table.pose[i, 1] >= 0.0 else "right"] = name
        for arm in ARMS:
            if arm in held:
                return f"Next the {arm} arm puts the {held[arm]} into the {goal.container}."
        for arm in ARMS:
            if arm in lying:
                return f"Next the {arm} arm picks up the {lying[arm]}."
        if all(table.inside[table.index[name]] == goal.container for name in goal.candidates):
            return "Everything is loaded, so the arms go home."
        return "The rest cannot be taken out, so the arms go home."
