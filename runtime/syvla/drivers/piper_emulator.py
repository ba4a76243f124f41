"""A Piper arm on a simulated CAN bus: answers the vendor's SDK frame by frame, above a simulated plant.

It is called by the twin's process and has no thread: ``receive`` before the physics advances, ``send`` after.
What it does follows the vendor's protocol description; :class:`EmulatorFaults` makes it misbehave.
"""

import math
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from syvla.clock import NS_PER_S
from syvla.control.kinematics import forward
from syvla.drivers import piper_protocol as can_id
from syvla.drivers.piper_protocol import (
    DRIVER_COLLISION,
    DRIVER_ENABLED,
    GRIPPER_ENABLED,
    GRIPPER_HOMED,
    GRIPPER_MAX,
    JOINT_MAX,
    JOINT_MIN,
    M_PER_UNIT,
    NM_PER_AMPERE,
    RAD_PER_UNIT,
)
from syvla.drivers.simcan import FRAME, SimCanDevice
from syvla.messages import ArmName
from syvla.protocols import ArmPlant

PERIOD_NS = 5_000_000  # of the feedback; a motor's slow feedback is sent in every fifth of them
SLOW_EVERY = 5
DESCENT_RAD_S = 0.3  # EmergencyStop(1): every joint sinks towards zero, where the arm rests on itself
REST = (0, 0, 0, 0, 0, 0)
FIRMWARE_VERSION = b"S-V1.8-2"
MAX_SPEED = 3000  # 0.001 rad/s
MAX_ACCELERATION = 500  # 0.01 rad/s^2
SUPPLY_VOLTAGE = 240  # 0.1 V
TEMPERATURE = 30  # deg C

STATUS_NORMAL, STATUS_EMERGENCY_STOP, STATUS_TARGET_EXCEEDS_LIMIT, STATUS_COLLISION = 0x00, 0x01, 0x04, 0x07
_ALL_ENABLED = 0x3F
_REACHED = 100  # 0.001 deg

_HEAD = "IB3x"
_PERIODIC = struct.Struct(
    "!"
    + (_HEAD + "BBBBBBH")  # status
    + (_HEAD + "ii") * 6  # end pose, joints
    + (_HEAD + "ihBx")  # gripper
    + (_HEAD + "hhi") * 6  # motors, fast
)
_SLOW = struct.Struct("!" + _HEAD + "HhbBH")
_PAIR = struct.Struct("!ii")
_GRIPPER = struct.Struct("!iHBB")
_LIMITS = struct.Struct("!BhhHx")
_ACCELERATION = struct.Struct("!BHxxxxx")


@dataclass
class EmulatorFaults:
    """What is wrong with the arm; change it at any time. Joints are numbered 1 to 6."""

    silent: bool = False  # sends nothing; with ``deaf`` it is a pulled cable
    deaf: bool = False  # takes in nothing
    enable_requests: int = 1  # how many enable frames it takes, twice as many and at least two after a stop
    enable_delay_s: float = 0.0  # from the first of them
    arm_status: int | None = None  # overrides the status code
    limit_joints: tuple[int, ...] = ()  # report their angle limit as exceeded
    collision_joints: tuple[int, ...] = ()  # report a collision
    disabled_joints: tuple[int, ...] = ()  # report their driver as disabled
    stuck_joints: tuple[int, ...] = ()  # stay where they are, whatever the set-point
    raw_joints: tuple[int, ...] | None = None  # (6,) 0.001 deg, sent instead of what was measured
    frame_loss: float = 0.0  # probability that a frame is lost, either way
    loss_seed: int = 0


