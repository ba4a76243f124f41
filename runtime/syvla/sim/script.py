"""The reference planner's brain: from a goal and the truth about the table to the next waypoints of both arms.

Each arm works through a queue of jobs (place a thing, push the box, go home); a job is a fixed number of
waypoints whose numbers are given when it is queued, so that they stay the same from cycle to cycle. Only what
is still to come is handed out: the arms are known to be past a waypoint by its effect (the thing is held, lies
in the container, the hand has left). The space over the containers is entered by one arm at a time.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from syvla.config import RigConfig
from syvla.control.kinematics import HOME_RAD, LIMITS, Base, JointLimits, forward_tcp, hand_rotation, inverse_tcp
from syvla.messages import ARM_JOINTS, FEATURE_QUERIES, ArmName, Float64
from syvla.sim.motion import quaternion_from_rotation
from syvla.sim.scene import Container, FreeObject, Scene, Table
from syvla.sim.tasks.goal import Goal, loaded_of, pushed_m
from syvla.sim.waypoints import BOTH_ARMS, OTHER_ARM, Waypoint

_TRAVEL_M = 0.115  # height of the grasp point between places
_PUSH_M = 0.085  # how far the box is pushed
_OPEN_M, _RELEASE_M, _SQUEEZE_M = 0.022, 0.014, 0.014  # beyond, beyond and below the thing's width
_LOOSE_M = 0.005  # a hand this much wider or narrower than a thing does not hold it
_LOWEST_GRASP_M = 0.017  # the pads reach 12 mm beyond the grasp point
_IDLE_WIDTH_M = 0.05
_ATTEMPTS = 4
_MARGIN_RAD = 0.03
_NEAR = JointLimits(
    *(tuple(v + s for v in edge) for edge, s in ((LIMITS.lower_rad, _MARGIN_RAD), (LIMITS.upper_rad, -_MARGIN_RAD)))  # type: ignore[arg-type]
)
_TILTS_RAD = np.radians(np.arange(0.0, 52.0, 3.0))
_AT_HOME_RAD = 0.06


class _Pose(NamedTuple):
    """Of the hand, in the world."""

    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]


@dataclass
class _Job:
    """Waypoints that belong together. ``first`` is the row from which they are still to come."""

    arm: ArmName
    number: int  # of the first waypoint
    count: int
    first: int = 0
    waypoints: tuple[Waypoint, ...] = ()  # filled in when the job comes into view
    impossible: bool = False  # a pose is out of reach

    @property
    def exit(self) -> int:
        """Number of the arm's next waypoint after this job: once completed, the arm is elsewhere."""
        return self.number + self.count


@dataclass
class _Home(_Job):
    """Straight up where the hand is low, then home."""


@dataclass
class _Place(_Job):
    """Rows: above, down, close, lift, over the slot, lower, open, raise."""

    thing: str = ""
    slot_m: tuple[float, float] = (0.0, 0.0)
    lower_m: float = 0.0
    after: int = 0
    opened: bool = False  # the hand was seen wide enough for the thing
    built_for: Float64 = field(default_factory=lambda: np.zeros(3))

    LIFT, RAISE = 3, 7


@dataclass
class _Push(_Job):
    """Rows: beside the box, down, push, raise."""

    after: int = 0


