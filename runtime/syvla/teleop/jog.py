"""Jogging: wanted velocities of both hands become velocities of the joints, by differential inverse kinematics.

Each step solves for the joints' displacements ``dq`` (mink, a quadratic program by daqp)

    min  |W (J dq - (v dt + k e dt))|^2 + lambda |dq|^2
    so that  |dq_j| <= v_max dt,  dq_j <= b dt (limit_j - q_j),  n (J_b - J_a) dq <= b dt (distance - least)

where ``v`` is the wanted twist after its acceleration and jerk were bounded (ruckig), and ``e`` how far the hand has
come off the pose that ``v`` leads it through. The damping lambda bounds ``dq`` where the arm is singular; towards a
joint limit and towards the other arm the speed falls in proportion to what is left of the way.
"""

from collections.abc import Sequence

import mink
import numpy as np
import ruckig
from mink.exceptions import NoSolutionFound

from syvla.clock import NS_PER_S
from syvla.config import SafetyLimits
from syvla.control.gamepad import SPEEDS
from syvla.control.kinematics import Base
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ARMS, BOTH_ARMS_JOINTS
from syvla.protocols import Jog
from syvla.teleop.model import capsules, two_arms

TWISTS = 12  # both hands' twists
ACCELERATION = (2.0, 8.0)  # of a hand: m/s^2, rad/s^2
JERK = (40.0, 160.0)
SPEED_SHARE = 0.75  # of the gate's velocity limits
DAMPING = 5e-4
ANGLE_WEIGHT = 0.15  # a radian beside a metre: at a limit a hand rather turns than leaves its line
RETURN_PER_S = 8.0  # k
BRAKE_PER_S = 6.0  # b
LEAST_DISTANCE_M = 0.03  # between the arms: more than the gate's hold
SEEN_FROM_M = 0.20  # where the other arm begins to matter
LEASH = (0.01, 0.1)  # m, rad: a hand that cannot follow does not run after what it missed
_STANDS = 1e-6
# The hand's axes at the zero pose, where its z points forward: forward, left and up are its z, y and -x.
_HAND_AXES = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