class PiperEmulator:
    """One emulated arm with its gripper; an :class:`~syvla.protocols.EmulatedDevice`.

    Args:
        arm: left or right, for messages only: the channel is what tells the arms apart.
        plant: the joints underneath.
        channel: of the simulated bus, NAME@PORT.
        faults: what is wrong with the arm from the start.
    """

    def __init__(self, arm: ArmName, plant: ArmPlant, channel: str, faults: EmulatorFaults | None = None) -> None:
        self.arm = arm
        self.faults = faults if faults is not None else EmulatorFaults()
        self.ignored = 0  # well-formed frames that the arm has no use for
        self._plant = plant
        self._bus = SimCanDevice(channel)
        self._loss = random.Random(self.faults.loss_seed)
        self._replies = bytearray()
        self._due_ns: int | None = None
        self._cycle = 0
        self._enabled = 0  # bit i: motor i + 1 has torque
        self._requested = 0
        self._requests = 0
        self._first_request_ns = 0
        self._was_stopped = False
        self._descending = False
        self._descended_ns = 0
        self._control_mode = 0
        self._move_mode = 0
        self._gripper_enabled = False
        self._target_exceeded = 0  # bit i: the last set-point of joint i + 1 was beyond its limit
        self._target, self._gripper_target = self._measured_units()
        self._moved = False
        self._handlers: dict[int, Callable[[bytes, int], None]] = {
            can_id.EMERGENCY_STOP: self._on_emergency_stop,
            can_id.MODE: self._on_mode,
            can_id.JOINTS_12: lambda data, _: self._on_joints(0, data),
            can_id.JOINTS_34: lambda data, _: self._on_joints(2, data),
            can_id.JOINTS_56: lambda data, _: self._on_joints(4, data),
            can_id.GRIPPER: self._on_gripper,
            can_id.MOTOR_ENABLE: self._on_motor_enable,
            can_id.LIMIT_QUERY: self._on_limit_query,
            can_id.JOINT_CONFIG: self._on_joint_config,
            can_id.PARAMETER_QUERY: self._on_parameter_query,
            can_id.FIRMWARE: self._on_firmware_query,
        }

    @property
    def enabled(self) -> bool:
        """Whether all six joints have torque."""
        return self._enabled == _ALL_ENABLED

    @property
    def refused(self) -> int:
        """Datagrams that were not the SDK's, or not CAN frames."""
        return self._bus.refused

    # ------------------------------------------------------------ the device

    def receive(self, now_ns: int) -> None:
        """Take in what the SDK sent and act on it."""
        frames = self._bus.receive()
        loss = self.faults.frame_loss
        if not self.faults.deaf:
            for identifier, data in frames:
                if loss and self._loss.random() < loss:
                    continue
                handler = self._handlers.get(identifier)
                if handler is None or len(data) != 8:
                    self.ignored += 1
                else:
                    handler(data, now_ns)
        self._grant_torque(now_ns)
        if self._descending:
            self._sink(now_ns)
        if self._moved:
            self._moved = False
            self._drive()

    def send(self, now_ns: int) -> None:
        """Send the answers, and the periodic feedback if it is due; late feedback is not made up for."""
        due_ns = self._due_ns if self._due_ns is not None else now_ns
        if now_ns >= due_ns - PERIOD_NS // 2:  # a caller's period jitters around the arm's
            self._due_ns = due_ns + PERIOD_NS if now_ns - due_ns < PERIOD_NS else now_ns + PERIOD_NS
            burst = self._feedback() + bytes(self._replies)
        else:
            burst = bytes(self._replies)
        self._replies.clear()
        if self.faults.silent:
            return
        if self.faults.frame_loss:
            cuts = range(0, len(burst), FRAME.size)
            kept = (c for c in cuts if self._loss.random() >= self.faults.frame_loss)
            burst = b"".join(burst[c : c + FRAME.size] for c in kept)
        if burst:
            self._bus.send(burst)

    def close(self) -> None:
        """Leave the bus."""
        self._bus.close()

    # ------------------------------------------------------------ feedback

    def _feedback(self) -> bytes:
        position_rad, velocity, effort, width_m = self._plant.measured()
        position = self.faults.raw_joints
        if position is None:
            position = tuple(round(q / RAD_PER_UNIT) for q in position_rad.tolist())
        speed = [_int16(v * 1000) for v in velocity.tolist()]
        current = [_int16(e * 1000 / k) for e, k in zip(effort.tolist(), NM_PER_AMPERE, strict=True)]
        x, y, z, rx, ry, rz = _end_pose(position)
        j1, j2, j3, j4, j5, j6 = position
        moving = any(abs(target - q) > _REACHED for target, q in zip(self._target, position, strict=True))
        limit_bits = _bits(self.faults.limit_joints) | self._target_exceeded
        pose, joint, fast = can_id.POSE_FEEDBACK, can_id.JOINT_FEEDBACK, can_id.MOTOR_FAST_FEEDBACK
        burst = _PERIODIC.pack(
            *(can_id.STATUS_FEEDBACK, 8, self._control_mode, self._arm_status(), self._move_mode, 0, moving, 0),
            limit_bits << 8,
            *(pose[0], 8, x, y, pose[1], 8, z, rx, pose[2], 8, ry, rz),
            *(joint[0], 8, j1, j2, joint[1], 8, j3, j4, joint[2], 8, j5, j6),
            *(can_id.GRIPPER_FEEDBACK, 8, round(width_m / M_PER_UNIT), 0),
            GRIPPER_HOMED | (GRIPPER_ENABLED if self._gripper_enabled else 0),
            *(
                field
                for i in range(6)
                for field in (fast[i], 8, speed[i], current[i], round(position[i] * RAD_PER_UNIT * 1000))
            ),
        )
        slow = b"".join(self._slow_feedback(i) for i in range(6) if (self._cycle + i) % SLOW_EVERY == 0)
        self._cycle += 1
        return burst + slow

    def _slow_feedback(self, motor: int) -> bytes:
        status = DRIVER_ENABLED if self._enabled >> motor & 1 and motor + 1 not in self.faults.disabled_joints else 0
        if motor + 1 in self.faults.collision_joints:
            status |= DRIVER_COLLISION
        identifier = can_id.MOTOR_SLOW_FEEDBACK[motor]
        return _SLOW.pack(identifier, 8, SUPPLY_VOLTAGE, TEMPERATURE, TEMPERATURE, status, 0)

    def _arm_status(self) -> int:
        if self.faults.arm_status is not None:
            return self.faults.arm_status
        if self._descending:
            return STATUS_EMERGENCY_STOP
        if self.faults.collision_joints:
            return STATUS_COLLISION
        return STATUS_TARGET_EXCEEDS_LIMIT if self._target_exceeded or self.faults.limit_joints else STATUS_NORMAL

    def _measured_units(self) -> tuple[list[int], int]:
        """Joints in 0.001 deg and the gripper in 0.001 mm."""
        position_rad, _, _, width_m = self._plant.measured()
        return [round(q / RAD_PER_UNIT) for q in position_rad.tolist()], round(width_m / M_PER_UNIT)

    # ------------------------------------------------------------ torque and motion

    def _grant_torque(self, now_ns: int) -> None:
        if not self._requested or self._descending:
            return
        needed = max(2, 2 * self.faults.enable_requests) if self._was_stopped else self.faults.enable_requests
        waited_s = (now_ns - self._first_request_ns) / NS_PER_S
        if self._requests < needed or waited_s < self.faults.enable_delay_s:
            return
        was_enabled = self.enabled
        self._enabled |= self._requested
        self._requested = self._requests = 0
        self._was_stopped = False
        if self.enabled and not was_enabled:  # hold the pose it has
            self._target, gripper = self._measured_units()
            if not self._gripper_enabled:
                self._gripper_target = gripper
            self._plant.torque(True)
            self._moved = True

    def _cut_torque(self) -> None:
        self._enabled = self._requested = self._requests = 0
        self._plant.torque(False)

    def _sink(self, now_ns: int) -> None:
        step = round(DESCENT_RAD_S / RAD_PER_UNIT * (now_ns - self._descended_ns) / NS_PER_S)
        self._descended_ns = now_ns
        pairs = zip(self._target, REST, strict=True)
        self._target = [q + max(-step, min(step, rest - q)) for q, rest in pairs]
        self._moved = True

    def _drive(self) -> None:
        target = list(self._target)
        if self.faults.stuck_joints:
            measured, _ = self._measured_units()
            for joint in self.faults.stuck_joints:
                target[joint - 1] = measured[joint - 1]
        self._plant.target(np.array(target) * RAD_PER_UNIT, self._gripper_target * M_PER_UNIT)

    # ------------------------------------------------------------ what the SDK sends

    def _on_emergency_stop(self, data: bytes, now_ns: int) -> None:
        if data[0] == 0x01 and self._enabled and not self._descending:
            self._descending = True
            self._descended_ns = now_ns
            self._target, _ = self._measured_units()
        elif data[0] == 0x02:  # "resume", "reset": power is cut at once and the arm falls
            self._descending = False
            self._was_stopped = True
            self._control_mode = self._move_mode = 0
            self._cut_torque()

    def _on_mode(self, data: bytes, _: int) -> None:
        if data[0] in (0x00, 0x01, 0x03, 0x04, 0x07) and data[1] <= 0x05 and not self._descending:
            self._control_mode, self._move_mode = data[0], data[1]
        else:
            self.ignored += 1

    def _on_joints(self, first: int, data: bytes) -> None:
        moves = self.enabled and self._control_mode == can_id.CONTROL_CAN and self._move_mode == can_id.MOVE_J
        if not moves or self._descending:
            self.ignored += 1
            return
        for joint, asked in enumerate(_PAIR.unpack(data), start=first):
            target = max(JOINT_MIN[joint], min(JOINT_MAX[joint], asked))
            self._target[joint] = target
            self._target_exceeded &= ~(1 << joint)
            self._target_exceeded |= (target != asked) << joint
        self._moved = True

    def _on_gripper(self, data: bytes, _: int) -> None:
        width, _effort, code, set_zero = _GRIPPER.unpack(data)
        if code > 0x03 or set_zero:  # the zero of a simulated gripper is where it is
            self.ignored += 1
            return
        self._gripper_enabled = bool(code & 0x01)
        if self._gripper_enabled:
            self._gripper_target = max(0, min(GRIPPER_MAX, width))
            self._moved = True

    def _on_motor_enable(self, data: bytes, now_ns: int) -> None:
        motor, flag = data[0], data[1]
        bits = _ALL_ENABLED if motor in (can_id.ALL_MOTORS, 0xFF) else 1 << (motor - 1) if 1 <= motor <= 6 else 0
        if flag == 0x01 and bits:  # one motor without torque: the plant has one switch
            self._enabled &= ~bits
            self._requested = self._requests = 0
            self._plant.torque(False)
        elif flag == 0x02 and bits and (self._enabled & bits) != bits:
            if not self._requests:
                self._first_request_ns = now_ns
            self._requested |= bits
            self._requests += 1

    def _on_limit_query(self, data: bytes, _: int) -> None:
        motor, content = data[0], data[1]
        if not 1 <= motor <= 6:
            self.ignored += 1
        elif content == 0x01:  # in 0.1 deg
            highest, lowest = JOINT_MAX[motor - 1] // 100, JOINT_MIN[motor - 1] // 100
            self._reply(can_id.LIMIT_REPLY, _LIMITS.pack(motor, highest, lowest, MAX_SPEED))
        elif content == 0x02:
            self._reply(can_id.ACCELERATION_REPLY, _ACCELERATION.pack(motor, MAX_ACCELERATION))

    def _on_joint_config(self, data: bytes, _: int) -> None:
        if data[5] == 0xAE:  # clear the joints' errors
            self._target_exceeded = 0
        self._reply(can_id.CONFIG_REPLY, bytes((can_id.JOINT_CONFIG & 0xFF, data[1] == 0xAE, 0, 0, 0, 0, 0, 0)))

    def _on_parameter_query(self, data: bytes, _: int) -> None:
        if data[0] == 0x01:  # end effector: 0.001 m/s, 0.001 rad/s, 0.001 m/s^2, 0.001 rad/s^2
            self._reply(can_id.END_SPEED_REPLY, struct.pack("!HHHH", 500, 1500, 1000, 3000))
        elif data[0] == 0x02:  # a crash protection level for each joint, 0 to 8
            self._reply(can_id.CRASH_LEVEL_REPLY, bytes((1, 1, 1, 1, 1, 1, 0, 0)))
        elif data[0] == 0x04:  # teaching range [%], gripper range [mm], teaching friction
            self._reply(can_id.GRIPPER_RANGE_REPLY, bytes((100, 70, 1, 0, 0, 0, 0, 0)))
        else:
            self.ignored += 1

    def _on_firmware_query(self, _data: bytes, _: int) -> None:
        self._reply(can_id.FIRMWARE, FIRMWARE_VERSION)

    def _reply(self, identifier: int, data: bytes) -> None:
        if len(self._replies) < 32 * FRAME.size:  # a burst has room for 64 frames
            self._replies += FRAME.pack(identifier, 8, data)


def _int16(value: float) -> int:
    return max(-32_768, min(32_767, round(value)))


def _bits(joints: Sequence[int]) -> int:
    bits = 0
    for joint in joints:
        bits |= 1 << (joint - 1)
    return bits


def _end_pose(position: Sequence[int]) -> tuple[int, ...]:
    """x, y, z in 0.001 mm and fixed-axis roll, pitch, yaw in 0.001 deg, as the vendor's ``__MatrixToeula``."""
    flange_m, rotation = forward([q * RAD_PER_UNIT for q in position])
    (xx, xy, _), (yx, yy, _), (zx, zy, zz) = rotation.tolist()
    if abs(zx) > 1 - 1e-4:  # roll and yaw turn about one axis
        roll, pitch, yaw = math.atan2(xy, yy), math.pi / 2, 0.0
        if zx > 0:
            roll, pitch = -roll, -pitch
    else:
        roll, pitch, yaw = math.atan2(zy, zz), math.atan2(-zx, math.hypot(xx, yx)), math.atan2(yx, xx)
    angles = (round(angle / RAD_PER_UNIT) for angle in (roll, pitch, yaw))
    return (*(round(p / M_PER_UNIT) for p in flange_m.tolist()), *angles)
