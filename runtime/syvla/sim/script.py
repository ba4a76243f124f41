"""The reference planner's brain: from a goal and the truth about the table to the next waypoints of both arms.

Each arm works through a queue of jobs (place a thing, push the box, go home); a job is a fixed number of
waypoints whose numbers are given when it is queued, so that they stay the same from cycle to cycle. Only what
is still to come is handed out: the arms are known to be past a waypoint by its effect (the thing is held, lies
in the container, the hand has left). One arm works at a time, the left one first, so that what comes next can be told
from what lies where: the other sets off when the first has let go, and enters the space over the containers when it
is gone.
"""

import math
import zlib
from typing import cast

import numpy as np

from syvla.config import RigConfig
from syvla.control.kinematics import HOME_RAD
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, FEATURE_QUERIES, ArmName
from syvla.sim.jobs import LOOSE_M, NEAR_M, PUSH_M, TRAVEL_M, WIDEST_M, Hands, Home, Job, Place, Push, Rise
from syvla.sim.scene import Scene, Table
from syvla.sim.tasks.goal import ENOUGH_M, Goal, far_m, loaded_of, pushed_m
from syvla.sim.waypoints import BOTH_ARMS, OTHER_ARM, Waypoint

_ATTEMPTS = 4
_AT_HOME_RAD = 0.06
_MISSED_M = (0.015, 0.035)  # from a thing's edge
_HIGH_M = TRAVEL_M - 0.02  # a hand from here on may go anywhere
_ALIGNED_M = 0.012  # an open hand this near above a thing can go down on it
_DEEP_M = 0.004  # so near to where it is grasped, a thing is between the fingers
_SAME_M = 0.03  # a place this near is the one meant


