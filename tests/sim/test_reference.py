"""The reference policy in a small closed loop: world, planner, expert, set-points interpolated from chunks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from syvla.control.kinematics import Base, arm_distance_m, forward_tcp
from syvla.message import Float64
from syvla.messages import ARMS, ActionChunk, Intent, Observation, SimReset, Task
from syvla.runs import load_rig
from syvla.sim.model import ARMS_QPOS
from syvla.sim.reference import ReferenceExpert, ReferencePlanner
from syvla.sim.tasks import TASKS
from syvla.sim.world import TwinWorld

RIG = load_rig("twin")
STEP_NS = 5_000_000
_BASES = (Base.of(RIG.left), Base.of(RIG.right))


class Result(NamedTuple):
    """How an episode went."""

    success: bool
    duration_s: float
    least_distance_m: float
    farthest_first_row_rad: float


class Loop:
    """One twin with the reference policy on it; episodes follow one another without a reset of the arms."""

    def __init__(self) -> None:
        self.world = TwinWorld(RIG, TASKS)
        self.planner = ReferencePlanner(RIG)
        self.expert = ReferenceExpert(RIG)
        self.now_ns = 0
        self._episodes = 0
        self._chunks = 0

    def proprioception(self) -> Float64:
        """Both arms as measured, (14,)."""
        states = [self.world.plant(arm).measured() for arm in ("left", "right")]
        return np.concatenate([np.append(position, width) for position, _, _, width in states])

    def run(
        self,
        task: str,
        seed: int,
        split: str = "id",
        planner_s: float = 0.0,
        expert_s: float = 0.0,
        instruction: str | None = None,
        limit_s: float = 60.0,
        disturb: Callable[[float, "Loop"], bool] | None = None,
    ) -> Result:
        """One episode. ``disturb`` is called every 5 ms with the episode's time; True: the arms do not obey."""
        self._episodes += 1
        start_ns = self.now_ns
        self.world.reset(SimReset(reset_id=self._episodes, task=task, split=split, seed=seed))
        wanted = instruction or self.world.truth(start_ns).instruction
        order = Task(task_id=self._episodes, instruction=wanted, issued_ns=start_ns)
        intents: list[tuple[int, Intent]] = []
        chunks: list[tuple[int, ActionChunk]] = []
        intent, chunk = None, None
        next_plan_ns = next_act_ns = start_ns
        least_m, first_row_rad = math.inf, 0.0
        while self.now_ns < start_ns + limit_s * 1e9:
            now_ns = self.now_ns
            self.world.advance(now_ns)
            if now_ns >= next_plan_ns:
                truth = self.world.truth(now_ns)
                if truth.success:
                    return Result(True, (now_ns - start_ns) / 1e9, least_m, first_row_rad)
                senses = Observation(
                    observation_ns=now_ns, proprioception=self.proprioception(), frames=(), source_age_s={}
                )
                products = self.planner.think(senses, order, now_ns // STEP_NS, truth)
                intents += [(now_ns + round(planner_s * 1e9), p) for p in products if isinstance(p, Intent)]
                next_plan_ns = now_ns + max(round(planner_s * 1e9), 50_000_000)
            while intents and intents[0][0] <= now_ns:
                intent = intents.pop(0)[1]
            if now_ns >= next_act_ns and intent is not None:
                measured = self.proprioception()
                new = self.expert.act(intent, now_ns, measured, chunk, self._chunks, round(expert_s * 30))
                self._chunks += 1
                joints = np.concatenate((measured[:6], measured[7:13]))
                first_row_rad = max(first_row_rad, float(np.abs(new.position_rad[0] - joints).max()))
                chunks.append((now_ns + round(expert_s * 1e9), new))
                next_act_ns = now_ns + 50_000_000
            while chunks and chunks[0][0] <= now_ns:
                chunk = chunks.pop(0)[1]
            obeys = not (disturb is not None and disturb((now_ns - start_ns) / 1e9, self))
            if chunk is not None and obeys:
                self._command(chunk, now_ns)
            if (now_ns - start_ns) % (8 * STEP_NS) == 0:
                q = self.proprioception()
                least_m = min(least_m, arm_distance_m(q[:6], q[7:13], *_BASES))
            self.now_ns += STEP_NS
        return Result(False, limit_s, least_m, first_row_rad)

    def _command(self, chunk: ActionChunk, now_ns: int) -> None:
        rows = np.concatenate((chunk.position_rad, chunk.gripper_width_m), axis=1, dtype=np.float64)
        at = min((now_ns - chunk.observation_ns) / chunk.period_ns, len(rows) - 1.001)
        row = rows[int(at)] + (at - int(at)) * (rows[int(at) + 1] - rows[int(at)])
        self.world.plant("left").target(row[:6], float(row[12]))
        self.world.plant("right").target(row[6:12], float(row[13]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["id", "ood_position", "ood_wording"])
def test_the_demonstrator_solves_every_split(task: str, split: str) -> None:
    """Episodes in a row: each begins with the arms where the one before left them."""
    loop = Loop()
    for seed in range(3):
        result = loop.run(task, seed, split)
        assert result.success, f"seed {seed}"
        assert result.least_distance_m > 0.05
        assert result.farthest_first_row_rad < 0.1


@pytest.mark.parametrize("task", TASKS)
def test_a_slow_planner_and_a_slow_expert_do_not_matter(task: str) -> None:
    loop = Loop()
    for seed in range(3):
        quick, slow = loop.run(task, seed), loop.run(task, seed, planner_s=0.3, expert_s=0.03)
        assert quick.success
        assert slow.success
        assert slow.least_distance_m > 0.05
        assert slow.duration_s < quick.duration_s + 5.0


@pytest.mark.parametrize("task", TASKS)
def test_another_instruction_fails_the_episode(task: str) -> None:
    """The goal comes from the words, not from the truth."""
    right = TASKS[task].reset(0, "id").instruction
    other = next(
        text
        for text in (TASKS[task].reset(seed, "id").instruction for seed in range(1, 50))
        if TASKS[task].goal(text) != TASKS[task].goal(right)
    )
    assert not Loop().run(task, 0, instruction=other, limit_s=25.0).success


@pytest.mark.parametrize("task", TASKS)
def test_arms_that_stop_obeying_for_a_while_go_on_afterwards(task: str) -> None:
    result = Loop().run(task, 1, planner_s=0.3, expert_s=0.03, disturb=lambda time_s, _: 3.0 < time_s < 5.0)
    assert result.success
    assert result.least_distance_m > 0.05
    assert result.farthest_first_row_rad < 0.1


@pytest.mark.parametrize("task", TASKS)
def test_a_thing_that_was_dropped_is_picked_up_again(task: str) -> None:
    drops: list[str] = []

    def drop(_: float, loop: Loop) -> bool:
        table = loop.world.table()
        for row, (name, arm) in enumerate(zip(table.names, table.held_by, strict=True)):
            if arm and not drops and table.pose[row, 2] > 0.08:
                drops.append(name)
                start = ARMS_QPOS + 7 * row
                loop.world._data.qpos[start : start + 3] = (0.3, math.copysign(0.45, table.pose[row, 1]), 0.02)
                loop.world._data.qpos[start + 3 : start + 7] = (1.0, 0.0, 0.0, 0.0)
        return False

    assert Loop().run(task, 2, planner_s=0.3, expert_s=0.03, disturb=drop).success
    assert drops


@pytest.mark.parametrize(("misses", "least", "most"), [(0.0, 0, 0), (1.0, 2, 3)])
def test_a_hand_that_misses_on_purpose_closes_on_nothing_and_tries_again(misses: float, least: int, most: int) -> None:
    closed: list[tuple[str, float]] = []

    def watch(time_s: float, loop: Loop) -> bool:
        table, q = loop.world.table(), loop.proprioception()
        for side, arm in enumerate(("left", "right")):
            low = _BASES[side].to_world(*forward_tcp(q[7 * side : 7 * side + 6]))[0][2] < 0.06
            seen = [at_s for name, at_s in closed if name == arm]
            if low and q[7 * side + 6] < 0.028 and arm not in table.held_by and (not seen or time_s - seen[-1] > 2.0):
                closed.append((arm, time_s))
        return False

    loop = Loop()
    loop.planner = ReferencePlanner(RIG, TASKS, misses=misses)
    assert loop.run("snack_loading", 3, planner_s=0.3, expert_s=0.03, disturb=watch).success
    assert least <= len(closed) <= most


def test_a_hand_that_missed_on_purpose_may_miss_in_earnest_after_that() -> None:
    """A thing that was pushed away as the hand came for it was once waited for, for ever."""
    moved: list[float] = []

    def push_away(time_s: float, loop: Loop) -> bool:
        table, q = loop.world.table(), loop.proprioception()
        hand = _BASES[0].to_world(*forward_tcp(q[:6]))[0]
        for row, name in enumerate(table.names):
            on_it = float(np.linalg.norm(hand[:2] - table.pose[row, :2])) < 0.012 and "tray" not in name
            if on_it and hand[2] < 0.04 and q[6] > 0.06 and not moved:
                start = ARMS_QPOS + 7 * row
                loop.world._data.qpos[start : start + 3] = (0.3, 0.45, 0.02)
                moved.append(time_s)
        return False

    loop = Loop()
    loop.planner = ReferencePlanner(RIG, TASKS, misses=1.0)
    assert loop.run("snack_loading", 3, planner_s=0.3, expert_s=0.03, disturb=push_away).success
    assert moved


def test_a_planner_that_is_restarted_starts_over() -> None:
    def restart(time_s: float, loop: Loop) -> bool:
        if time_s == 5.0:
            loop.planner = ReferencePlanner(RIG)
        return False

    assert Loop().run("snack_loading", 3, planner_s=0.3, expert_s=0.03, disturb=restart).success


def test_an_expert_that_is_restarted_goes_on() -> None:
    def restart(time_s: float, loop: Loop) -> bool:
        if time_s in (4.0, 7.0, 9.0):
            loop.expert = ReferenceExpert(RIG)
        return False

    assert Loop().run("snack_loading", 3, planner_s=0.3, expert_s=0.03, disturb=restart).success


@pytest.mark.parametrize("task", TASKS)
def test_who_takes_over_from_himself_goes_on_where_he_was(task: str) -> None:
    """From any state it does what it would have done, or who learns from both would learn neither."""
    for seed in range(2):
        plain, loop = Loop().run(task, seed, planner_s=0.3, expert_s=0.03), Loop()
        taken: list[float] = []

        def take_over(time_s: float, loop: Loop, taken: list[float] = taken) -> bool:
            if time_s > 2.5 * (len(taken) + 1):
                taken.append(time_s)
                loop.planner.take_over()
            return False

        result = loop.run(task, seed, planner_s=0.3, expert_s=0.03, disturb=take_over)
        assert result.success
        assert len(taken) >= 5
        assert result.least_distance_m > 0.05
        assert result.duration_s < plain.duration_s + 0.9 * len(taken)  # braked, and thought anew


@pytest.mark.parametrize("task", TASKS)
def test_arms_that_were_led_astray_are_taken_over_wherever_they_are(task: str) -> None:
    """Closed hands low beside things, hands that were opened on the way, boxes that were pushed."""
    rng, led = np.random.default_rng(5), [0]

    def lead_astray(time_s: float, loop: Loop) -> bool:
        leads = time_s < 8.0 and time_s % 4.0 > 2.8
        if leads:
            q = loop.proprioception()
            for side, arm in enumerate(ARMS):
                step = rng.normal((0.0, 0.005, 0.0, 0.0, 0.0, 0.0), 0.03)  # and downwards
                loop.world.plant(arm).target(q[7 * side : 7 * side + 6] + step, float(rng.uniform(0.0, 0.07)))
            led[0] += 1
        elif led[0]:
            led[0] = 0
            loop.planner.take_over()
        return leads

    result = Loop().run(task, 1, planner_s=0.3, expert_s=0.03, disturb=lead_astray)
    assert result.success
