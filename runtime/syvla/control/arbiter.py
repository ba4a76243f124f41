"""The arbiter: whether the policy, a person or nobody commands, and what they ask for in this tick."""

from typing import NamedTuple

from syvla.control.gate import Gate, Request
from syvla.control.mode import Event
from syvla.control.timeline import Timeline
from syvla.messages import ActionChunk, Mode, Provenance, Source, Splice, Task, TeleopCommand


class Choice(NamedTuple):
    """What is asked of the gate, and where it came from."""

    request: Request
    provenance: Provenance


STANDING = Choice(Request(Source.HOLD), Provenance(source=Source.HOLD))


class Arbiter:
    """Takes in chunks and teleop, and chooses among them by the gate's mode.

    Nothing ever jumps: whoever takes over begins at the standing set-points of the gate, and the policy only with a
    chunk of the present task, made from what was seen after it was given (back) the command.
    """

    remembered = ("_gate", "_timeline", "_teleop", "_override_id", "_since_ns", "_task_id", "_waiting_ns", "dropped")

    def __init__(self, gate: Gate, timeline: Timeline) -> None:
        self._gate = gate
        self._timeline = timeline
        self._teleop: TeleopCommand | None = None
        self._override_id = -1
        self._since_ns = gate.resumed_ns
        self._task_id: int | None = None
        self._waiting_ns: int | None = None  # since when the arms stand enabled without a chunk
        self.dropped = 0  # chunks and teleop samples that were old, late or twice

    def take_task(self, task: Task) -> None:
        """Another task makes void what was wanted before it: the arms stand until a chunk of its own moves them."""
        if task.task_id != self._task_id:
            self._task_id = task.task_id
            self._timeline.clear()

    def take_chunk(self, now_ns: int, chunk: ActionChunk) -> Splice | None:
        """Put ``chunk`` on the timeline if it may be executed."""
        gate, timeline = self._gate, self._timeline
        if gate.mode is not Mode.ENABLED:
            return None
        self._begin_anew()
        is_void = chunk.observation_ns <= gate.resumed_ns or self._task_id not in (None, chunk.task_id)
        if is_void or timeline.refusal(chunk, now_ns) is not None:
            gate.check_chunk(chunk, None)
            self.dropped += 1
            return None
        if not gate.check_chunk(chunk, timeline.first_row(chunk, now_ns)):
            return None
        return timeline.splice(chunk, now_ns, gate.limiter.position)

    def _begin_anew(self) -> None:
        """Forget the trajectory when motion was permitted anew since it was made."""
        if self._since_ns != self._gate.resumed_ns:
            self._since_ns = self._gate.resumed_ns
            self._timeline.clear()

    def take_teleop(self, command: TeleopCommand) -> None:
        """Follow what a person asks with the joystick; it takes effect in this very tick."""
        gate = self._gate
        if command.mode_request == "hold":
            gate.trip("teleop_hold", "the joystick asked for it")
        elif command.mode_request == "lost" and gate.mode is Mode.OVERRIDE:
            gate.trip("teleop_lost", "the joystick or a leader arm is not there any more")
        old = self._teleop is not None and command.sampled_ns <= self._teleop.sampled_ns
        if old or not gate.teleop_fresh(command.sampled_ns):
            self.dropped += 1
            return
        self._teleop = command
        if command.mode_request == "override" and command.deadman and gate.mode is Mode.ENABLED:
            gate.switch(Event.OVERRIDE)
            self._override_id += 1
        elif command.mode_request == "policy" and gate.mode is Mode.OVERRIDE:
            gate.switch(Event.POLICY)

    def choose(self, now_ns: int) -> Choice:
        """What to ask of the gate at ``now_ns``."""
        gate, timeline, teleop = self._gate, self._timeline, self._teleop
        if gate.mode is Mode.ENABLED:
            self._begin_anew()
            sample = timeline.sample(now_ns)
            if sample is None:
                if self._waiting_ns is None:
                    self._waiting_ns = now_ns
                gate.wait_for_chunk(now_ns - self._waiting_ns)
                return STANDING
            self._waiting_ns = None
            intent_ns = sample.chunk.intent_observation_ns
            request = Request(Source.POLICY, sample.set_point, None, sample.overrun_ns, intent_ns)
            return Choice(request, sample.provenance())
        self._waiting_ns = None
        if gate.mode is Mode.OVERRIDE and teleop is not None:
            age_ns = now_ns - teleop.sampled_ns
            velocity = [*teleop.joint_velocity_rad_s.tolist(), *teleop.gripper_velocity_m_s.tolist()]
            moving = velocity if teleop.deadman else [0.0] * len(velocity)
            return Choice(
                Request(Source.TELEOP, None, moving, age_ns),
                Provenance(source=Source.TELEOP, override_id=self._override_id),
            )
        return STANDING
