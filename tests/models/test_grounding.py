"""What the grounding head is taught, held against the waypoints that the reference planner really writes."""

from pathlib import Path

import numpy as np
import pytest

from syvla.config import RigConfig, load_toml
from syvla.message import Float16
from syvla.messages import ARMS, ArmName
from syvla.sim.jobs import Hands, Home, Place, Push
from syvla.sim.scene import Table
from syvla.sim.tasks import TASKS
from syvla.sim.waypoints import Waypoint, encode
from syvla_models.train.grounding import of_point, of_waypoints

RIG = load_toml(Path(__file__).parents[2] / "calibration/rigs/twin.toml", RigConfig)
SLOT = (0.17, 0.03)
LIFT, UP = 4, 8  # rows of a place job


def laid(task: str) -> tuple[Hands, Table]:
    """A task's table and the hands that work on it."""
    scene = TASKS[task].reset(3, "id").scene
    places = [(*thing.position_m, 1.0, 0.0, 0.0, 0.0) for thing in scene.objects]
    places += [(*box.centre_m, 0.0, 1.0, 0.0, 0.0, 0.0) for box in scene.containers]
    return Hands(RIG, scene), Table(
        scene.names, np.array(places), ("",) * len(places), ("",) * len(places), np.zeros((2, 3))
    )


HANDS, TABLE = laid("snack_loading")
HOME = {"left": np.array([0.0, 1.2, -1.2, 0.0, 0.8, 0.0]), "right": np.array([0.0, 1.2, -1.2, 0.0, 0.8, 0.0])}


def thing_of(arm: ArmName, rank: int = 0) -> str:
    """A snack on the arm's side."""
    side = 1.0 if arm == "left" else -1.0
    return [n for n in TABLE.names if "tray" not in n and TABLE.position_m(n)[1] * side > 0][rank]


def place(arm: ArmName, number: int, *, rank: int = 0, start_after: int = 0, after: int = 0) -> tuple[Waypoint, ...]:
    job = Place(
        arm,
        number,
        Place.COUNT,
        thing=thing_of(arm, rank),
        slot_m=SLOT,
        lower_m=0.03,
        start_after=start_after,
        after=after,
    )
    rows = HANDS.place(job, TABLE)
    assert len(rows) == Place.COUNT
    return rows


def home(arm: ArmName, number: int) -> tuple[Waypoint, ...]:
    return HANDS.home(Home(arm, number, 2), HOME[arm], from_here=False)


def states(*rows: tuple[Waypoint, ...]) -> Float16:
    return encode([waypoint for part in rows for waypoint in part][:20], 1)


def check(values: Float16, expected: dict[ArmName, tuple[float, float] | None]) -> None:
    """Each arm acts at (x, y), or does not act (None)."""
    grounding = of_waypoints(values)
    for arm in ARMS:
        slot = 4 * ARMS.index(arm)
        xy = expected[arm]
        assert grounding.known[slot]
        assert grounding.values[slot] == float(xy is not None)
        assert grounding.known[slot + 1 : slot + 4].tolist() == [xy is not None] * 3
        np.testing.assert_allclose(grounding.values[slot + 1 : slot + 3], xy or (0.0, 0.0), atol=1e-3)


def at(arm: ArmName, rank: int = 0) -> tuple[float, float]:
    x, y, _ = TABLE.position_m(thing_of(arm, rank)).tolist()
    return x, y


@pytest.mark.parametrize("arm", ["left", "right"])
def test_it_is_the_grasp_until_the_thing_is_held_then_the_slot_then_the_next_grasp(arm: ArmName) -> None:
    other: ArmName = "right" if arm == "left" else "left"
    job, following = place(arm, 3), place(arm, 12, rank=1)
    for first, expected in ((0, at(arm)), (LIFT, SLOT), (UP, at(arm, 1))):
        check(states(job[first:], following), {arm: expected, other: None})
    z = of_waypoints(states(job)).values[3 if arm == "left" else 7]
    assert z == pytest.approx(job[Place.DOWN].position_m[2], abs=1e-3)


