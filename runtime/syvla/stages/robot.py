"""The robot stage: owns the arms and is the only one that commands them, 200 times a second."""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.config import RigConfig
from syvla.control.arbiter import Arbiter
from syvla.control.gate import EVENT_S, ArmDistance, Gate
from syvla.control.timeline import Timeline
from syvla.errors import ConfigError, SyvlaError
from syvla.messages import (
    ARMS,
    BOTH_ARMS_JOINTS,
    ActionChunk,
    ArmName,
    ArmState,
    CamerasState,
    JointCommand,
    Mode,
    OperatorCommand,
    Provenance,
    SafetyState,
    Source,
    Task,
    TeleopCommand,
)
from syvla.protocols import ArmDriver, Emit, Header, Inbox, Periodic

SAFETY_PERIOD_NS = NS_PER_S // 20
_NOBODY = Provenance(source=Source.HOLD)


class RobotStage:
    """Reads both arms, takes in what came, chooses, passes the gate, commands, and says what it did.

    Args:
        arms: the opened drivers of both arms; the stage owns them from now on.
        config: the rig; its sections ``control``, ``safety``, ``intent`` and ``cameras`` are used.
        distance: metres between the arms at joint positions left (6,), right (6,) rad.
    """

    name = "robot"
    remembered = (
        "gate",
        "_timeline",
        "_arbiter",
        "_measured_ns",
        "_states",
        "_cameras",
        "_cameras_ns",
        "_enable_until_ns",
        "_operator_keys",
        "_commands",
        "_safety_key",
        "_safety_ns",
        "_stopping",
    )
    reads: tuple[str, ...] = ("cameras", "task", "chunk", "teleop", "teleop/operator", "robot/operator", "operator")
    writes: tuple[str, ...] = ("arm/left", "arm/right", "command", "splice", "safety")
    lossless = False

    def __init__(self, arms: Mapping[ArmName, ArmDriver], config: RigConfig, distance: ArmDistance) -> None:
        if set(arms) != set(ARMS):
            raise ConfigError(f"arms must be {' and '.join(ARMS)}, not {', '.join(sorted(arms)) or 'none'}")
        if not 20.0 <= config.control.rate_hz <= 1000.0:
            raise ConfigError(f"control.rate_hz must be 20..1000, not {config.control.rate_hz}")
        period_ns = round(NS_PER_S / config.control.rate_hz)
        self.trigger = Periodic(period_ns)
        self.gate = Gate(config.safety, config.intent, period_ns, distance)
        self._timeline = Timeline(config.control, (config.left, config.right))
        self._arbiter = Arbiter(self.gate, self._timeline)
        self._drivers: tuple[ArmDriver, ArmDriver] = (arms["left"], arms["right"])
        self._feedback_delays_ns = [to_ns(arm.feedback_delay_s) for arm in (config.left, config.right)]
        self._measured_ns: list[int | None] = [None, None]  # by the arms' own stamps
        self._states: list[ArmState | None] = [None, None]
        self._cameras: CamerasState | None = None
        self._cameras_ns = 0  # when it was heard: the sender's stamp could lie ahead
        self._silent_ns = to_ns(config.cameras.silent_s)
        self._enable_timeout_ns = to_ns(config.control.enable_timeout_s)
        self._enable_until_ns: int | None = None
        self._operator_keys: dict[str, tuple[int, int]] = {}
        self._commands = 0
        self._safety_key: tuple[object, ...] = ()
        self._safety_ns = 0
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """One tick."""
        emits: list[Emit] = []
        gate = self.gate
        gate.begin(now_ns)
        if self._stopping:
            gate.trip("stopping", "the runtime was asked to stop")
        self._read(now_ns, emits)
        self._judge_cameras(now_ns, inbox)
        self._take_in(now_ns, inbox, emits)
        if self._enable_until_ns is not None:
            self._enable(now_ns)
        request, provenance = self._arbiter.choose(now_ns)
        source = gate.command(request)
        if gate.mode is not Mode.DISABLED:
            if source is not provenance.source:
                provenance = _NOBODY
            emits.append(self._command(now_ns, provenance))
        self._report(now_ns, source, emits)
        return emits

    def _read(self, now_ns: int, emits: list[Emit]) -> None:
        states = self._states
        for arm, driver in enumerate(self._drivers):
            try:
                state = driver.read(now_ns)
            except SyvlaError as error:
                self.gate.driver_error(arm, str(error))
                continue
            if state is None:
                continue
            is_new = state.measured_ns != self._measured_ns[arm]
            self._measured_ns[arm] = state.measured_ns
            if self._feedback_delays_ns[arm]:
                measured_ns = state.measured_ns - self._feedback_delays_ns[arm]
                state = msgspec.structs.replace(state, measured_ns=measured_ns)
            if is_new:
                emits.append(Emit(self.writes[arm], state))
            states[arm] = state
        self.gate.feedback(states)

    def _judge_cameras(self, now_ns: int, inbox: Inbox) -> None:
        """Before the messages: a resume is judged by what the cameras are now. Once heard of, they must go on."""
        for message in inbox.new("cameras"):
            self._cameras, self._cameras_ns = cast(CamerasState, message), now_ns
        if self._cameras is not None:
            silent_ns = now_ns - self._cameras_ns
            self.gate.cameras(self._cameras.faults, silent_ns if silent_ns > self._silent_ns else 0)

    def _take_in(self, now_ns: int, inbox: Inbox, emits: list[Emit]) -> None:
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, OperatorCommand):
                self._operate(now_ns, received.header, message)
            elif isinstance(message, Task):
                self._arbiter.take_task(message)
            elif isinstance(message, TeleopCommand):
                self._arbiter.take_teleop(message)
            elif isinstance(message, ActionChunk):
                splice = self._arbiter.take_chunk(now_ns, message)
                if splice is not None:
                    emits.append(Emit("splice", splice))

    def _operate(self, now_ns: int, header: Header, command: OperatorCommand) -> None:
        key = (header.epoch, command.command_id)  # of one sender: console and joystick each count for themselves
        if key == self._operator_keys.get(header.topic):
            return
        self._operator_keys[header.topic] = key
        if command.action != "enable":
            if command.action in ("hold", "soft_stop"):
                self._enable_until_ns = None
            self.gate.operate(command)
        elif self.gate.fresh(command) and not self._stopping:
            self._enable_until_ns = now_ns + self._enable_timeout_ns

    def _enable(self, now_ns: int) -> None:
        """Ask both arms for torque until both answer; in a fault this lets an arm carry itself again."""
        gate = self.gate
        if gate.mode not in (Mode.DISABLED, Mode.FAULT):
            self._enable_until_ns = None
            return
        if self._enable_until_ns is not None and now_ns > self._enable_until_ns:
            self._enable_until_ns = None
            gate.warn("enable_timeout", "the arms did not answer in time, or something speaks against it", EVENT_S)
            return
        gate.warn("enabling", "asking both arms for torque")
        answers = [self._torque(arm) for arm in range(2)]
        if all(answers):
            gate.enable()
            if gate.mode is not Mode.DISABLED:
                self._enable_until_ns = None

    def _torque(self, arm: int) -> bool:
        """Ask one arm for torque, and once it has it for its limits; whether it has both."""
        driver = self._drivers[arm]
        try:
            if not driver.enable():
                return False
            self.gate.limiter.narrow(arm, *driver.position_limits_rad)
            return True
        except SyvlaError as error:
            self.gate.driver_error(arm, str(error))
            return False

    def _command(self, now_ns: int, provenance: Provenance) -> Emit:
        """Send the gate's set-points to both arms."""
        gate = self.gate
        set_points = np.array(gate.limiter.position)
        standing = gate.mode is Mode.FAULT and gate.limiter.standing
        for arm, driver in enumerate(self._drivers):
            # A faulted arm may have sunk: once standing it is left to hold by itself until the fault is cleared.
            if standing and arm in gate.faulted:
                continue
            try:
                driver.command(set_points[6 * arm : 6 * arm + 6], gate.limiter.position[BOTH_ARMS_JOINTS + arm])
            except SyvlaError as error:
                gate.driver_error(arm, str(error))
        intent_ns = provenance.intent_observation_ns
        command = JointCommand(
            command_id=self._commands,
            commanded_ns=now_ns,
            position_rad=set_points[:BOTH_ARMS_JOINTS],
            gripper_width_m=set_points[BOTH_ARMS_JOINTS:],
            provenance=provenance,
            intent_age_s=(now_ns - intent_ns) / NS_PER_S if provenance.source is Source.POLICY else -1.0,
            limited_joints=gate.limiter.limited,
        )
        self._commands += 1
        return Emit("command", command)

    def _report(self, now_ns: int, source: Source, emits: list[Emit]) -> None:
        gate = self.gate
        key = (gate.mode, source, gate.codes)
        if key == self._safety_key and now_ns - self._safety_ns < SAFETY_PERIOD_NS:
            return
        self._safety_key, self._safety_ns = key, now_ns
        state = SafetyState(
            stamp_ns=now_ns,
            mode=gate.mode,
            source=source,
            reasons=gate.reasons,
            limited_joints=gate.limiter.limited,
            clamped_count=gate.clamped_count,
            refused_count=gate.refused_count + self._arbiter.dropped,
            arm_distance_m=gate.arm_distance_m,
        )
        emits.append(Emit("safety", state))

    def request_stop(self) -> None:
        """Brake and hold both arms from the next tick on, for good."""
        self._stopping = True
        self._enable_until_ns = None

    @property
    def stopped(self) -> bool:
        """Whether a stop was requested and no arm is commanded to move any more."""
        return self._stopping and (self.gate.mode is Mode.DISABLED or self.gate.limiter.standing)

    def close(self) -> None:
        """Close the drivers; the arms hold their last set-point with torque on."""
        for driver in self._drivers:
            driver.close()
