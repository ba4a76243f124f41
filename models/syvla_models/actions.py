"""The action space: between the robot's 14 numbers a row and the tensor (H, 32) that the expert denoises.

Both spaces fill the same 32 slots, so that other embodiments fit the same tensor; per arm, the left one first:

    0:3    grasp point's position [m]      live in ``end_effector``
    3:9    its rotation: the first two columns of the matrix (Zhou et al., On the Continuity of Rotation
           Representations in Neural Networks, 2019)
    9:15   joints [rad]                    live in ``joint``
    15     gripper width [m], absolute     live in both

Both are relative to the ``anchor``: what was measured at the observation timestamp. Joints are offsets from it;
end-effector poses are T0^-1 T, T0 being the grasp point's pose at the anchor. So what a chunk means is settled by its
observation, and executing it later does not move it. Slots that are not live are 0.

A row of the robot, and an anchor, is (14,): left 6 joints [rad], left gripper width [m], right 6 joints, right gripper.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from syvla.config import SafetyLimits
from syvla.control.kinematics import (
    BASE_HEIGHT_M,
    ELBOW_OFFSET_M,
    ELBOW_ZERO_RAD,
    FLANGE_M,
    FOREARM_M,
    TCP_OFFSET_M,
    UPPER_ARM_M,
    JointLimits,
    forward_tcp,
    inverse_tcp,
    solutions_tcp,
)
from syvla.errors import ConfigError
from syvla.message import Float32, Float64
from syvla_models.spec import SLOTS, ActionSpec, Table

Bool = npt.NDArray[np.bool_]
Numbers = tuple[float, ...]

PER_ARM = SLOTS // 2
POSITION, ROTATION, JOINTS, GRIPPER = slice(0, 3), slice(3, 9), slice(9, 15), slice(15, 16)  # slots of one arm

# A slot that hardly varies in the data is not blown up to deviation 1.
_LEAST_POSITION_M, _LEAST_ROTATION, _LEAST_JOINT_RAD, _LEAST_GRIPPER_M = 0.005, 0.02, 0.01, 0.002
_LEAST = np.tile((*[_LEAST_POSITION_M] * 3, *[_LEAST_ROTATION] * 6, *[_LEAST_JOINT_RAD] * 6, _LEAST_GRIPPER_M), 2)

# Between these distances of the wrist centre from the shoulder the elbow has a solution; a micrometre inside, since
# at the very ends its two solutions become one.
_SHOULDER_M = np.array((0.0, 0.0, BASE_HEIGHT_M))
_FOREARM_LENGTH_M = math.hypot(ELBOW_OFFSET_M, FOREARM_M)
_FARTHEST_M = UPPER_ARM_M + _FOREARM_LENGTH_M - 1e-6
_NEAREST_M = abs(UPPER_ARM_M - _FOREARM_LENGTH_M) + 1e-6
_ELBOW = 2
_STRAIGHT_RAD = math.atan2(FOREARM_M, ELBOW_OFFSET_M) - ELBOW_ZERO_RAD - 2.0 * math.pi  # of joint 3: the wrist farthest
_SHORTEST_COLUMN = 1e-3  # of a rotation: the first column, and the part of the second that is across it
_SAME_RAD = 1e-9
_STEP_RAD = 1e-5  # of a numerical derivative


class ActionSpace(ABC):
    """Encodes and decodes action chunks; made by :func:`action_space`.

    Attributes:
        live: Which slots this space uses (32,).
    """

    live: Bool

    def __init__(self, spec: ActionSpec, limits: SafetyLimits) -> None:
        self._offset, self._scale = np.array(spec.offset), np.array(spec.scale)
        self._state_offset, self._state_scale = np.array(spec.state_offset), np.array(spec.state_scale)
        self._lower_rad, self._upper_rad = np.array(limits.position_min_rad), np.array(limits.position_max_rad)
        self._gripper_m = (limits.gripper_min_m, limits.gripper_max_m)

    def encode(self, rows: Float64, anchor: Float64) -> Float32:
        """Normalised (..., H, 32) of set-points (..., H, 14), relative to what was measured (..., 14)."""
        normalised: Float64 = np.where(self.live, (self.raw(rows, anchor) - self._offset) / self._scale, 0.0)
        return normalised.astype(np.float32)

    def raw(self, rows: Float64, anchor: Float64) -> Float64:
        """As :meth:`encode`, but in metres and radians."""
        arms, start = _arms(rows), _arms(anchor)[..., None, :, :]
        slots = np.zeros((*arms.shape[:-1], PER_ARM))
        self._put(slots, arms[..., :6], start[..., :6])
        slots[..., GRIPPER] = arms[..., 6:]
        return slots.reshape(*slots.shape[:-2], SLOTS)

    def decode(self, x: npt.ArrayLike, anchor: Float64, reference: Float64 | None = None) -> Float64:
        """Set-points (H, 14) within limits, of normalised rows (H, 32).

        Args:
            x: Normalised rows. One with a NaN or an infinity in a live slot comes out as all NaN, so that the safety
                gate refuses the chunk; the other rows are not affected by it.
            anchor: What was measured (14,) at the observation timestamp, as it was given to :meth:`encode`.
            reference: Joints (14,) near which the first row's solution is sought where there are several; the anchor
                by default. What the rows mean does not depend on it.
        """
        raw = np.asarray(x, np.float64) * self._scale + self._offset
        good = np.isfinite(raw[:, self.live]).all(axis=-1)
        slots = raw[good].reshape(-1, 2, PER_ARM)
        start = _arms(anchor)[:, :6]
        near = start if reference is None else _arms(reference)[:, :6]
        arms = np.empty((len(slots), 2, 7))
        arms[..., :6] = self._joints(slots, start, near)
        arms[..., 6:] = np.clip(slots[..., GRIPPER], *self._gripper_m)
        rows = np.full((len(raw), 14), np.nan)
        rows[good] = arms.reshape(-1, 14)
        return rows

    def state(self, proprioception: Float64) -> Float32:
        """What the expert is told of the arms, normalised (..., 32), of what was measured (..., 14)."""
        normalised: Float64 = (state_slots(proprioception) - self._state_offset) / self._state_scale
        return normalised.astype(np.float32)

    def measured(self, state: Float32) -> Float64:
        """What was measured (14,), of what the expert is told of it (32,): :meth:`state` the other way round."""
        by_arm = (state.astype(np.float64) * self._state_scale + self._state_offset).reshape(2, PER_ARM)
        return np.concatenate((by_arm[:, JOINTS], by_arm[:, GRIPPER]), axis=1).ravel()

    def fit(self, chunks: Float64) -> tuple[Table, Table]:
        """Offset and scale (H, 32) that give the live slots of ``chunks`` (N, H, 32), from :meth:`raw`, deviation 1.

        Row by row: with one scale for all, the first row, which must begin where the arm is, is a hundredth of the
        last and drowns in what the network gets wrong. Such a policy fell nicely in loss and failed every first chunk
        at the safety gate.
        """
        offset = np.where(self.live, chunks.mean(axis=0), 0.0)
        scale = np.where(self.live, np.maximum(chunks.std(axis=0), _LEAST), 1.0)
        return _table(offset), _table(scale)

    def leverage(self, rows: Float64, stride: int) -> Float32:
        """How far the grasp points move for a change of each normalised slot: (..., H // stride, 2, 3, 16) [m].

        At the last of every ``stride`` rows of set-points (..., H, 14): arms, directions in space, slots of an arm.
        """
        at = slice(stride - 1, None, stride)
        scale = np.broadcast_to(self._scale, (rows.shape[-2], SLOTS))[at].reshape(-1, 2, 1, PER_ARM)
        moved: Float64 = self._moved(_arms(rows[..., at, :])[..., :6]) * scale
        return moved.astype(np.float32)

    @abstractmethod
    def _moved(self, q_rad: Float64) -> Float64:
        """Derivatives (..., 2, 3, 16) of the grasp points by the slots, not normalised, at joints (..., 2, 6)."""

    @abstractmethod
    def _put(self, slots: Float64, q_rad: Float64, anchor_rad: Float64) -> None:
        """Write the joints (..., H, 2, 6), relative to (..., 1, 2, 6), into ``slots`` (..., H, 2, 16)."""

    @abstractmethod
    def _joints(self, slots: Float64, anchor_rad: Float64, reference_rad: Float64) -> Float64:
        """The joints (H, 2, 6) that finite ``slots`` (H, 2, 16) mean; anchor and reference are (2, 6)."""


class JointSpace(ActionSpace):
    """Joints as offsets from those measured at the observation; beyond a limit they are clamped to it."""

    live = np.tile(np.arange(PER_ARM) >= JOINTS.start, 2)

    def _moved(self, q_rad: Float64) -> Float64:
        beside = q_rad[..., None, :] + _STEP_RAD * np.eye(6)
        by_joint = (forward_tcp(beside)[0] - forward_tcp(q_rad)[0][..., None, :]) / _STEP_RAD
        moved = np.zeros((*q_rad.shape[:-1], 3, PER_ARM))
        moved[..., JOINTS] = np.swapaxes(by_joint, -1, -2)
        return moved

    def _put(self, slots: Float64, q_rad: Float64, anchor_rad: Float64) -> None:
        slots[..., JOINTS] = q_rad - anchor_rad

    def _joints(self, slots: Float64, anchor_rad: Float64, reference_rad: Float64) -> Float64:
        return np.clip(anchor_rad + slots[..., JOINTS], self._lower_rad, self._upper_rad)


class EndEffectorSpace(ActionSpace):
    """Poses of the grasp point relative to the one at the observation, T0^-1 T.

    What cannot be reached becomes what can, so that there is always an answer and it moves on with the chunk:

    1. A row whose six numbers span no rotation repeats the pose of the row before.
    2. A wrist centre too far from or too near to the shoulder is moved along the line to it, the hand's rotation kept.
    3. Joints beyond a limit are clamped to it.
    """

    live = np.tile((np.arange(PER_ARM) < JOINTS.start) | (np.arange(PER_ARM) == GRIPPER.start), 2)

    def __init__(self, spec: ActionSpec, limits: SafetyLimits) -> None:
        super().__init__(spec, limits)
        middle = (self._lower_rad + self._upper_rad) / 2.0
        lower, upper = middle - math.pi, middle + math.pi  # every solution is within
        lower[_ELBOW], upper[_ELBOW] = _STRAIGHT_RAD, _STRAIGHT_RAD + math.pi
        self._branches = JointLimits(tuple(lower), tuple(upper))

    def _moved(self, q_rad: Float64) -> Float64:
        """In the frame of the anchor's grasp point: only their lengths matter."""
        moved = np.zeros((*q_rad.shape[:-1], 3, PER_ARM))
        moved[..., POSITION] = np.eye(3)
        return moved

    def _put(self, slots: Float64, q_rad: Float64, anchor_rad: Float64) -> None:
        position, rotation = forward_tcp(q_rad)
        position0, rotation0 = forward_tcp(anchor_rad)
        back = np.swapaxes(rotation0, -1, -2)
        slots[..., POSITION] = (back @ (position - position0)[..., None])[..., 0]
        turn = back @ rotation
        slots[..., ROTATION] = np.concatenate((turn[..., 0], turn[..., 1]), axis=-1)

    def _joints(self, slots: Float64, anchor_rad: Float64, reference_rad: Float64) -> Float64:
        position0, rotation0 = forward_tcp(anchor_rad)
        turn, spanned = _rotation(slots[..., ROTATION])
        position = (rotation0 @ slots[..., POSITION, None])[..., 0] + position0
        rotation = rotation0 @ turn
        if not spanned.all():
            position, rotation = _repeated(position, rotation, spanned, *forward_tcp(reference_rad))
        return self._followed(_within_reach(position, rotation), rotation, reference_rad)

    def _followed(self, position: Float64, rotation: Float64, reference_rad: Float64) -> Float64:
        """The joints (H, 2, 6) for poses of both arms: each row's are the solution nearest to the row before.

        Nearest *whatever the joint limits say*, and only then clamped. With the limits inside the search, a pose a
        little beyond one would be reached by another branch, far from the row before. Of the elbow's two solutions
        only the bent one counts: what its range has beyond straight is the last millimetre of reach, and an arm that
        came back from full stretch on that side would be stuck there.

        Each row needs the one before it, but only as a hint at the branch. So all rows are solved with the reference
        as the hint, and again with one another's solutions as hints. Up to the first row where the two differ they are
        the row by row solution; from there it goes on with that row as the reference. Two rounds are the rule, and both
        choose from the same solutions.
        """
        q = np.empty((len(position), 2, 6))
        start = 0
        while start < len(q):
            found = solutions_tcp(position[start:], rotation[start:], reference_rad, self._branches)
            q[start:] = self._clamped(found.nearest(reference_rad))
            after = start + 1
            if found.straight:  # what there is to choose from depends on the hint
                hints = q[start:-1]
                again = self._clamped(inverse_tcp(position[after:], rotation[after:], hints, self._branches))
            else:
                again = self._clamped(found.after(1).nearest(q[start:-1]))
            differs = (np.abs(again - q[after:]) > _SAME_RAD).any(axis=(1, 2))
            if not differs.any():
                break
            first = int(differs.argmax())
            start, reference_rad = after + first, again[first]
        return q

    def _clamped(self, nearest: tuple[Float64, Bool]) -> Float64:
        """The solution clamped to the limits; where there is none at all, it is the hint."""
        return np.clip(nearest[0], self._lower_rad, self._upper_rad)


def action_space(spec: ActionSpec, limits: SafetyLimits | None = None) -> ActionSpace:
    """The action space that ``spec`` names; its decoded rows keep to ``limits``, a rig's or the default ones."""
    spaces: dict[str, type[ActionSpace]] = {"joint": JointSpace, "end_effector": EndEffectorSpace}
    if spec.space not in spaces:
        raise ConfigError(f"action.space must be one of {', '.join(spaces)}, not {spec.space!r}")
    return spaces[spec.space](spec, limits or SafetyLimits())


def state_slots(proprioception: Float64) -> Float64:
    """What was measured (..., 14) in the slots (..., 32): all of them live, nothing relative.

    The grasp points' poses, each in its arm's base frame, follow from the joints; they are there so that the expert
    need not learn the arm's kinematics.
    """
    arms = _arms(proprioception)
    position, rotation = forward_tcp(arms[..., :6])
    columns = np.concatenate((rotation[..., 0], rotation[..., 1]), axis=-1)
    slots = np.concatenate((position, columns, arms), axis=-1)
    return slots.reshape(*slots.shape[:-2], SLOTS)


def fit_state(measured: Float64) -> tuple[Numbers, Numbers]:
    """Offset and scale (32,) that give :func:`state_slots` of ``measured`` (N, 14) deviation 1."""
    slots = state_slots(measured)
    return tuple(slots.mean(axis=0).tolist()), tuple(np.maximum(slots.std(axis=0), _LEAST).tolist())


def anchor_poses(proprioception: Float64) -> Float64:
    """The grasp points (2, 7) of both arms for what was measured (14,), each in its arm's base frame.

    Position [m] and quaternion (w, x, y, z) with w >= 0.
    """
    position, rotation = forward_tcp(_arms(proprioception)[:, :6])
    return np.concatenate((position, np.stack([_quaternion(r) for r in rotation])), axis=-1)


def _table(values: Float64) -> Table:
    """Rows of numbers with the digits that matter."""
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in values.tolist())


