"""The twin's tasks: layouts, instructions, and what counts as done."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from syvla.errors import ConfigError
from syvla.messages import MAX_TEXT
from syvla.sim.scene import Scene, Table
from syvla.sim.tasks import TASKS
from syvla.sim.tasks.goal import SPLITS, Goal, LanguageEpisode, far_m
from syvla.sim.tasks.math_packaging import BOX, CANDIES, next_candy
from syvla.sim.tasks.snack_loading import SNACKS, TRAYS

SEEDS = range(60)
EVERY = [(task, split) for task in TASKS for split in SPLITS]
HANDS_M = np.array([[0.2, 0.3, 0.2], [0.2, -0.3, 0.2]])
REACH_M = 0.45  # of a hand that points straight down, from its base


def episode(task: str, seed: int, split: str = "id") -> LanguageEpisode:
    made = TASKS[task].reset(seed, split)
    assert isinstance(made, LanguageEpisode)
    return made


def table_of(scene: Scene, inside: dict[str, str] | None = None, pushed_m: float = 0.0, held: str = "") -> Table:
    poses = [(*o.position_m, 1.0, 0.0, 0.0, 0.0) for o in scene.objects]
    poses += [
        (c.centre_m[0], c.centre_m[1] + (pushed_m if c.slide else 0.0), 0.0, 1.0, 0, 0, 0) for c in scene.containers
    ]
    places = inside or {}
    return Table(
        scene.names,
        np.array(poses, dtype=np.float64),
        tuple("left" if name == held else "" for name in scene.names),
        tuple(places.get(name, "") for name in scene.names),
        HANDS_M,
    )


def distance_m(position: tuple[float, ...], arm: str) -> float:
    return math.hypot(position[0], position[1] - (0.30 if arm == "left" else -0.30))


# ---------------------------------------------------------------- both tasks


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_an_episode_is_a_function_of_split_and_seed(task: str, split: str) -> None:
    for seed in SEEDS:
        first, second = TASKS[task].reset(seed, split), TASKS[task].reset(seed, split)
        assert first.scene == second.scene
        assert first.instruction == second.instruction
    assert len({TASKS[task].reset(seed, split).scene for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_the_goal_is_read_from_the_words(task: str, split: str) -> None:
    for seed in SEEDS:
        made = episode(task, seed, split)
        assert TASKS[task].goal(made.instruction) == made.wanted, made.instruction


@pytest.mark.parametrize("task", TASKS)
def test_unseen_wordings_are_unseen(task: str) -> None:
    """No instruction of one split is worded as one of the other: numbers and names apart."""

    def wordings(split: str) -> set[str]:
        words = {
            *(w for name in (*SNACKS, *TRAYS) for w in name.split()),
            "block",
            "tin",
            "stick",
            "plate",
            "the",
            "and",
        }
        words |= {"one", "two", "three", "four", "left", "right"}
        texts = (TASKS[task].reset(seed, split).instruction.lower() for seed in range(200))
        return {" ".join(w for w in t.split() if w.strip(".,:;?") not in words and not w.isdigit()) for t in texts}

    assert len(wordings("id")) >= 3
    assert len(wordings("ood_wording")) >= 3
    assert not wordings("id") & wordings("ood_wording")
    assert wordings("ood_position") <= wordings("id")


@pytest.mark.parametrize("task", TASKS)
def test_unseen_positions_are_outside_of_those_seen(task: str) -> None:
    def spots(split: str) -> list[tuple[float, float]]:
        scenes = (TASKS[task].reset(seed, split).scene for seed in SEEDS)
        return [(o.position_m[0], abs(o.position_m[1])) for scene in scenes for o in scene.objects]

    seen = np.array(spots("id"))
    low, high = seen.min(axis=0), seen.max(axis=0)
    for spot in spots("ood_position"):
        assert not ((low < spot) & (spot < high)).all()


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_things_lie_apart_within_one_arms_reach_only(task: str, split: str) -> None:
    for seed in SEEDS:
        scene = TASKS[task].reset(seed, split).scene
        for thing in scene.objects:
            near, far = ("left", "right") if thing.position_m[1] > 0 else ("right", "left")
            assert distance_m(thing.position_m, near) < REACH_M
            assert distance_m(thing.position_m, far) > REACH_M
        for a, b in itertools.combinations(scene.objects, 2):
            assert math.dist(a.position_m[:2], b.position_m[:2]) > 0.07
        for container in scene.containers:
            for arm in ("left", "right"):
                assert distance_m(container.centre_m, arm) < REACH_M


@pytest.mark.parametrize("task", TASKS)
def test_one_compiled_model_serves_all_seeds(task: str) -> None:
    assert len({TASKS[task].reset(seed, split).scene.layout for seed in SEEDS for split in SPLITS}) == 1


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_split_is_refused_with_the_valid_ones(task: str) -> None:
    with pytest.raises(ConfigError, match="id, ood_position, ood_wording"):
        TASKS[task].reset(0, "test")


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_an_untouched_table_is_no_success(task: str, split: str) -> None:
    for seed in SEEDS:
        made = TASKS[task].reset(seed, split)
        table = table_of(made.scene)
        assert not made.success(table)
        assert made.progress(table) == 0.0
        assert 20 < len(made.chain_of_thought(table)) < MAX_TEXT


# ---------------------------------------------------------------- snack loading


def loaded(made: LanguageEpisode) -> dict[str, str]:
    return dict.fromkeys(made.wanted.candidates, made.wanted.container)


def test_snacks_of_both_sides_are_named_and_some_are_not() -> None:
    for seed in SEEDS:
        made = episode("snack_loading", seed)
        sides = {o.name: o.position_m[1] > 0 for o in made.scene.objects}
        assert {sides[name] for name in made.wanted.candidates} == {True, False}
        assert len(made.wanted.candidates) < len(sides)
        assert sum(sides.values()) == 3


def test_both_trays_are_asked_for_wherever_they_stand() -> None:
    asked = set()
    for seed in SEEDS:
        made = episode("snack_loading", seed)
        nearest = min(made.scene.containers, key=lambda c: c.centre_m[0]).name
        asked.add((made.wanted.container, nearest == made.wanted.container))
    assert len(asked) == 4


def test_exactly_the_named_snacks_in_the_named_tray_are_a_success() -> None:
    for seed in SEEDS:
        made = episode("snack_loading", seed)
        wanted, scene = made.wanted, made.scene
        right = loaded(made)
        other_tray = next(name for name in TRAYS if name != wanted.container)
        wrong = next(name for name in SNACKS if name not in wanted.candidates)
        assert made.success(table_of(scene, right))
        assert made.progress(table_of(scene, right)) == 1.0
        one = wanted.candidates[0]
        for inside in (
            {name: tray for name, tray in right.items() if name != one},
            {**right, one: other_tray},
            {**right, wrong: wanted.container},
            {**right, wrong: other_tray},
            dict.fromkeys(wanted.candidates, other_tray),
        ):
            assert not made.success(table_of(scene, inside))
            assert made.progress(table_of(scene, inside)) < 1.0
        assert not made.success(table_of(scene, right, held=wrong))


def test_snack_thoughts_follow_what_was_done() -> None:
    made = episode("snack_loading", 0)
    one = made.wanted.candidates[0]
    start = made.chain_of_thought(table_of(made.scene))
    assert all(f"The {name} is on the " in start for name in made.wanted.candidates)
    assert f"picks up the {one}" in start
    assert f"puts the {one}" in made.chain_of_thought(table_of(made.scene, held=one))
    loaded_one = made.chain_of_thought(table_of(made.scene, {one: made.wanted.container}))
    assert f"The {one} is in the {made.wanted.container}." in loaded_one
    assert "go home" in made.chain_of_thought(table_of(made.scene, loaded(made)))
    last = made.wanted.candidates[-1]
    assert "go home" in made.chain_of_thought(table_of(made.scene, loaded(made), held=last)), "it is where it belongs"


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("RED CUBE into the BLACK TRAY!", Goal("black tray", ("red cube",), 1)),
        ("The white dish: orange brick, blue tin.", Goal("white tray", ("orange bar", "blue can"), 2)),
        ("Put the red cube and the red block into the white tray", Goal("white tray", ("red cube",), 1)),
        ("Put the red cube away", None),
        ("Clear the white tray", None),
        ("Put the pink cube into the white tray", None),
        ("", None),
    ],
)
def test_other_wordings_of_snacks(text: str, goal: Goal | None) -> None:
    assert TASKS["snack_loading"].goal(text) == goal


# ---------------------------------------------------------------- math packaging


def packed(count: int) -> dict[str, str]:
    return dict.fromkeys(CANDIES[:count], BOX)


def test_the_box_is_pushed_towards_the_side_of_the_candies() -> None:
    sides = set()
    for seed in SEEDS:
        made = episode("math_packaging", seed)
        assert {o.position_m[1] > 0 for o in made.scene.objects} == {made.wanted.push == "left"}
        assert 2 <= made.wanted.count <= 5
        sides.add(made.wanted.push)
    assert sides == {"left", "right"}


def test_exactly_the_sum_and_the_right_push_are_a_success() -> None:
    for seed in SEEDS:
        made = episode("math_packaging", seed)
        count, scene = made.wanted.count, made.scene
        sign = 1.0 if made.wanted.push == "left" else -1.0
        assert made.success(table_of(scene, packed(count), sign * 0.065))
        assert made.progress(table_of(scene, packed(count), sign * 0.065)) == 1.0
        assert 0.0 < made.progress(table_of(scene, packed(count - 1))) < made.progress(table_of(scene, packed(count)))
        for number, moved in ((count - 1, 0.065), (count + 1, 0.065), (count, 0.05), (count, 0.0), (count, -0.065)):
            assert not made.success(table_of(scene, packed(number), sign * moved))
            assert made.progress(table_of(scene, packed(number), sign * moved)) < 1.0
        assert not made.success(table_of(scene, packed(count), sign * 0.065, held=CANDIES[5]))


def test_candy_thoughts_follow_what_was_done() -> None:
    made = episode("math_packaging", 0)
    count, push = made.wanted.count, made.wanted.push
    assert push is not None
    packer, pusher = ("left", "right") if push == "left" else ("right", "left")
    start = made.chain_of_thought(table_of(made.scene))
    assert f"makes {count}" in start
    assert f"holds 0 of {count}" in start
    assert f"the {packer} arm" in start
    full = made.chain_of_thought(table_of(made.scene, packed(count)))
    assert f"the {pusher} arm pushes the box to the {push}" in full
    moved = 0.08 if push == "left" else -0.08
    assert "go home" in made.chain_of_thought(table_of(made.scene, packed(count), moved))


def test_the_box_is_thought_to_be_there_a_centimetre_after_it_is() -> None:
    """A planner that saw it there before it counted sent the arms home, and nothing moved it any more."""
    made = episode("math_packaging", 0)
    count, sign = made.wanted.count, 1.0 if made.wanted.push == "left" else -1.0
    there = table_of(made.scene, packed(count), sign * 0.07)
    assert made.success(there)
    assert "pushes the box" in made.chain_of_thought(there)


def test_the_hand_that_set_off_for_a_candy_goes_on_to_it() -> None:
    """Two candies were as near, and a planner that saw now the one nearer and now the other sent the hand between."""
    for seed in range(20):
        made = episode("math_packaging", seed)
        side = 0 if made.wanted.push == "left" else 1
        laid = table_of(made.scene)
        wanted = next_candy(made.wanted, laid)
        for share in (0.0, 0.3, 0.6, 0.9):
            hands = HANDS_M.copy()
            hands[side] += share * (laid.position_m(wanted) - hands[side])
            assert next_candy(made.wanted, replace(laid, hands_m=hands)) == wanted


def test_of_candies_one_is_clearly_the_nearest_at_first() -> None:
    """By their distance from the hand, which stands amidst them at home, in a sixth of all episodes two were alike."""
    leads_m = []
    for seed in range(100):
        made = episode("math_packaging", seed)
        laid = table_of(made.scene)
        hand_m = laid.hands_m[0 if made.wanted.push == "left" else 1]
        first, second, *_ = sorted(far_m(laid.position_m(name), hand_m) for name in CANDIES)
        leads_m.append(second - first)
    assert np.median(leads_m) > 0.03
    assert np.mean(np.array(leads_m) < 0.01) < 0.1


@pytest.mark.parametrize(
    ("text", "count", "push"),
    [
        ("Pack 2+3 candies, push left", 5, "left"),
        ("pack five minus two candies and push it right", 3, "right"),
        ("Pack 4 - 1 candies, then push the box to the left", 3, "left"),
        ("Four candies, to the RIGHT", 4, "right"),
    ],
)
def test_other_wordings_of_sums(text: str, count: int, push: str) -> None:
    goal = TASKS["math_packaging"].goal(text)
    assert goal is not None
    assert (goal.count, goal.push) == (count, push)


@pytest.mark.parametrize("text", ["", "Pack some candies and push left", "Pack 2 + 1 candies", "Pack 5 + 4, push left"])
def test_a_sum_that_cannot_be_packed_is_no_goal(text: str) -> None:
    assert TASKS["math_packaging"].goal(text) is None