class Script:
    """One episode's plan; ``step`` is called with each new observation."""

    def __init__(
        self,
        rig: RigConfig,
        goal: Goal,
        scene: Scene,
        table: Table,
        astray_m: float = 0.0,
        misses: float = 0.0,
        *,
        rest_m: float | None = None,
        taken_over: Float64 | None = None,
    ) -> None:
        """Queue the jobs that ``goal`` needs, seeing ``table``; ``scene`` knows the things' sizes.

        A hand first comes beside a thing, by a deviation of ``astray_m`` in x and in y, and puts that right on its way
        down. Who only ever sees hands above what they want need not look where the thing is, and learns nothing else.
        As often as ``misses`` it first closes on nothing beside the thing: who never saw that does not try again.

        With ``taken_over``, the state (14,) of arms that another has moved, each goes on from where it is, and
        ``rest_m`` says where the goal's container stood before (its y).
        """
        self._rig, self._scene = rig, scene
        self._hands = Hands(rig, scene)
        self._astray_m, self._misses = astray_m, misses
        self._rng = np.random.default_rng(zlib.crc32(table.pose.tobytes()))
        self._goal = goal
        self._numbers: dict[ArmName, int] = {"left": 1, "right": 1}
        self._queues: dict[ArmName, list[Job]] = {"left": [], "right": []}
        self._attempts: dict[str, int] = {}
        self._last_place: dict[ArmName, Place] = {}
        self._slots: dict[ArmName, int] = {"left": 0, "right": 0}
        stands_m = float(table.position_m(goal.container)[1]) if goal.container in table.index else 0.0
        self._rest_m = stands_m if rest_m is None else rest_m
        self._pushes = 0
        for arm in BOTH_ARMS:
            self._add_home(arm)
        if taken_over is None:
            self._queue_places(table)
        else:
            self._take_over(table, taken_over)

    def taken_over(self, table: Table, senses: Float64) -> "Script":
        """The same episode from where another has brought the arms (``senses`` (14,)) and what is on the table."""
        return Script(self._rig, self._goal, self._scene, table, rest_m=self._rest_m, taken_over=senses)

    @property
    def rest_m(self) -> float:
        """Where the goal's container stood at first (its y)."""
        return self._rest_m

    def step(self, table: Table, proprioception: Float64) -> tuple[Waypoint, ...]:
        """The waypoints still to come, at most 20, seeing ``table`` and the arms' own (14,) state."""
        for side, arm in enumerate(BOTH_ARMS):
            q, width = proprioception[7 * side : 7 * side + ARM_JOINTS], float(proprioception[7 * side + ARM_JOINTS])
            self._follow(arm, table, q, width)
        self._queue_push(table)
        views = {
            arm: self._view(arm, table, proprioception[7 * i : 7 * i + ARM_JOINTS]) for i, arm in enumerate(BOTH_ARMS)
        }
        left, right = views["left"], views["right"]
        share = FEATURE_QUERIES // 2
        spare_l, spare_r = max(share - len(left), 0), max(share - len(right), 0)
        return (*left[: share + spare_r], *right[: share + spare_l])

    # ------------------------------------------------------------ queues

    def _add(self, job: Job) -> None:
        self._queues[job.arm].append(job)
        self._numbers[job.arm] += job.count

    def _add_home(self, arm: ArmName) -> None:
        self._add(Home(arm, self._numbers[arm], 2))

    def _queue_places(self, table: Table) -> None:
        """Queue all that is still to be placed, the left arm's share first, and the way home."""
        goal = self._goal
        if goal.container not in table.index:
            return
        todo = [n for n in goal.candidates if n in table.index and table.inside[table.index[n]] != goal.container]
        queued = {job.thing for jobs in self._queues.values() for job in jobs if isinstance(job, Place)}
        todo = [n for n in todo if self._attempts.get(n, 0) < _ATTEMPTS and n not in queued]
        todo.sort(key=lambda n: self._attempts.get(n, 0))  # what was tried before comes last
        missing = max(goal.count - len(loaded_of(goal, table)) - len(queued), 0)
        by_arm: dict[ArmName, list[str]] = {arm: [] for arm in BOTH_ARMS}
        for name in todo:
            by_arm["left" if table.position_m(name)[1] > 0.0 else "right"].append(name)
        for side, arm in enumerate(BOTH_ARMS):
            wanted = by_arm[arm]
            if goal.any_will_do:
                wanted = self._nearest(arm, by_arm[arm], table, missing, tuple(table.hands_m[side, :2].tolist()))
            missing -= len(wanted)
            for name in wanted:
                self._add_place(arm, name, table)
            if wanted:
                self._add_home(arm)

    def _nearest(
        self, arm: ArmName, things: list[str], table: Table, count: int, hand_m: tuple[float, ...]
    ) -> list[str]:
        """``count`` of the things in the order in which a hand at ``hand_m`` fetches them, from slot to slot."""
        found: list[str] = []
        for k in range(min(count, len(things))):
            rest = (name for name in things if name not in found)
            found.append(min(rest, key=lambda name: far_m(table.position_m(name), hand_m)))
            hand_m = self._slot_m(arm, self._slots[arm] + k, table)
        return found

    def _slot_m(self, arm: ArmName, k: int, table: Table) -> tuple[float, float]:
        """Where the arm's ``k``-th thing is put (x, y)."""
        inwards = 1.0 if arm == "left" else -1.0
        if self._goal.push is None:  # a tray: each arm has its half, and begins at opposite ends
            half_x = self._hands.container(self._goal.container).inner_m[0] / 2.0
            dx, dy = inwards * (half_x - 0.041) * (1.0 if k % 2 == 0 else -1.0), inwards * 0.032
        else:  # a box: three by two
            dx, dy = (-0.04, 0.04, 0.0)[k % 3], inwards * (-0.03 if k % 6 < 3 else 0.03)
        x, y, _ = table.position_m(self._goal.container).tolist()
        return (x + dx, y + dy)

    def _add_place(self, arm: ArmName, thing: str, table: Table) -> None:
        container = self._hands.container(self._goal.container)
        slot_m = self._slot_m(arm, self._slots[arm], table)
        self._slots[arm] += 1
        if self._goal.push is None:
            lower = self._hands.thing(thing).size_m[2] / 2.0 + 0.014
        else:  # dropped from above what lies there already
            lower = container.wall_height_m + 0.014
        other = self._last_place.get(OTHER_ARM[arm])
        beside_m = cast(tuple[float, float], tuple(self._rng.normal(0.0, self._astray_m, 2).tolist()))
        miss_m = self._missed_m(arm, thing, table) if self._rng.random() < self._misses else None
        job = Place(
            arm,
            self._numbers[arm],
            Place.COUNT + (0 if miss_m is None else Place.MISSES),
            thing=thing,
            slot_m=slot_m,
            beside_m=beside_m,
            miss_m=miss_m,
            lower_m=lower,
            after=other.exit if other is not None else 0,
            start_after=other.exit - 1 if other is not None else 0,
        )
        self._attempts[thing] = self._attempts.get(thing, 0) + 1
        self._last_place[arm] = job
        self._add(job)

    def _missed_m(self, arm: ArmName, thing: str, table: Table) -> tuple[float, float] | None:
        """Where the hand closes on nothing, from the thing's middle (x, y); None where another thing is nearer."""
        distance_m = self._rng.uniform(*_MISSED_M) * self._rng.choice((-1.0, 1.0))
        dx, dy = self._hands.along_m(arm, thing, table, float(distance_m))
        x, y, _ = table.position_m(thing).tolist()
        others = (name for name in table.names if name != thing and name != self._goal.container)
        if any(math.dist((x + dx, y + dy), table.position_m(n)[:2].tolist()) < math.hypot(dx, dy) for n in others):
            return None
        return (dx, dy)

    def _queue_push(self, table: Table) -> None:
        """Queue the push once all is packed, and again if the box has not moved far enough."""
        goal = self._goal
        if goal.push is None or goal.container not in table.index or len(loaded_of(goal, table)) != goal.count:
            return
        pusher: ArmName = "right" if goal.push == "left" else "left"
        busy = any(isinstance(job, Push) for job in self._queues[pusher])
        done_m = pushed_m(goal, table, self._rest_m)
        if busy or self._pushes >= _ATTEMPTS or done_m >= ENOUGH_M:
            return
        last = self._last_place.get(OTHER_ARM[pusher])
        self._pushes += 1
        self._add(
            Push(
                pusher,
                self._numbers[pusher],
                4,
                box=goal.container,
                towards=goal.push,
                distance_m=PUSH_M - done_m,
                after=last.exit if last is not None else 0,
            )
        )
        self._add_home(pusher)

    # ------------------------------------------------------------ in the middle of something

    def _take_over(self, table: Table, senses: Float64) -> None:
        """Queue what is left to do, and let each arm (``senses`` (14,)) begin where it is.

        What is done from a state is what is done from it in any other episode, or who learns from both learns
        neither: no hand that is about to grasp the right thing goes up first.
        """
        goal = self._goal
        if goal.container not in table.index:
            return
        missing = goal.count - len(loaded_of(goal, table))
        for arm in BOTH_ARMS:
            while self._slots[arm] < 5 and self._taken(self._slot_m(arm, self._slots[arm], table), table):
                self._slots[arm] += 1
            if missing > 0 and (name := self._carries(arm, table)) in goal.candidates:
                missing -= 1
                self._add_place(arm, name, table)
                self._add_home(arm)
        self._queue_places(table)
        self._queue_push(table)
        for side, arm in enumerate(BOTH_ARMS):
            self._begin(arm, table, senses[7 * side : 7 * side + 7])
        for side, arm in enumerate(BOTH_ARMS):  # what the other does at first is to go home: not above its head
            home, away = self._queues[arm][0], np.abs(senses[7 * side : 7 * side + ARM_JOINTS] - HOME_RAD).max()
            first = self._queues[OTHER_ARM[arm]][0]
            if isinstance(first, Rise):
                first = self._queues[OTHER_ARM[arm]][1]
            if isinstance(home, Home) and away > _AT_HOME_RAD and isinstance(first, Place | Push) and not first.after:
                first.after = home.exit - 1

    def _begin(self, arm: ArmName, table: Table, senses: Float64) -> None:
        """Put the right thing before the first job of ``arm``, which is at ``senses`` (7,): nothing, or the way up."""
        queue = self._queues[arm]
        if len(queue) < 2:
            return
        job, (x, y, z), width_m = queue[1], self._hands.grasp_point(arm, senses[:6]).tolist(), float(senses[6])
        carried = self._carries(arm, table)
        if isinstance(job, Place) and carried == job.thing:
            if math.dist((x, y), job.slot_m) < _SAME_M:
                job.first = job.lift + (1 if z > _HIGH_M else 2)
            queue.pop(0)
        elif isinstance(job, Push) or (isinstance(job, Place) and not job.start_after):
            if isinstance(job, Place):
                far_m = math.dist((x, y), table.position_m(job.thing)[:2].tolist())
                going = far_m < _ALIGNED_M and width_m > self._hands.width_m(job.thing) + LOOSE_M
                job.opened = going
                job.first = self._down_from(job, z) if going else 0
            else:
                rows = self._hands.push(job, table)  # none where the box is out of reach
                going = bool(rows) and math.dist((x, y), rows[0].position_m[:2]) < _SAME_M and width_m < LOOSE_M
                job.first = 2 * int(going and z < _HIGH_M)
            if going or z > _HIGH_M:
                queue.pop(0)
            else:
                queue[0] = Rise(arm, queue[0].number, 1, width_m=WIDEST_M if carried else width_m)

    def _down_from(self, job: Place, z: float) -> int:
        """The row with which a hand at height ``z`` [m] over the thing goes on: one that is down there closes."""
        if z > NEAR_M:
            return Place.NEAR
        return Place.DOWN if z > self._hands.grasp_m(job.thing) + _DEEP_M else Place.DOWN + 1

    @staticmethod
    def _carries(arm: ArmName, table: Table) -> str:
        """What is in the hand, or ""."""
        return next((name for name, by in zip(table.names, table.held_by, strict=True) if by == arm), "")

    @staticmethod
    def _taken(slot_m: tuple[float, float], table: Table) -> bool:
        """Whether something lies there already."""
        inside = (name for name, where in zip(table.names, table.inside, strict=True) if where)
        return any(math.dist(slot_m, table.position_m(name)[:2].tolist()) < _SAME_M for name in inside)

    # ------------------------------------------------------------ progress

    def _follow(self, arm: ArmName, table: Table, q: Float64, width_m: float) -> None:
        """Move on in the arm's queue by what can be seen."""
        queue = self._queues[arm]
        position = self._hands.grasp_point(arm, q)
        while queue:
            job = queue[0]
            if job.impossible:
                over = True
            elif isinstance(job, Place):
                over = self._follow_place(job, table, position, width_m)
            elif isinstance(job, Push):
                over = self._follow_push(job, position)
            elif isinstance(job, Rise):
                over = bool(position[2] > _HIGH_M)
            else:
                over = len(queue) > 1 and float(np.abs(q - HOME_RAD).max()) < _AT_HOME_RAD
            if not over:
                return
            queue.pop(0)
            if isinstance(job, Place):
                self._choose_again(arm, table)
                if not any(isinstance(j, Place) for qs in self._queues.values() for j in qs):
                    self._queue_places(table)  # what was lost is tried again

    def _choose_again(self, arm: ArmName, table: Table) -> None:
        """Where any thing will do, fetch the nearest next, though another was when the jobs were queued.

        One that fell on the way lies nearer, and who sees the table alone cannot know that it had its turn.
        """
        places = [job for job in self._queues[arm] if isinstance(job, Place)]
        if not places or not self._goal.any_will_do:
            return
        lying = [
            name
            for name in self._goal.candidates
            if table.inside[table.index[name]] != self._goal.container
            and (table.position_m(name)[1] > 0.0) == (arm == "left")
            and self._attempts.get(name, 0) < _ATTEMPTS
        ]
        hand_m = tuple(table.hands_m[BOTH_ARMS.index(arm), :2].tolist())
        for name in self._nearest(arm, lying, table, 1, hand_m):
            job, instead = places[0], next((j for j in places if j.thing == name), None)
            if job is instead:
                continue
            if instead is None:
                self._attempts[name] = self._attempts.get(name, 0) + 1
                self._attempts[job.thing] -= 1
            else:
                instead.thing, instead.waypoints = job.thing, ()
            job.thing, job.waypoints = name, ()
            if job.miss_m is not None:
                miss_m = self._missed_m(arm, name, table)
                if miss_m is None:
                    job.first = job.MISSES  # another thing is where it would close on nothing: it does not
                else:
                    job.miss_m = miss_m

    def _follow_place(self, job: Place, table: Table, position: Float64, width_m: float) -> bool:
        index = table.index[job.thing]
        at_slot = math.dist(position[:2].tolist(), job.slot_m) < 0.03
        if table.held_by[index] == job.arm:
            job.first = max(job.first, job.lift)
        elif table.inside[index] == self._goal.container and (at_slot or job.first > 0):
            job.first = job.up
        elif width_m > self._hands.width_m(job.thing) + LOOSE_M:
            job.opened = True
            if job.first == job.lift:  # it was to be released, and is neither held nor inside: lost
                job.first = job.up
        elif job.opened and width_m < self._hands.width_m(job.thing) - LOOSE_M:
            if job.miss_m is not None and job.first < job.MISSED:
                job.first, job.opened = job.MISSED, False  # on purpose
            else:
                job.first = max(job.first, job.lift)  # the hand closed on nothing
        return job.first == job.up and (not at_slot or position[2] > TRAVEL_M - 0.03)

    def _follow_push(self, job: Push, position: Float64) -> bool:
        if not job.waypoints:
            return False
        x, y, _ = job.waypoints[job.up].position_m
        if math.dist(position[:2].tolist(), (x, y)) < 0.02:
            job.first = job.up
        return job.first == job.up and bool(position[2] > TRAVEL_M - 0.03)

    # ------------------------------------------------------------ waypoints

    def _view(self, arm: ArmName, table: Table, q: Float64) -> list[Waypoint]:
        """What is still to come of the jobs at the head of the arm's queue."""
        view: list[Waypoint] = []
        for index, job in enumerate(self._queues[arm]):
            if len(view) >= FEATURE_QUERIES:
                break
            if isinstance(job, Place):
                here = np.array([*table.position_m(job.thing)[:2], table.yaw_rad(job.thing)])
                if not job.waypoints or (index > 0 and np.abs(here - job.built_for)[:2].max() > 0.004):
                    job.waypoints, job.built_for = self._hands.place(job, table), here
            elif isinstance(job, Push) and not job.waypoints:
                job.waypoints = self._hands.push(job, table)
            elif isinstance(job, Rise) and not job.waypoints:
                job.waypoints = self._hands.rise(job, q)
            elif isinstance(job, Home) and not job.waypoints:
                job.waypoints = self._hands.home(job, q, from_here=index == 0)
            job.impossible = not job.waypoints
            view.extend(job.waypoints[job.first :])
        return view