class Script:
    """One episode's plan; ``step`` is called with each new observation."""

    def __init__(self, rig: RigConfig, goal: Goal, scene: Mapping[str, FreeObject | Container], table: Table) -> None:
        """Queue the jobs that ``goal`` needs, seeing ``table``; ``scene`` knows the things' sizes by name."""
        self._bases: dict[ArmName, Base] = {"left": Base.of(rig.left), "right": Base.of(rig.right)}
        self._goal, self._scene = goal, scene
        self._numbers: dict[ArmName, int] = {"left": 1, "right": 1}
        self._queues: dict[ArmName, list[_Job]] = {"left": [], "right": []}
        self._attempts: dict[str, int] = {}
        self._last_place: dict[ArmName, _Place] = {}
        self._slots: dict[ArmName, int] = {"left": 0, "right": 0}
        self._rest_m = float(table.position_m(goal.container)[1]) if goal.container in table.index else 0.0
        self._pushes = 0
        for arm in BOTH_ARMS:
            self._add_home(arm)
        self._queue_places(table)

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

    def _add(self, job: _Job) -> None:
        self._queues[job.arm].append(job)
        self._numbers[job.arm] += job.count

    def _add_home(self, arm: ArmName) -> None:
        self._add(_Home(arm, self._numbers[arm], 2))

    def _queue_places(self, table: Table) -> None:
        """Queue all that is still to be placed, the arms taking turns, and the way home."""
        goal = self._goal
        if goal.container not in table.index:
            return
        centre = table.position_m(goal.container)
        todo = [n for n in goal.candidates if n in table.index and table.inside[table.index[n]] != goal.container]
        todo = [n for n in todo if self._attempts.get(n, 0) < _ATTEMPTS]
        # Nearest to the container first; things tried before last.
        todo.sort(key=lambda n: (self._attempts.get(n, 0), float(np.linalg.norm(table.position_m(n) - centre))))
        todo = todo[: max(goal.count - len(loaded_of(goal, table)), 0)]
        by_arm: dict[ArmName, list[str]] = {arm: [] for arm in BOTH_ARMS}
        for name in todo:
            by_arm["left" if table.position_m(name)[1] > 0.0 else "right"].append(name)
        more, fewer = sorted(BOTH_ARMS, key=lambda arm: -len(by_arm[arm]))
        for pair in itertools.zip_longest(by_arm[more], by_arm[fewer]):
            for arm, thing in zip((more, fewer), pair, strict=True):
                if thing is not None:
                    self._add_place(arm, thing, table)
        for arm in BOTH_ARMS:
            if by_arm[arm]:
                self._add_home(arm)

    def _add_place(self, arm: ArmName, thing: str, table: Table) -> None:
        container = self._container()
        half_x = container.inner_m[0] / 2.0
        k, inwards = self._slots[arm], (1.0 if arm == "left" else -1.0)
        self._slots[arm] += 1
        size = self._size(thing)
        if self._goal.push is None:  # a tray: each arm has its half, and begins at opposite ends
            dx, dy = inwards * (half_x - 0.041) * (1.0 if k % 2 == 0 else -1.0), inwards * 0.032
            lower = size[2] / 2.0 + 0.014
        else:  # a box: three by two, dropped from above what lies there already
            dx, dy = (-0.04, 0.04, 0.0)[k % 3], inwards * (-0.03 if k % 6 < 3 else 0.03)
            lower = container.wall_height_m + 0.014
        x, y, _ = table.position_m(container.name).tolist()
        other = self._last_place.get(OTHER_ARM[arm])
        job = _Place(
            arm,
            self._numbers[arm],
            8,
            thing=thing,
            slot_m=(x + dx, y + dy),
            lower_m=lower,
            after=other.exit if other is not None else 0,
        )
        self._attempts[thing] = self._attempts.get(thing, 0) + 1
        self._last_place[arm] = job
        self._add(job)

    def _queue_push(self, table: Table) -> None:
        """Queue the push once all is packed, and again if the box has not moved far enough."""
        goal = self._goal
        if goal.push is None or goal.container not in table.index or len(loaded_of(goal, table)) != goal.count:
            return
        pusher: ArmName = "right" if goal.push == "left" else "left"
        busy = any(isinstance(job, _Push) for job in self._queues[pusher])
        if busy or self._pushes >= _ATTEMPTS or pushed_m(goal, table, self._rest_m) >= 0.9 * _PUSH_M:
            return
        packer: ArmName = "left" if pusher == "right" else "right"
        last = self._last_place.get(packer)
        self._pushes += 1
        self._add(_Push(pusher, self._numbers[pusher], 4, after=last.exit if last is not None else 0))
        self._add_home(pusher)

    # ------------------------------------------------------------ progress

    def _follow(self, arm: ArmName, table: Table, q: Float64, width_m: float) -> None:
        """Move on in the arm's queue by what can be seen."""
        queue = self._queues[arm]
        position, _ = self._bases[arm].to_world(*forward_tcp(q))
        while queue:
            job = queue[0]
            if job.impossible:
                over = True
            elif isinstance(job, _Place):
                over = self._follow_place(job, table, position, width_m)
            elif isinstance(job, _Push):
                over = self._follow_push(job, table, position)
            else:
                over = len(queue) > 1 and float(np.abs(q - HOME_RAD).max()) < _AT_HOME_RAD
            if not over:
                return
            queue.pop(0)
            if isinstance(job, _Place) and not any(isinstance(j, _Place) for qs in self._queues.values() for j in qs):
                self._queue_places(table)  # what was lost is tried again

    def _follow_place(self, job: _Place, table: Table, position: Float64, width_m: float) -> bool:
        index = table.index[job.thing]
        at_slot = math.dist(position[:2].tolist(), job.slot_m) < 0.03
        if table.held_by[index] == job.arm:
            job.first = max(job.first, job.LIFT)
        elif table.inside[index] == self._goal.container and (at_slot or job.first > 0):
            job.first = job.RAISE
        elif width_m > self._width(job.thing) + _LOOSE_M:
            job.opened = True
            if job.first == job.LIFT:  # it was to be released, and is neither held nor inside: lost
                job.first = job.RAISE
        elif job.opened and width_m < self._width(job.thing) - _LOOSE_M:
            job.first = max(job.first, job.LIFT)  # the hand closed on nothing
        return job.first == job.RAISE and (not at_slot or position[2] > _TRAVEL_M - 0.03)

    def _follow_push(self, job: _Push, table: Table, position: Float64) -> bool:
        if not job.waypoints:
            return False
        low = position[2] < _TRAVEL_M - 0.03
        goal_m = job.waypoints[2].position_m
        if low and math.dist(position[:2].tolist(), goal_m[:2]) < 0.02:
            job.first = 3
        return job.first == 3 and not low

    # ------------------------------------------------------------ waypoints

    def _view(self, arm: ArmName, table: Table, q: Float64) -> list[Waypoint]:
        """What is still to come of the jobs at the head of the arm's queue."""
        view: list[Waypoint] = []
        for index, job in enumerate(self._queues[arm]):
            if len(view) >= FEATURE_QUERIES:
                break
            if isinstance(job, _Place):
                here = np.array([*table.position_m(job.thing)[:2], table.yaw_rad(job.thing)])
                if not job.waypoints or (index > 0 and np.abs(here - job.built_for)[:2].max() > 0.004):
                    job.waypoints, job.built_for = self._place_rows(job, table), here
            elif not job.waypoints:
                job.waypoints = self._push_rows(job, table) if isinstance(job, _Push) else self._home_rows(job, q)
            job.impossible = not job.waypoints
            view.extend(job.waypoints[job.first :])
        return view

    def _place_rows(self, job: _Place, table: Table) -> tuple[Waypoint, ...]:
        arm = job.arm
        x, y, z = table.position_m(job.thing).tolist()
        width, size = self._width(job.thing), self._size(job.thing)
        grasp_m = max(z, _LOWEST_GRASP_M)
        yaws = self._grasp_yaws(job.thing, table.yaw_rad(job.thing), self._azimuth(arm, x, y))
        above, down = self._pose(arm, x, y, _TRAVEL_M, yaws), self._pose(arm, x, y, grasp_m, yaws)
        over = self._pose(arm, *job.slot_m, _TRAVEL_M, None)
        low = self._pose(arm, *job.slot_m, job.lower_m + max(grasp_m - size[2] / 2.0, 0.0), None)
        if above is None or down is None or over is None or low is None:
            return ()
        wide, shut, loose = min(width + _OPEN_M, 0.07), max(width - _SQUEEZE_M, 0.0), min(width + _RELEASE_M, 0.07)
        n = itertools.count(job.number)
        return (
            Waypoint(arm, next(n), *above, wide),
            Waypoint(arm, next(n), *down, wide, straight=True),
            Waypoint(arm, next(n), *down, shut, dwell_s=0.12, straight=True),
            Waypoint(arm, next(n), *above, shut, straight=True),
            Waypoint(arm, next(n), *over, shut, after=job.after),
            Waypoint(arm, next(n), *low, shut, straight=True),
            Waypoint(arm, next(n), *low, loose, dwell_s=0.06, straight=True),
            Waypoint(arm, next(n), *over, loose, straight=True),
        )

    def _push_rows(self, job: _Push, table: Table) -> tuple[Waypoint, ...]:
        box = self._container()
        x, y, _ = table.position_m(box.name).tolist()
        towards = 1.0 if self._goal.push == "left" else -1.0
        face = y - towards * (box.inner_m[1] / 2.0 + box.wall_thickness_m + 0.011)  # 11 mm: half a pad's width
        rest = _PUSH_M - pushed_m(self._goal, table, self._rest_m)
        start, end = face - towards * 0.025, face + towards * rest
        poses = [
            self._pose(job.arm, x, at, height, (0.0, math.pi))
            for at, height in ((start, _TRAVEL_M), (start, 0.026), (end, 0.026), (end, _TRAVEL_M))
        ]
        rows = []
        for k, pose in enumerate(poses):
            if pose is None:
                return ()
            rows.append(Waypoint(job.arm, job.number + k, *pose, 0.0, straight=k > 0, after=job.after if k == 0 else 0))
        return tuple(rows)

    def _home_rows(self, job: _Job, q: Float64) -> tuple[Waypoint, ...]:
        base = self._bases[job.arm]
        position, rotation = base.to_world(*forward_tcp(HOME_RAD))
        home = Waypoint(job.arm, job.number + 1, _triple(position), quaternion_from_rotation(rotation), _IDLE_WIDTH_M)
        here, hand = base.to_world(*forward_tcp(q))
        if self._queues[job.arm][0] is not job or here[2] > _TRAVEL_M - 0.02:
            return (home,)
        x, y, _ = here.tolist()
        up = self._pose(job.arm, x, y, _TRAVEL_M, None) or _Pose((x, y, _TRAVEL_M), quaternion_from_rotation(hand))
        return (Waypoint(job.arm, job.number, *up, _IDLE_WIDTH_M, straight=True), home)

    # ------------------------------------------------------------ geometry

    def _pose(self, arm: ArmName, x: float, y: float, z: float, yaws: tuple[float, ...] | None) -> _Pose | None:
        """The least tilted reachable hand with its grasp point there; without ``yaws`` the easiest one."""
        base = self._bases[arm]
        azimuth = self._azimuth(arm, x, y)
        options = np.array(yaws if yaws is not None else (azimuth + math.pi / 2.0, azimuth - math.pi / 2.0))
        rotations = hand_rotation(options[None, :], _TILTS_RAD[:, None], azimuth)
        position, turned = base.from_world((x, y, z), rotations)
        q, reachable = inverse_tcp(position, turned, np.array(HOME_RAD), _NEAR)
        rows = np.flatnonzero(reachable.any(axis=1))
        if len(rows) == 0:
            return None
        row = int(rows[0])
        cost = np.where(reachable[row], np.abs(q[row, :, 5]), np.inf)
        return _Pose((x, y, z), quaternion_from_rotation(rotations[row, int(cost.argmin())]))

    def _azimuth(self, arm: ArmName, x: float, y: float) -> float:
        base = self._bases[arm]
        return math.atan2(y - base.y_m, x - base.x_m)

    def _grasp_yaws(self, name: str, yaw_rad: float, azimuth_rad: float) -> tuple[float, ...]:
        """Directions in which the fingers may open around a thing: across its shorter side."""
        thing = self._thing(name)
        if thing.shape != "box":
            return (azimuth_rad + math.pi / 2.0, azimuth_rad - math.pi / 2.0)
        x, y, _ = thing.size_m
        axes = [yaw_rad + math.pi / 2.0] if x > y else [yaw_rad] if y > x else [yaw_rad, yaw_rad + math.pi / 2.0]
        # Of a square, the side that is nearer to the arm's own plane's normal.
        best = min(axes, key=lambda a: abs(math.cos(a - azimuth_rad)))
        return (best, best + math.pi)

    def _thing(self, name: str) -> FreeObject:
        thing = self._scene[name]
        if not isinstance(thing, FreeObject):
            raise TypeError(f"{name} cannot be grasped")
        return thing

    def _container(self) -> Container:
        container = self._scene[self._goal.container]
        if not isinstance(container, Container):
            raise TypeError(f"{self._goal.container} holds nothing")
        return container

    def _size(self, name: str) -> tuple[float, float, float]:
        return self._thing(name).size_m

    def _width(self, name: str) -> float:
        x, y, _ = self._thing(name).size_m
        return min(x, y)


def by_name(scene: Scene) -> dict[str, FreeObject | Container]:
    """The things of a scene by their names."""
    things: tuple[FreeObject | Container, ...] = (*scene.objects, *scene.containers)
    return {thing.name: thing for thing in things}


def _triple(position: Float64) -> tuple[float, float, float]:
    x, y, z = position.tolist()
    return x, y, z