def test_a_place_at_which_a_hand_is_to_close_on_nothing_is_no_key_place() -> None:
    for arm in ARMS:
        job = Place(
            arm, 1, Place.COUNT + Place.MISSES, thing=thing_of(arm), slot_m=SLOT, miss_m=(0.03, 0.03), lower_m=0.03
        )
        rows = HANDS.place(job, TABLE)
        x, y = at(arm)
        np.testing.assert_allclose(rows[2].position_m[:2], (x + 0.03, y + 0.03), atol=1e-9)
        assert rows[2].gripper_width_m < HANDS.width_m(job.thing)
        expected: dict[ArmName, tuple[float, float] | None] = {"left": None, "right": None, arm: (x, y)}
        check(states(rows), expected)
        check(states(rows[Place.MISSED :]), expected)
        assert of_waypoints(states(rows)).mistaken
        assert not of_waypoints(states(rows[Place.MISSED :])).mistaken
    job.start_after = 7
    assert not of_waypoints(states(place("left", 1), HANDS.place(job, TABLE))).mistaken, "it waits for its turn"


def test_the_way_home_has_no_place() -> None:
    check(states(home("left", 1), home("right", 1)), {"left": None, "right": None})
    check(states(place("left", 3)[UP:], home("left", 12)), {"left": None, "right": None})
    check(states(()), {"left": None, "right": None})


def test_of_two_arms_that_take_turns_one_acts() -> None:
    """The thought says which arm is next; the other's place must not be spoken of, also while the first only raises."""
    left, right = place("left", 3), place("right", 3, start_after=11)
    check(states(left, right), {"left": at("left"), "right": None})
    check(states(left[LIFT:], right), {"left": SLOT, "right": None})
    check(states(left[UP:], home("left", 12), right), {"left": None, "right": at("right")})
    again = place("left", 12, rank=1, start_after=11)
    check(states(left[UP:], again, right), {"left": None, "right": at("right")})


def test_an_arm_that_holds_its_thing_until_the_tray_is_free_does_not_act() -> None:
    left, right = place("left", 3), place("right", 3, after=11)
    check(states(left, right), {"left": at("left"), "right": at("right")})
    check(states(left[LIFT:], right[LIFT:]), {"left": SLOT, "right": None})
    check(states(left[UP:], right[LIFT:]), {"left": None, "right": SLOT})


def test_an_arm_taken_over_on_its_way_down_acts_at_the_end_of_that_way() -> None:
    """The first row of what is left was taken for a place to leave: a hand above a thing was to act at the tray."""
    job, low = place("left", 3), UP - 2
    check(states(job[Place.DOWN + 1 :]), {"left": at("left"), "right": None})
    check(states(job[Place.NEAR :]), {"left": at("left"), "right": None})
    check(states(job[Place.DOWN :]), {"left": at("left"), "right": None})
    check(states(job[low:], place("left", 12, rank=1)), {"left": SLOT, "right": None})


def test_where_a_push_began_is_not_known_of_an_arm_taken_over_in_it() -> None:
    hands, table = laid("math_packaging")
    box = next(name for name in table.names if "box" in name)
    rows = hands.push(Push("left", 1, 4, box=box, towards="right", distance_m=0.08), table)
    grounding = of_waypoints(states(rows[Push.up - 1 :], home("left", 5)))
    assert grounding.known.tolist() == [True, False, False, False] * 2
    assert grounding.values.tolist() == [1.0] + [0.0] * 7


def test_a_push_begins_where_the_fingers_go_down() -> None:
    hands, table = laid("math_packaging")
    box = next(name for name in table.names if "box" in name)
    rows = hands.push(Push("left", 1, 4, box=box, towards="right", distance_m=0.08), table)
    x, y, _ = rows[1].position_m
    check(states(rows), {"left": (x, y), "right": None})
    check(states(rows[Push.up :]), {"left": None, "right": None})


@pytest.mark.parametrize(("y_m", "slots"), [(0.2, [1, 2]), (-0.2, [5, 6])])
def test_a_point_is_in_the_slots_of_the_arm_on_its_side(y_m: float, slots: list[int]) -> None:
    grounding = of_point(0.3, y_m)
    assert grounding.known.nonzero()[0].tolist() == slots
    np.testing.assert_allclose(grounding.values[slots], [0.3, y_m], rtol=1e-6)
    assert np.count_nonzero(grounding.values) == 2
