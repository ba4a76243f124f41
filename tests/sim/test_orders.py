"""Orders for random tables: what is thought of them is true of the table, and the point is what is fetched next."""

import re

import numpy as np
import pytest

from syvla.runs import load_rig
from syvla.sim.orders import Order, order
from syvla.sim.scene import Table
from syvla.sim.tables import RandomTables
from syvla.sim.tasks.math_packaging import CANDIES
from syvla.sim.tasks.snack_loading import SNACKS
from syvla.sim.tasks.table_play import TablePlay
from syvla.sim.tasks.words import numbers_in


@pytest.fixture(scope="module")
def orders() -> list[tuple[Table, Order]]:
    tables = RandomTables(load_rig("twin"))
    drawn = [tables.draw(seed).table for seed in range(600)]
    made = [(table, order(table, np.random.default_rng(seed))) for seed, table in enumerate(drawn)]
    return [(table, found) for table, found in made if found is not None]


def named_in(text: str) -> list[str]:
    return re.findall("|".join(SNACKS), text)


def of_snacks(orders: list[tuple[Table, Order]]) -> list[tuple[Table, Order]]:
    return [pair for pair in orders if not pair[1].thought.startswith("The sum")]


def of_candies(orders: list[tuple[Table, Order]]) -> list[tuple[Table, Order]]:
    return [pair for pair in orders if pair[1].thought.startswith("The sum")]


def test_most_tables_have_an_order_and_both_tasks_are_among_them(orders: list[tuple[Table, Order]]) -> None:
    assert len(orders) > 400
    assert len(of_snacks(orders)) + len(of_candies(orders)) == len(orders)
    assert min(len(of_snacks(orders)), len(of_candies(orders))) > 100


def test_what_is_asked_for_is_understood_as_it_is_thought(orders: list[tuple[Table, Order]]) -> None:
    play = TablePlay()
    for _, found in orders:
        goal = play.goal(found.instruction)
        assert goal is not None, found
        if found.thought.startswith("The sum"):
            assert numbers_in(found.thought)[0] == goal.count, found
            assert goal.container in found.thought
        else:
            asked = found.thought.split(" Next ")[0]
            assert named_in(asked) == list(goal.candidates), found


def test_an_order_says_where_the_things_are_that_it_names(orders: list[tuple[Table, Order]]) -> None:
    for table, found in orders:
        goal = TablePlay().goal(found.instruction)
        assert goal is not None
        places = {tuple(table.position_m(name)[:2].round(4).tolist()) for name in (*goal.candidates, goal.container)}
        assert set(found.named) == places


def test_what_is_done_and_what_is_next_are_true_of_the_table(orders: list[tuple[Table, Order]]) -> None:
    seen = set()
    for table, found in of_snacks(orders):
        goal = TablePlay().goal(found.instruction)
        assert goal is not None
        inside = {name for name in goal.candidates if table.inside[table.index[name]] == goal.container}
        for name in goal.candidates:
            where = re.search(rf"The {name} is ([^.]*)\.", found.thought)
            assert where is not None, found
            i = table.index[name]
            side = "left" if table.pose[i, 1] > 0.0 else "right"
            expected = f"on the {side}"
            if table.held_by[i]:
                expected = f"in the {table.held_by[i]} hand"
            if table.inside[i]:
                expected = f"in the {table.inside[i]}"
            assert where[1] == expected
        following = re.search(rf"Next the (left|right) arm (picks up|puts) the ({'|'.join(SNACKS)})", found.thought)
        if following is None:
            assert inside == set(goal.candidates)
            assert found.point is None
            continue
        arm, verb, name = following.groups()
        seen.add((arm, verb))
        assert name in goal.candidates
        if verb == "puts":
            assert table.held_by[table.index[name]] == arm
            assert found.point is None
        else:
            x, y, _ = table.position_m(name)
            assert found.point == pytest.approx((x, y), abs=1e-4)
            assert (y > 0.0) == (arm == "left")
    assert len(seen) == 4


def test_candies_are_counted_and_the_next_one_is_where_the_point_says(orders: list[tuple[Table, Order]]) -> None:
    seen = set()
    for table, found in of_candies(orders):
        _, inside, _ = numbers_in(found.thought.split(" Next")[0].split(", so")[0])[:3]
        container = re.search("The (box|white tray|black tray) holds", found.thought)
        assert container is not None
        assert inside == sum(table.inside[table.index[name]] == container[1] for name in CANDIES), found
        if "packs" in found.thought:
            assert found.point is not None
            arm = "left" if found.point[1] > 0.0 else "right"
            positions = [table.position_m(n)[:2] for n in CANDIES if not table.inside[table.index[n]]]
            point = np.array(found.point)
            assert min(float(np.abs(position - point).max()) for position in positions) < 1e-4
            assert f"Next the {arm} arm packs the nearest candy." in found.thought
        else:
            assert found.point is None
        seen |= {word for word in ("packs", "drops", "pushes", "go home") if word in found.thought}
    assert len(seen) == 4


def test_the_same_numbers_make_the_same_order() -> None:
    table = RandomTables(load_rig("twin")).draw(3).table
    assert order(table, np.random.default_rng(1)) == order(table, np.random.default_rng(1))
