"""One Piper arm through the vendor's SDK: units, stamps, faults and the SDK's traps end here.

The SDK's own reader thread is not started: the owner drains the bus inside ``read``, so that no thread competes
for the interpreter with the 200 Hz loop and no value can change while it is read.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import can
import numpy as np
from piper_sdk import C_PiperInterface_V2, LogLevel

from syvla.config import ArmConfig
from syvla.drivers import piper_protocol as can_id
from syvla.drivers.piper_protocol import (
    BITRATE,
    DRIVER_ENABLED,
    DRIVER_FAULTS,
    GRIPPER_FAULTS,
    GRIPPER_MAX,
    JOINT_FEEDBACK,
    JOINT_MAX,
    JOINT_MIN,
    M_PER_UNIT,
    MOTOR_FAST_FEEDBACK,
    MOTOR_SLOW_FEEDBACK,
    RAD_PER_UNIT,
)
from syvla.errors import ConfigError, DriverError
from syvla.message import Float64
from syvla.messages import ArmName, ArmState

SPEED_PERCENT = 100  # of the arm's own profile; the safety gate limits the speed
GRIPPER_EFFORT = 1000  # 0.001 Nm
GRIPPER_ENABLE = 0x01
ENABLES_AFTER_STOP = 2  # after a stop the arm takes the second request
IMPLAUSIBLE_JOINT = 360_000  # 0.001 deg: no joint turns once around
IMPLAUSIBLE_WIDTH = 150_000  # 0.001 mm
FOREIGN_COMMAND_NS = 500_000_000  # how long another sender's command is remembered
MAX_FRAMES_PER_DRAIN = 4096

# What the driver reads. The end pose is left out: the runtime has its own kinematics.
_COMMANDS = (can_id.MODE, can_id.JOINTS_12, can_id.JOINTS_34, can_id.JOINTS_56, can_id.GRIPPER)
_FILTERS = [
    {"can_id": identifier, "can_mask": 0x7FF, "extended": False}
    for identifier in (
        can_id.STATUS_FEEDBACK,
        *JOINT_FEEDBACK,
        can_id.GRIPPER_FEEDBACK,
        *MOTOR_FAST_FEEDBACK,
        *MOTOR_SLOW_FEEDBACK,
        can_id.LIMIT_REPLY,
        *_COMMANDS,  # only ever seen when somebody else commands the arm
    )
]
_MODES_OF_NO_FAULT = (0, can_id.CONTROL_CAN)  # standby and CAN


class PiperArm:
    """A Piper arm and its gripper; an :class:`~syvla.protocols.ArmDriver`.

    The thread that calls ``open`` owns the arm; every other one is refused. Nothing here disables, resets or
    stops the arm: all of these drop it.

    Args:
        arm: left or right.
        config: the bus; ``socketcan`` for a robot, ``simcan`` for the twin.
        wall_clock_s: the clock that stamps received frames (SocketCAN uses the kernel's wall clock). Only
            differences within one tick are taken from it.
    """

    def __init__(self, arm: ArmName, config: ArmConfig, wall_clock_s: Callable[[], float] = time.time) -> None:
        if not config.can_channel:
            raise ConfigError(f"{arm}.can_channel is empty; name the arm's bus, such as can_left")
        self.arm: ArmName = arm
        self.implausible = 0  # feedback frames whose values no arm can have
        self._config = config
        self._wall_clock_s = wall_clock_s
        self._owner: int | None = None
        self._sdk: Any = None
        self._port: Any = None
        self._vendor_send: Any = None
        self._lower = list(JOINT_MIN)
        self._upper = list(JOINT_MAX)
        self._limits_missing = set(range(1, 7))
        self._sent: dict[int, deque[bytes]] = {identifier: deque(maxlen=4) for identifier in _COMMANDS}
        self._forget_feedback()

    def _forget_feedback(self) -> None:
        self._joint = [0] * 6  # 0.001 deg
        self._width = 0  # 0.001 mm
        self._parsed: dict[int, bytearray] = {}  # what the SDK read last of each identifier
        self._arrived_s: dict[int, float] = {}  # joint frames since the last read, by the wall clock
        self._joint_ns: dict[int, int] = {}
        self._refused_joints: set[int] = set()
        self._unseen = {can_id.STATUS_FEEDBACK, *MOTOR_SLOW_FEEDBACK}  # what the arm has not said yet
        self._awaited: set[int] = set()  # what it has not said since it was first asked for torque
        self._enable_requests = 0
        self._was_enabled = False
        self._foreign = False
        self._foreign_ns: int | None = None
        self._receive_error = False
        self._is_drained = False
        self._drained_ns: int | None = None  # the last read that left nothing waiting
        self._changed = False
        self._state: ArmState | None = None
        self._fault_codes: tuple[Any, ...] = ()
        self._faults: tuple[str, ...] = ()

    # ------------------------------------------------------------ the driver's protocol

    def open(self) -> None:
        """Open the bus; sends nothing. DriverError names the bus and what to look at."""
        if self._sdk is not None:
            raise DriverError(f"{self._name()} is already open")
        channel = self._config.can_channel
        sdk = C_PiperInterface_V2(channel, judge_flag=False, can_auto_init=False, logger_level=LogLevel.SILENT)
        if sdk.get_connect_status():  # the SDK keeps one instance for each bus name
            raise DriverError(f"{self._name()}: another driver of this process has opened that bus")
        try:
            sdk.CreateCanBus(channel, self._config.can_interface, BITRATE, judge_flag=False)
        except ConnectionError as error:
            raise DriverError(f"{self._name()} cannot be opened: {error.__context__ or error}") from error
        port = sdk.GetCanBus()
        if port.recv_bus is None or port.send_bus is None:  # the SDK keeps quiet about it
            raise DriverError(f"{self._name()} cannot be opened: see that it exists, is up, and is nobody else's")
        sdk.DisableFilterAbnormalData()  # it drops bad values without a word; _take_joints counts them
        sdk.ConnectPort(piper_init=False, start_thread=False)
        port.recv_bus.set_filters(_FILTERS)
        self._vendor_send = port.SendCanMessage
        port.SendCanMessage = self._send  # the SDK only logs a failed send
        self._forget_feedback()
        self._sdk, self._port = sdk, port
        # The SDK's getters return live objects. With no second thread they change only in _drain.
        self._status = sdk.GetArmStatus().arm_status
        self._joints = sdk.GetArmJointMsgs().joint_state
        self._gripper = sdk.GetArmGripperMsgs().gripper_state
        self._limit = sdk.GetCurrentMotorAngleLimitMaxVel().current_motor_angle_limit_max_vel
        fast, slow = sdk.GetArmHighSpdInfoMsgs(), sdk.GetArmLowSpdInfoMsgs()
        self._fast = tuple(getattr(fast, f"motor_{i}") for i in range(1, 7))
        self._slow = tuple(getattr(slow, f"motor_{i}") for i in range(1, 7))
        self._owner = threading.get_ident()

    def enable(self) -> bool:
        """Ask for torque and CAN control; call every tick until True. An arm that has not spoken is not asked."""
        self._check_owner()
        self._drain()
        if self._unseen:
            return False
        is_asked = self._enable_requests >= ENABLES_AFTER_STOP and not self._awaited
        if is_asked and self._torque() and self._status.ctrl_mode == can_id.CONTROL_CAN:
            self._was_enabled = True
            self._enable_requests = 0  # the next call asks anew: what was true before a stop proves nothing
            return True
        if not self._enable_requests:
            self._awaited = {can_id.STATUS_FEEDBACK, *MOTOR_SLOW_FEEDBACK}
        self._enable_requests += 1
        for motor in sorted(self._limits_missing):  # the getter for all motors reports the sixth's for each
            self._sdk.SearchMotorMaxAngleSpdAccLimit(motor, 0x01)
        self._sdk.EnableArm(can_id.ALL_MOTORS)
        self._sdk.ModeCtrl(can_id.CONTROL_CAN, can_id.MOVE_J, SPEED_PERCENT, 0x00)
        return False

    def read(self, now_ns: int) -> ArmState | None:
        """The newest feedback; ``measured_ns`` is the arrival of the oldest of the three joint frames in it."""
        self._check_owner()
        self._drain()
        self._stamp(now_ns)
        faults = self._decode_faults(now_ns)
        if len(self._joint_ns) < len(JOINT_FEEDBACK):
            return None
        if self._state is None or self._changed or faults is not self._state.faults:
            self._changed = False
            self._state = ArmState(
                arm=self.arm,
                measured_ns=min(self._joint_ns.values()),
                position_rad=np.array(self._joint, np.float64) * RAD_PER_UNIT,
                velocity_rad_s=np.array([motor.motor_speed * 1e-3 for motor in self._fast]),
                effort_nm=np.array([motor.effort * 1e-3 for motor in self._fast]),
                gripper_width_m=self._width * M_PER_UNIT,
                enabled=self._torque(),
                faults=faults,
            )
        return self._state

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Send mode, joints (6,) [rad] and gripper [m]; what is not finite or beyond a limit is refused."""
        self._check_owner()
        if not self._was_enabled:
            raise DriverError(f"{self._name()}: command() before enable() answered True")
        values = position_rad.tolist()
        if len(values) != 6 or not all(map(math.isfinite, values)) or not math.isfinite(gripper_width_m):
            raise DriverError(f"{self._name()}: a set-point is six finite joints and a finite width, not {values}")
        joints = [round(q / RAD_PER_UNIT) for q in values]
        width = round(gripper_width_m / M_PER_UNIT)
        for i, joint in enumerate(joints):
            if not self._lower[i] <= joint <= self._upper[i]:
                raise DriverError(
                    f"{self._name()}: joint {i + 1} set to {joint / 1000} deg, "
                    f"which is not within {self._lower[i] / 1000}..{self._upper[i] / 1000}"
                )
        if not 0 <= width <= GRIPPER_MAX:
            raise DriverError(f"{self._name()}: gripper set to {gripper_width_m} m, which is not within 0..0.07")
        self._sdk.ModeCtrl(can_id.CONTROL_CAN, can_id.MOVE_J, SPEED_PERCENT, 0x00)
        self._sdk.JointCtrl(*joints)
        self._sdk.GripperCtrl(width, GRIPPER_EFFORT, GRIPPER_ENABLE, 0)

    def close(self) -> None:
        """Disconnect; the arm keeps holding its last set-point with torque on."""
        if self._sdk is None:
            return
        self._check_owner()
        del self._port.SendCanMessage
        self._sdk.DisconnectPort()
        self._sdk = self._port = self._vendor_send = self._owner = None

    # ------------------------------------------------------------ beyond the protocol

    @property
    def position_limits_rad(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lowest and highest set-points (6,) that ``command`` takes; the motors' own once they have answered."""
        return tuple(q * RAD_PER_UNIT for q in self._lower), tuple(q * RAD_PER_UNIT for q in self._upper)

    @property
    def limits_known(self) -> bool:
        """Whether all six motors have answered; they are asked while the arm is being enabled."""
        return not self._limits_missing

    # ------------------------------------------------------------ sending

    def _name(self) -> str:
        return f"{self.arm} arm on {self._config.can_interface} {self._config.can_channel!r}"

    def _check_owner(self) -> None:
        if threading.get_ident() != self._owner:
            if self._owner is None:
                raise DriverError(f"{self._name()} is not open")
            raise DriverError(f"{self._name()} belongs to the thread that opened it")

    def _send(self, arbitration_id: int, data: Sequence[int], dlc: int = 8, is_extended_id: bool = False) -> Any:
        """Stand in front of the SDK's port: note what was sent, and do not let a failure pass."""
        status = self._vendor_send(arbitration_id, data, dlc, is_extended_id)
        if status != self._port.CAN_STATUS.SEND_MESSAGE_SUCCESS:
            raise DriverError(f"{self._name()}: frame {arbitration_id:#x} was not sent ({status.name.lower()})")
        sent = self._sent.get(arbitration_id)
        if sent is not None:
            sent.append(bytes(data))
        return status

    # ------------------------------------------------------------ receiving

    def _drain(self) -> None:
        """Give the SDK every frame that waits; of each identifier only the newest, so a backlog costs little."""
        receive = self._port.recv_bus.recv
        newest: dict[int, can.Message] = {}
        self._receive_error = self._is_drained = False
        try:
            for _ in range(MAX_FRAMES_PER_DRAIN):
                frame = receive(0)
                if frame is None:
                    self._is_drained = True
                    break
                if frame.is_error_frame or frame.is_remote_frame or frame.is_extended_id or frame.dlc != 8:
                    continue
                identifier = frame.arbitration_id
                sent = self._sent.get(identifier)
                if sent is not None:  # an echo is our own frame, anything else another sender's
                    self._foreign = self._foreign or bytes(frame.data) not in sent
                elif identifier == can_id.LIMIT_REPLY:
                    self._sdk.ParseCANFrame(frame)
                    self._take_limit()
                else:
                    newest[identifier] = frame
        except (can.CanError, OSError):
            self._receive_error = True
        for identifier, frame in newest.items():
            if frame.data != self._parsed.get(identifier):  # the SDK tries it as every kind of frame
                self._sdk.ParseCANFrame(frame)
                self._parsed[identifier] = frame.data
            if identifier in JOINT_FEEDBACK:
                self._take_joints(identifier, frame.timestamp)
            elif identifier == can_id.GRIPPER_FEEDBACK:
                self._take_width()
            else:
                self._unseen.discard(identifier)
                self._awaited.discard(identifier)
            self._changed = True

    def _take_joints(self, identifier: int, stamp_s: float) -> None:
        joints = self._joints
        if identifier == JOINT_FEEDBACK[0]:
            first, pair = 0, (joints.joint_1, joints.joint_2)
        elif identifier == JOINT_FEEDBACK[1]:
            first, pair = 2, (joints.joint_3, joints.joint_4)
        else:
            first, pair = 4, (joints.joint_5, joints.joint_6)
        if max(map(abs, pair)) > IMPLAUSIBLE_JOINT:
            self.implausible += 1
            self._refused_joints.add(identifier)
            return
        self._refused_joints.discard(identifier)
        self._joint[first : first + 2] = pair
        self._arrived_s[identifier] = stamp_s

    def _take_width(self) -> None:
        if abs(self._gripper.grippers_angle) > IMPLAUSIBLE_WIDTH:
            self.implausible += 1
        else:
            self._width = self._gripper.grippers_angle

    def _take_limit(self) -> None:
        motor, lowest, highest = self._limit.motor_num, self._limit.min_angle_limit, self._limit.max_angle_limit
        if 1 <= motor <= 6 and lowest < highest:  # in 0.1 deg; a motor without limits answers zeros
            self._limits_missing.discard(motor)
            self._lower[motor - 1] = max(JOINT_MIN[motor - 1], lowest * 100)
            self._upper[motor - 1] = min(JOINT_MAX[motor - 1], highest * 100)

    def _stamp(self, now_ns: int) -> None:
        """Turn arrivals into monotonic instants: not later than now, not before the last read that left nothing."""
        if self._arrived_s:
            wall_s = self._wall_clock_s()
            earliest_ns = now_ns if self._drained_ns is None else min(self._drained_ns, now_ns)
            for identifier, arrived_s in self._arrived_s.items():
                stamp_ns = now_ns - round((wall_s - arrived_s) * 1e9)
                self._joint_ns[identifier] = max(earliest_ns, min(stamp_ns, now_ns))
            self._arrived_s.clear()
        if self._foreign:
            self._foreign = False
            self._foreign_ns = now_ns
        if self._is_drained:
            self._drained_ns = now_ns

    # ------------------------------------------------------------ what the arm says about itself

    def _torque(self) -> bool:
        return not self._unseen and all(motor.foc_status_code & DRIVER_ENABLED for motor in self._slow)

    def _decode_faults(self, now_ns: int) -> tuple[str, ...]:
        """The fault words; the same tuple until something changes."""
        status = self._status
        is_commanded_elsewhere = self._foreign_ns is not None and now_ns - self._foreign_ns < FOREIGN_COMMAND_NS
        codes = (
            status.arm_status,
            status.err_code,
            status.ctrl_mode,
            self._was_enabled,
            self._gripper.status_code,
            is_commanded_elsewhere,
            self._receive_error,
            bool(self._refused_joints),
            *(motor.foc_status_code for motor in self._slow),
        )
        if codes != self._fault_codes:
            self._fault_codes = codes
            self._faults = tuple(self._fault_words(is_commanded_elsewhere))
        return self._faults

    def _fault_words(self, is_commanded_elsewhere: bool) -> list[str]:
        status = self._status
        words = []
        if status.arm_status != 0x00:
            words.append(f"arm_{status.arm_status.name.lower()}")
        for joint in range(1, 7):
            if status.err_code >> (7 + joint) & 1:
                words.append(f"joint_{joint}_angle_limit")
            if status.err_code >> (joint - 1) & 1:
                words.append(f"joint_{joint}_communication")
            code = self._slow[joint - 1].foc_status_code
            words += [f"joint_{joint}_{word}" for bit, word in DRIVER_FAULTS if code & bit]
        words += [f"gripper_{word}" for bit, word in GRIPPER_FAULTS if self._gripper.status_code & bit]
        if status.ctrl_mode not in _MODES_OF_NO_FAULT or (self._was_enabled and status.ctrl_mode != can_id.CONTROL_CAN):
            words.append(f"control_mode_{status.ctrl_mode.name.lower()}")
        if is_commanded_elsewhere:
            words.append("commanded_by_another_sender")
        if self._receive_error:
            words.append("can_receive_failed")
        if self._refused_joints:
            words.append("joint_feedback_implausible")
        return words