class Jogger:
    """A :class:`~syvla.protocols.Guide` for sticks.

    Args:
        left: where the left arm stands.
        right: where the right arm stands.
        limits: the gate's; what is asked stays within them, so that the gate has nothing to cut.
        period_ns: between two calls of :meth:`velocity`.
    """

    def __init__(self, left: Base, right: Base, limits: SafetyLimits, period_ns: int) -> None:
        self._dt_s = period_ns / NS_PER_S
        self._bases = (left, right)
        fastest = SPEEDS[-1]
        self._fastest = (
            fastest.linear_m_s * self._dt_s,
            fastest.angular_rad_s * self._dt_s,
        )  # also while it comes back to its line
        model = two_arms(left, right, limits)
        self._least, self._most = model.jnt_range.T
        self._configuration = mink.Configuration(model)
        self._tasks = [mink.FrameTask(f"{arm}/tcp", "site", 1.0, ANGLE_WEIGHT) for arm in ARMS]
        joints = [f"{arm}/joint{number}" for arm in ARMS for number in range(1, ARM_JOINTS + 1)]
        speeds = [SPEED_SHARE * v for v in limits.velocity_rad_s * 2]
        self._limits = [
            mink.ConfigurationLimit(model, gain=BRAKE_PER_S * self._dt_s),
            mink.VelocityLimit(model, dict(zip(joints, speeds, strict=True))),
            mink.CollisionAvoidanceLimit(
                model,
                [(capsules("left"), capsules("right"))],
                gain=BRAKE_PER_S * self._dt_s**2,  # mink divides the distance by dt, and bounds a displacement with it
                minimum_distance_from_collisions=LEAST_DISTANCE_M,
                collision_detection_distance=SEEN_FROM_M,
            ),
        ]
        self._change = self._dt_s * np.array(limits.acceleration_rad_s2 * 2)
        self._joints = np.zeros(BOTH_ARMS_JOINTS)
        self._frozen = [
            mink.DofFreezingTask(model, list(range(first, first + ARM_JOINTS))) for first in (0, ARM_JOINTS)
        ]
        self._smooth = ruckig.Ruckig(TWISTS, self._dt_s)
        self._input = ruckig.InputParameter(TWISTS)
        self._output = ruckig.OutputParameter(TWISTS)
        self._input.control_interface = ruckig.ControlInterface.Velocity
        self._input.synchronization = ruckig.Synchronization.No
        self._input.max_acceleration = [a for a in ACCELERATION * 2 for _ in range(3)]
        self._input.max_jerk = [j for j in JERK * 2 for _ in range(3)]
        self._aims: list[mink.SE3 | None] = [None, None]
        self._stand()

    def rest(self, now_ns: int) -> None:
        """Begin from standstill next time."""
        self._stand()

    def _stand(self) -> None:
        zeros = [0.0] * TWISTS
        self._input.current_position = self._input.current_velocity = self._input.current_acceleration = zeros
        self._input.target_velocity = self._input.target_acceleration = zeros
        self._aims = [None, None]
        self._joints = np.zeros(BOTH_ARMS_JOINTS)

    def close(self) -> None:
        """Nothing is owned."""

    def velocity(self, now_ns: int, set_point: Float64, jog: Jog) -> Float64:
        """Both arms' joints [rad/s] and both grippers [m/s], (14,). An arm whose hand shall not move does not move."""
        q = np.clip(set_point[:BOTH_ARMS_JOINTS], self._least, self._most)
        self._configuration.update(q)
        wanted = self._smoothed([self._in_world(k, jog) for k in range(2)])
        driven = [k for k in range(2) if np.abs(wanted[k]).max() > _STANDS]
        for k in range(2):
            self._lead(k, wanted[k] if k in driven else None)
        solution = self._solve(driven)
        for k in range(2):
            if k not in driven:
                solution[ARM_JOINTS * k : ARM_JOINTS * (k + 1)] = 0.0
        self._joints = self._towards(solution)
        return np.concatenate((self._joints, jog.gripper_m_s))

    def _solve(self, driven: Sequence[int]) -> Float64:
        """The joints' velocities (12,) that do best what the hands of ``driven`` arms shall do."""
        if not driven:
            return np.zeros(BOTH_ARMS_JOINTS)
        try:
            velocity: Float64 = mink.solve_ik(
                self._configuration,
                [self._tasks[k] for k in driven],
                self._dt_s,
                "daqp",
                damping=DAMPING,
                limits=self._limits,
                constraints=[self._frozen[k] for k in range(2) if k not in driven] or None,
            )
        except NoSolutionFound:
            self._stand()  # to stand is always within the limits
            return np.zeros(BOTH_ARMS_JOINTS)
        return velocity

    def _towards(self, wanted: Float64) -> Float64:
        """As far from the last velocities (12,) to the ``wanted`` ones as all joints' accelerations allow, together.

        Where an arm is singular, or comes upon a limit or the other arm, the solution may change within one step.
        """
        change = wanted - self._joints
        share = float((np.abs(change) / self._change).max())
        return self._joints + change / max(share, 1.0)

    def _in_world(self, k: int, jog: Jog) -> Float64:
        """The wanted twist of hand ``k`` (6,) along the world's axes."""
        axes = self._bases[k].rotation
        if jog.in_hand:
            axes = self._pose(k).rotation().as_matrix() @ _HAND_AXES
        return np.asarray((np.reshape(jog.twist[k], (2, 3)) @ axes.T).ravel(), np.float64)

    def _smoothed(self, wanted: Sequence[Float64]) -> Float64:
        """The twists (2, 6) of this step, on their way to the ``wanted`` ones."""
        given, made = self._input, self._output
        given.target_velocity = np.concatenate(wanted).tolist()
        if self._smooth.update(given, made) not in (ruckig.Result.Working, ruckig.Result.Finished):
            self._stand()
            return np.zeros((2, 6))
        made.pass_to_input(given)
        given.current_position = [0.0] * TWISTS  # only velocities matter, and a position would grow for ever
        return np.reshape(made.new_velocity, (2, 6))

    def _lead(self, k: int, twist: Float64 | None) -> None:
        """Lead hand ``k`` on by one step of ``twist``; None: it stands, and is led from where it stands next time."""
        if twist is None:
            self._aims[k] = None
            return
        here, aim, move = self._pose(k), self._aims[k], twist * self._dt_s
        aim = _moved(here if aim is None else aim, move)
        away = np.concatenate(
            (aim.translation() - here.translation(), (aim.rotation() @ here.rotation().inverse()).log())
        )
        away = _at_most(away, LEASH)
        self._aims[k] = _moved(here, away)
        step = move + (away - move) * RETURN_PER_S * self._dt_s
        self._tasks[k].set_target(_moved(here, _at_most(step, self._fastest)))

    def _pose(self, k: int) -> mink.SE3:
        return self._configuration.get_transform_frame_to_world(f"{ARMS[k]}/tcp", "site")


def _at_most(twist: Float64, most: Sequence[float]) -> Float64:
    """``twist`` (6,) with its straight and its turning part no longer than ``most`` says."""
    parts = np.reshape(twist, (2, 3))
    lengths = np.maximum(np.linalg.norm(parts, axis=1), 1e-12)
    return np.asarray((parts * np.minimum(1.0, np.divide(most, lengths))[:, None]).ravel(), np.float64)


def _moved(pose: mink.SE3, by: Float64) -> mink.SE3:
    """``pose`` moved by (3,) [m] and turned by (3,) [rad], along the world's axes."""
    return mink.SE3.from_rotation_and_translation(mink.SO3.exp(by[3:]) @ pose.rotation(), pose.translation() + by[:3])
