"""The reference planner alone: what it thinks, and the waypoints that it wants."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from syvla.control.kinematics import HOME_RAD
from syvla.messages import ArmName, Intent, Observation, SimReset, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.runs import load_rig
from syvla.sim.jobs import Hands, Place
from syvla.sim.reference import ReferencePlanner
from syvla.sim.scene import Table
from syvla.sim.script import Script
from syvla.sim.tasks import TASKS
from syvla.sim.tasks.goal import far_m
from syvla.sim.tasks.math_packaging import CANDIES, next_candy
from syvla.sim.waypoints import Waypoint, decode
from syvla.sim.world import TwinWorld

RIG = load_rig("twin")


def begun(task: str, seed: int) -> tuple[SimTruth, Observation]:
    """How an episode begins: what is true, and what the arms, at home, measure."""
    world = TwinWorld(RIG, TASKS)
    world.reset(SimReset(reset_id=1, task=task, split="id", seed=seed))
    at_home = np.tile(np.append(HOME_RAD, 0.05), 2)
    return world.truth(0), Observation(observation_ns=0, proprioception=at_home, frames=(), source_age_s={})


def think(instruction: str | None = None, truth_known: bool = True) -> list[PartialThought | Intent]:
    truth, senses = begun("snack_loading", 0)
    order = Task(task_id=4, instruction=instruction or truth.instruction, issued_ns=0)
    return list(ReferencePlanner(RIG, TASKS).think(senses, order, 9, truth if truth_known else None))


def test_thoughts_grow_into_the_intents_chain_of_thought() -> None:
    *thoughts, intent = think()
    assert isinstance(intent, Intent)
    assert (intent.intent_id, intent.task_id) == (9, 4)
    texts = [t.text for t in thoughts if isinstance(t, PartialThought)]
    assert len(texts) == len(thoughts) >= 3
    for shorter, longer in itertools.pairwise(texts):
        assert longer.startswith(shorter)
        assert len(longer) > len(shorter)
    assert texts[-1] == intent.chain_of_thought
    assert len(decode(intent.feature_query_states)[1]) == 20


def _first_rows(astray_m: float, seed: int = 3) -> tuple[Waypoint, Waypoint, Waypoint, tuple[float, float]]:
    """An episode's first way down: where the hand first comes, whence it goes down, whither, and the thing's place."""
    truth, senses = begun("math_packaging", seed)
    table = Table.of(truth)
    planner = ReferencePlanner(RIG, TASKS, astray_m)
    order = Task(task_id=1, instruction=truth.instruction, issued_ns=0)
    (intent,) = [p for p in planner.think(senses, order, 1, truth) if isinstance(p, Intent)]
    rows = decode(intent.feature_query_states)[1]
    down = next(k for k, row in enumerate(rows) if row.straight)
    x, y = min((table.pose[:, :2]).tolist(), key=lambda place: math.dist(place, rows[down].position_m[:2]))
    return rows[down - 2], rows[down - 1], rows[down], (x, y)


def test_a_hand_comes_straight_down_on_a_thing_and_astray_from_beside_it() -> None:
    """Whatever way it comes, from above what lies there on it is straight above the thing."""
    *rows, thing = _first_rows(0.0)
    assert all(math.dist(row.position_m[:2], thing) < 1e-3 for row in rows)
    strayed = [_first_rows(0.02, seed) for seed in range(3, 9)]
    for _, near, down, thing in strayed:
        assert math.dist(near.position_m[:2], thing) < 1e-3
        assert math.dist(down.position_m[:2], thing) < 1e-3
        assert near.position_m[2] - 0.012 > 0.048, "the pads are above the highest thing"
    beside_m = [math.dist(first.position_m[:2], thing) for first, *_, thing in strayed]
    assert 0.01 < float(np.mean(beside_m)) < 0.05
    assert len({round(away_m, 3) for away_m in beside_m}) == len(beside_m)


def test_a_hand_comes_from_above_also_to_what_stands_on_another_thing() -> None:
    """From beside it, at the height at which a hand stops over things on the table, it would sweep it off."""
    truth, _ = begun("snack_loading", 3)
    table, scene = Table.of(truth), TASKS["snack_loading"].reset(3, "id").scene
    thing = next(o for o in scene.objects if "cube" in o.name)
    pose = table.pose.copy()
    pose[table.index[thing.name], 2] = 0.055
    arm: ArmName = "left" if pose[table.index[thing.name], 1] > 0.0 else "right"
    job = Place(arm, 1, Place.COUNT, thing=thing.name, slot_m=(0.2, 0.0), beside_m=(0.02, 0.02), lower_m=0.03)
    rows = Hands(RIG, scene).place(job, replace(table, pose=pose))
    assert rows[Place.DOWN].position_m[2] == pytest.approx(0.055)
    assert rows[Place.NEAR].position_m[2] - 0.012 > 0.055 + thing.size_m[2] / 2.0, "the pads are above it"


def test_without_the_truth_nothing_is_wanted() -> None:
    assert think(truth_known=False) == []


def test_an_instruction_that_says_nothing_makes_no_intent() -> None:
    products = think("Please be nice.")
    assert all(isinstance(p, PartialThought) for p in products)
    assert len(products) == 1


def test_where_any_candy_will_do_the_nearest_is_fetched_next_though_another_was_planned() -> None:
    """One that had fallen on the way was left for last, and who sees only the table could not know why."""
    truth, senses = begun("math_packaging", 3)
    goal, table = TASKS["math_packaging"].goal(truth.instruction), Table.of(truth)
    assert goal is not None
    arm = "left" if goal.push == "left" else "right"
    script = Script(RIG, goal, TASKS["math_packaging"].reset(3, "id").scene, table)

    def fetched(shown: Table) -> str:
        """What the arm's first way straight down leads to."""
        down = next(row for row in script.step(shown, senses.proprioception) if row.straight and row.arm == arm)
        return min(CANDIES, key=lambda name: math.dist(shown.position_m(name)[:2], down.position_m[:2]))

    def changed(shown: Table, name: str, place: np.ndarray, inside: str = "", held_by: str = "") -> Table:
        row, pose = shown.index[name], shown.pose.copy()
        pose[row, :3] = place
        into, by = list(shown.inside), list(shown.held_by)
        into[row], by[row] = inside, held_by
        return replace(shown, pose=pose, inside=tuple(into), held_by=tuple(by))

    first = next_candy(goal, table)
    assert fetched(table) == first
    place = table.position_m(first)
    held = changed(table, first, place, held_by=arm)
    script.step(held, senses.proprioception)
    packed = changed(table, first, table.position_m(goal.container), inside=goal.container)
    last = max(CANDIES, key=lambda name: far_m(table.position_m(name), place))
    assert fetched(changed(packed, last, place)) == last
