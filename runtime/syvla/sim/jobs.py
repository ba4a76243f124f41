"""The jobs of one arm, and the waypoints each consists of: how a thing is grasped, placed, and a box pushed.

A hand points straight down wherever it can reach so, and otherwise tilts outwards by the least that will do.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, cast

import numpy as np

from syvla.config import RigConfig, Six
from syvla.control.kinematics import HOME_RAD, LIMITS, Base, JointLimits, forward_tcp, hand_rotation, inverse_tcp
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import ArmName
from syvla.sim.motion import quaternion_from_rotation
from syvla.sim.scene import Container, FreeObject, Scene, Table
from syvla.sim.tasks.goal import Side
from syvla.sim.waypoints import Waypoint

TRAVEL_M = 0.115  # height of the grasp point between places
NEAR_M = 0.065  # where a hand stops straight above a thing on the table: its pads are just above the highest
_OVER_M = 0.04  # so far over where a thing is grasped that stands on another: no hand sweeps it off
PUSH_M = 0.085  # how far the box is pushed
LOOSE_M = 0.005  # a hand this much wider or narrower than a thing does not hold it
_SQUEEZE_M = 0.014  # below the thing's width
# Of a hand with nothing in it, at rest too: a bar held by its ends needs 0.06 to be let go, and a hand that is neither
# shut nor as wide as this is one that holds something, whichever way.
WIDEST_M = 0.07
_LOWEST_GRASP_M = 0.017  # the pads reach 12 mm beyond the grasp point
_HALF_PAD_M = 0.011
_MARGIN_RAD = 0.03  # kept from the joints' limits
_NEAR = JointLimits(
    cast(Six, tuple(v + _MARGIN_RAD for v in LIMITS.lower_rad)),
    cast(Six, tuple(v - _MARGIN_RAD for v in LIMITS.upper_rad)),
)
_TILTS_RAD = np.radians(np.arange(0.0, 52.0, 3.0))


class Pose(NamedTuple):
    """Of the hand, in the world."""

    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]


@dataclass
class Job:
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
class Home(Job):
    """Straight up where the hand is low, then home."""


@dataclass
class Rise(Job):
    """Straight up, the hand as wide as it is."""

    width_m: float = 0.0


@dataclass
class Place(Job):
    """Rows: above, near, down, close, lift, over the slot, lower, open, raise.

    Near is straight above the thing and just clear of what lies there: a hand that goes down all the way from beside it
    is there before anybody can tell that it comes down beside it. A job with a ``miss_m`` has four more before them:
    above, down, close and up again, beside the thing.
    """

    thing: str = ""
    slot_m: tuple[float, float] = (0.0, 0.0)
    beside_m: tuple[float, float] = (0.0, 0.0)  # of the thing: where the hand first comes
    miss_m: tuple[float, float] | None = None  # of the thing: where it closes on nothing before
    lower_m: float = 0.0
    after: int = 0  # of the other arm: before this one is over the container
    start_after: int = 0  # of the other arm: before this one sets off
    opened: bool = False  # the hand was seen wide enough for the thing
    built_for: Float64 = field(default_factory=lambda: np.zeros(3))

    COUNT: ClassVar[int] = 9
    NEAR: ClassVar[int] = 1  # the row that ends straight above the thing
    DOWN: ClassVar[int] = 2
    MISSES: ClassVar[int] = 4  # the rows of a miss, before the others
    MISSED: ClassVar[int] = 3  # the row in which a hand that closed on nothing goes up again

    @property
    def lift(self) -> int:
        """The row in which the thing is lifted."""
        return self.count - 5

    @property
    def up(self) -> int:
        """The last row, in which the hand leaves."""
        return self.count - 1


@dataclass
class Push(Job):
    """Rows: beside the box, down, push, raise."""

    box: str = ""
    towards: Side = "left"
    distance_m: float = 0.0
    after: int = 0

    up: ClassVar[int] = 3  # the last row


class Hands:
    """Turns jobs into waypoints, knowing where the arms stand and how large things are."""

    def __init__(self, rig: RigConfig, scene: Scene) -> None:
        """For the arms of ``rig`` and the sizes of the things in ``scene``."""
        self._bases: dict[ArmName, Base] = {"left": Base.of(rig.left), "right": Base.of(rig.right)}
        self._objects: Mapping[str, FreeObject] = {thing.name: thing for thing in scene.objects}
        self._containers: Mapping[str, Container] = {thing.name: thing for thing in scene.containers}

    def thing(self, name: str) -> FreeObject:
        """What can be grasped by that name."""
        if name not in self._objects:
            raise ConfigError(f"nothing to grasp is called {name!r}; there are {', '.join(self._objects)}")
        return self._objects[name]

    def container(self, name: str) -> Container:
        """What can be filled by that name."""
        if name not in self._containers:
            raise ConfigError(f"no container is called {name!r}; there are {', '.join(self._containers)}")
        return self._containers[name]

    def width_m(self, name: str) -> float:
        """How far apart the fingers are when they hold the thing."""
        x, y, _ = self.thing(name).size_m
        return min(x, y)

    def grasp_m(self, name: str) -> float:
        """How high the grasp point is when the thing is grasped where it lies on the table."""
        return max(self.thing(name).size_m[2] / 2.0, _LOWEST_GRASP_M)

    def along_m(self, arm: ArmName, name: str, table: Table, distance_m: float) -> tuple[float, float]:
        """So far from the thing's edge, beside what the fingers of a grasp close along; (x, y) from its middle."""
        x, y, _ = table.position_m(name).tolist()
        across = self._grasp_yaws(name, table.yaw_rad(name), self._azimuth(arm, x, y))[0]
        far = math.copysign(abs(distance_m) + max(self.thing(name).size_m[:2]) / 2.0, distance_m)
        return (-math.sin(across) * far, math.cos(across) * far)

    def grasp_point(self, arm: ArmName, q_rad: Float64) -> Float64:
        """(3,) in the world."""
        return self._bases[arm].to_world(*forward_tcp(q_rad))[0]

    def place(self, job: Place, table: Table) -> tuple[Waypoint, ...]:
        """The rows of a place job; none if one is out of reach."""
        arm = job.arm
        x, y, z = table.position_m(job.thing).tolist()
        width, size = self.width_m(job.thing), self.thing(job.thing).size_m
        held = table.held_by[table.index[job.thing]]  # then it is grasped where it lay
        grasp_m = self.grasp_m(job.thing) if held else max(z, _LOWEST_GRASP_M)
        yaws = self._grasp_yaws(job.thing, table.yaw_rad(job.thing), self._azimuth(arm, x, y))
        above, down = self._pose(arm, x, y, TRAVEL_M, yaws), self._pose(arm, x, y, grasp_m, yaws)
        beside = self._pose(arm, x + job.beside_m[0], y + job.beside_m[1], TRAVEL_M, yaws) or above
        near = self._pose(arm, x, y, max(NEAR_M, grasp_m + _OVER_M), yaws)
        over = self._pose(arm, *job.slot_m, TRAVEL_M, None)
        low = self._pose(arm, *job.slot_m, job.lower_m + max(grasp_m - size[2] / 2.0, 0.0), None)
        if above is None or beside is None or near is None or down is None or over is None or low is None:
            return ()
        shut = max(width - _SQUEEZE_M, 0.0)
        n = itertools.count(job.number)
        missed: list[Waypoint] = []
        if job.miss_m is not None:
            aside = (x + job.miss_m[0], y + job.miss_m[1])
            high, deep = self._pose(arm, *aside, TRAVEL_M, yaws), self._pose(arm, *aside, grasp_m, yaws)
            if high is None or deep is None:
                high, deep = above, above
            missed = [  # none is reached on a straight line downwards: that would make it a key place
                Waypoint(arm, next(n), *high, WIDEST_M, after=job.start_after, mistaken=True),
                Waypoint(arm, next(n), *deep, WIDEST_M, mistaken=True),
                Waypoint(arm, next(n), *deep, shut, dwell_s=0.12, mistaken=True),
                Waypoint(arm, next(n), *high, shut, straight=True),
            ]
        return (
            *missed,
            Waypoint(arm, next(n), *beside, WIDEST_M, after=job.start_after),
            Waypoint(arm, next(n), *near, WIDEST_M),
            Waypoint(arm, next(n), *down, WIDEST_M, straight=True),
            Waypoint(arm, next(n), *down, shut, dwell_s=0.12, straight=True),
            Waypoint(arm, next(n), *above, shut, straight=True),
            Waypoint(arm, next(n), *over, shut, after=job.after),
            Waypoint(arm, next(n), *low, shut, straight=True),
            Waypoint(arm, next(n), *low, WIDEST_M, dwell_s=0.06, straight=True),
            Waypoint(arm, next(n), *over, WIDEST_M, straight=True),
        )

    def push(self, job: Push, table: Table) -> tuple[Waypoint, ...]:
        """The rows of a push job, with the fingers closed; none if one is out of reach."""
        box = self.container(job.box)
        x, y, _ = table.position_m(box.name).tolist()
        towards = 1.0 if job.towards == "left" else -1.0
        face = y - towards * (box.inner_m[1] / 2.0 + box.wall_thickness_m + _HALF_PAD_M)
        start, end = face - towards * 0.025, face + towards * job.distance_m
        poses = [
            self._pose(job.arm, x, at, height, (0.0, math.pi))
            for at, height in ((start, TRAVEL_M), (start, 0.026), (end, 0.026), (end, TRAVEL_M))
        ]
        rows = []
        for k, pose in enumerate(poses):
            if pose is None:
                return ()
            rows.append(Waypoint(job.arm, job.number + k, *pose, 0.0, straight=k > 0, after=job.after if k == 0 else 0))
        return tuple(rows)

    def home(self, job: Home, q: Float64, from_here: bool) -> tuple[Waypoint, ...]:
        """The way home; if it starts ``from_here``, from joints ``q`` with the hand low, straight up first."""
        base = self._bases[job.arm]
        position, rotation = base.to_world(*forward_tcp(HOME_RAD))
        x, y, z = position.tolist()
        home = Waypoint(job.arm, job.number + 1, (x, y, z), quaternion_from_rotation(rotation), WIDEST_M)
        here, hand = base.to_world(*forward_tcp(q))
        if not from_here or here[2] > TRAVEL_M - 0.02:
            return (home,)
        return (Waypoint(job.arm, job.number, *self._up(job.arm, here, hand), WIDEST_M, straight=True), home)

    def rise(self, job: Rise, q: Float64) -> tuple[Waypoint, ...]:
        """Straight up from joints ``q``."""
        here, hand = self._bases[job.arm].to_world(*forward_tcp(q))
        return (Waypoint(job.arm, job.number, *self._up(job.arm, here, hand), job.width_m, straight=True),)

    def _up(self, arm: ArmName, here: Float64, hand: Float64) -> Pose:
        """Above ``here`` (3,), turned like the ``hand`` (3, 3) if it can be reached in no easier way."""
        x, y, _ = here.tolist()
        return self._pose(arm, x, y, TRAVEL_M, None) or Pose((x, y, TRAVEL_M), quaternion_from_rotation(hand))

    def _pose(self, arm: ArmName, x: float, y: float, z: float, yaws: tuple[float, ...] | None) -> Pose | None:
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
        return Pose((x, y, z), quaternion_from_rotation(rotations[row, int(cost.argmin())]))

    def _azimuth(self, arm: ArmName, x: float, y: float) -> float:
        base = self._bases[arm]
        return math.atan2(y - base.y_m, x - base.x_m)

    def _grasp_yaws(self, name: str, yaw_rad: float, azimuth_rad: float) -> tuple[float, ...]:
        """Directions in which the fingers may open around a thing.

        Across the shorter side of a long one. Around anything else the wide open hand closes as it comes, across the
        arm's own plane: a cube turns between the fingers, and nobody has to see how it lies.
        """
        x, y, _ = self.thing(name).size_m
        across = azimuth_rad + math.pi / 2.0 if x == y else yaw_rad + math.pi / 2.0 if x > y else yaw_rad
        return (across, across + math.pi)