def _arms(rows: Float64) -> Float64:
    """(..., 14) to (..., 2, 7)."""
    rows = np.asarray(rows, np.float64)
    return rows.reshape(*rows.shape[:-1], 2, 7)


def _rotation(six: Float64) -> tuple[Float64, Bool]:
    """Rotations (..., 3, 3) from their first two columns (..., 6) by Gram-Schmidt, and whether those span one.

    Where they do not, the rotation is the identity.
    """
    first, second = six[..., :3], six[..., 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        length = np.linalg.norm(first, axis=-1, keepdims=True)
        x = first / length
        across = second - (x * second).sum(axis=-1, keepdims=True) * x
        width = np.linalg.norm(across, axis=-1, keepdims=True)
        y = across / width
        z = np.cross(x, y)
    spanned = ((length > _SHORTEST_COLUMN) & (width > _SHORTEST_COLUMN))[..., 0]
    return np.where(spanned[..., None, None], np.stack((x, y, z), axis=-1), np.eye(3)), spanned


def _repeated(
    position: Float64, rotation: Float64, spanned: Bool, position0: Float64, rotation0: Float64
) -> tuple[Float64, Float64]:
    """Poses (H, 2, ...) with those that are not ``spanned`` (H, 2) replaced by the last that was, or by pose 0."""
    row = np.arange(1, len(spanned) + 1)[:, None]
    last, arm = np.maximum.accumulate(np.where(spanned, row, 0), axis=0), np.arange(2)
    return (
        np.concatenate((position0[None], position))[last, arm],
        np.concatenate((rotation0[None], rotation))[last, arm],
    )


def _within_reach(position: Float64, rotation: Float64) -> Float64:
    """Grasp points (..., 3) moved so that the wrist centre is at a distance from the shoulder that the arm has."""
    hand = (FLANGE_M + TCP_OFFSET_M) * rotation[..., 2]
    wrist = position - hand - _SHOULDER_M
    distance = np.maximum(np.linalg.norm(wrist, axis=-1, keepdims=True), 1e-9)
    if ((distance > _NEAREST_M) & (distance < _FARTHEST_M)).all():
        return position
    moved: Float64 = _SHOULDER_M + wrist * (np.clip(distance, _NEAREST_M, _FARTHEST_M) / distance) + hand
    return moved


def _quaternion(rotation: Float64) -> Float64:
    """(w, x, y, z) of a rotation (3, 3), w >= 0 (Shepperd, Quaternion from Rotation Matrix, 1978)."""
    xx, yy, zz = np.diagonal(rotation).tolist()
    # Four times the squares of w, x, y, z. Divide by the largest.
    squares = np.maximum((1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz), 0.0)
    largest = int(squares.argmax())
    (_, xy, xz), (yx, _, yz), (zx, zy, _) = rotation.tolist()
    products = (
        (squares[0], zy - yz, xz - zx, yx - xy),
        (zy - yz, squares[1], xy + yx, xz + zx),
        (xz - zx, xy + yx, squares[2], yz + zy),
        (yx - xy, xz + zx, yz + zy, squares[3]),
    )[largest]
    quaternion = np.array(products) / (2.0 * math.sqrt(squares[largest]))
    return quaternion if quaternion[0] >= 0.0 else -quaternion
