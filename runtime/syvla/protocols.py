"""What the parts promise each other: stages and hosts, drivers, planners and experts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from syvla.message import Float64, Message
from syvla.messages import (
    ActionChunk,
    ArmName,
    ArmState,
    CameraFrame,
    Intent,
    Observation,
    SimReset,
    SimState,
    SimTruth,
    Task,
)

# ---------------------------------------------------------------- stages and hosts


class Header(NamedTuple):
    """The envelope, made by the host that sent the message."""

    topic: str
    epoch: int  # changes when the sending process restarts
    sequence: int  # counts from 0 within (topic, epoch)
    sent_ns: int
    step_ns: int  # how long the step that made the message took


class Received(NamedTuple):
    """One message as a host received it. ``wire`` returns its exact body frames as they were sent."""

    header: Header
    message: Message
    received_ns: int
    wire: Callable[[], Sequence[bytes | memoryview]]


class Emit(NamedTuple):
    """One message that a stage sends; one that it passes on goes out with its ``origin``'s header and bytes."""

    topic: str
    message: Message
    origin: Received | None = None


class Inbox:
    """What a stage may read in one step: the latest message of each topic, and what is new since the last step.

    For a latest-wins stage ``fresh`` holds the newest message of a topic (all of those marked ``every`` in the table
    of topics); for a lossless one it holds every message in the order of arrival.
    """

    __slots__ = ("fresh", "latest")

    def __init__(self, latest: dict[str, Received], fresh: Sequence[Received]) -> None:
        self.latest = latest
        self.fresh = fresh

    def get(self, topic: str) -> Message | None:
        """The latest message of ``topic``, however old, or None if none ever came."""
        received = self.latest.get(topic)
        return None if received is None else received.message

    def new(self, topic: str) -> Iterator[Message]:
        """The messages of ``topic`` that came since the last step."""
        return (r.message for r in self.fresh if r.header.topic == topic)


class Periodic(NamedTuple):
    """Step at absolute deadlines, ``period_ns`` apart."""

    period_ns: int


class OnNew(NamedTuple):
    """Step when one of ``topics`` has something new and the last step is over, at most every ``min_period_ns``.

    A new message of ``preempted_by`` ends a step that is under way: its generator is closed at the next message it
    yields, and what was not sent yet is dropped. One of ``outdated_by`` does so once the step has been under way for
    ``patience_ns``, but never to two steps in a row. What is new of ``at_once``, some of ``topics``, does not wait for
    the shortest period, but half of it behind another that did not. Between two steps are at least ``rest_ns``.
    """

    topics: tuple[str, ...]
    min_period_ns: int = 0
    preempted_by: tuple[str, ...] = ()
    outdated_by: tuple[str, ...] = ()
    patience_ns: int = 0
    at_once: tuple[str, ...] = ()
    rest_ns: int = 0


class Stage(Protocol):
    """A pure step: no clock, no socket, no sleep; a host supplies those.

    Devices are handed in as drivers. A step may be a generator: each message is sent as it is yielded.
    """

    @property
    def name(self) -> str:
        """One of ``topics.STAGES``."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """The topics it subscribes to."""
        ...

    @property
    def writes(self) -> tuple[str, ...]:
        """The topics it may send."""
        ...

    @property
    def trigger(self) -> Periodic | OnNew:
        """When it steps."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether it reads every message instead of the latest."""
        ...

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Advance to ``now_ns``."""
        ...

    def request_stop(self) -> None:
        """The host is about to stop; the stage prepares (the robot holds, the recorder closes)."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether, after ``request_stop``, nothing is left to do; the host steps on until then (for 2 s)."""
        ...

    def close(self) -> None:
        """Release what the stage owns. Never drops an arm."""
        ...


class Incoming(Protocol):
    """What a process host reads from. For one thread; no call waits."""

    @property
    def received(self) -> int:
        """Messages that were accepted."""
        ...

    @property
    def refused(self) -> int:
        """Messages that were not well formed."""
        ...

    @property
    def dropped(self) -> int:
        """Messages that a lossless subscription missed."""
        ...

    @property
    def last_refusal(self) -> str:
        """Why the last refused message was refused."""
        ...

    @property
    def sockets(self) -> Sequence[Any]:
        """For a ZeroMQ poller; readable when :meth:`drain` may have something."""
        ...

    @property
    def poll_ns(self) -> int:
        """How long the host may go without a look when no socket is readable."""
        ...

    def drain(self) -> list[Received]:
        """What has come since the last call, checked."""
        ...

    def close(self) -> None:
        """Stop receiving."""
        ...


class Outgoing(Protocol):
    """What a process host publishes to. For one thread; no call waits."""

    @property
    def dropped(self) -> int:
        """Messages that found a lossless subscriber's queue full."""
        ...

    @property
    def sockets(self) -> Sequence[Any]:
        """For a ZeroMQ poller; readable when :meth:`poll` has something to do."""
        ...

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Send to whoever subscribes."""
        ...

    def relay(self, received: Received) -> None:
        """Send what another process said, under its own header and in its own bytes."""
        ...

    def poll(self) -> None:
        """Serve the subscribers. Call at least ten times a second."""
        ...

    def close(self) -> None:
        """Stop publishing."""
        ...


# ---------------------------------------------------------------- devices


class ArmDriver(Protocol):
    """One arm with its gripper. Every call returns at once; one thread owns an instance.

    Positions are radians in the vendor's joint order and sign, the gripper's width is metres between the
    fingers. There is no disable and no reset here: both drop the arm.
    """

    arm: ArmName

    def open(self) -> None:
        """Connect and start reading feedback. DriverError if the device cannot be reached."""
        ...

    def enable(self) -> bool:
        """Ask for torque; call every tick until it answers True. Moves nothing."""
        ...

    @property
    def position_limits_rad(self) -> tuple[Sequence[float], Sequence[float]]:
        """Lowest and highest set-points (6,) that the device takes; its own word once ``enable`` answered True."""
        ...

    def read(self, now_ns: int) -> ArmState | None:
        """The newest feedback, None before the first; ``measured_ns`` stands still when the arm is silent."""
        ...

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Send a set-point: (6,) rad and metres. DriverError if it could not be sent."""
        ...

    def close(self) -> None:
        """Disconnect; the arm keeps holding its last set-point with torque on."""
        ...


class GamepadState(NamedTuple):
    """A game controller at one instant, numbered as SDL's game controllers and ROS's ``game_controller_node``.

    Signs are SDL's: a stick's x grows to the right and its y downwards. Nothing is checked here.
    """

    sampled_ns: int
    axes: Sequence[float]  # (6,) left x, left y, right x, right y in -1..1; left and right trigger in 0..1
    buttons: Sequence[bool]  # (15,) or more


class Gamepad(Protocol):
    """A game controller. Every call returns at once."""

    def read(self, now_ns: int) -> GamepadState | None:
        """What it says now, None while none is plugged in."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class Jog(NamedTuple):
    """How a person wants both hands to move.

    ``twist`` (2, 6) of the left and the right grasp point: forward, left, up [m/s], and turning about these axes
    [rad/s]. They are those of each arm's base or, ``in_hand``, of the hand: forward is where its fingers point.
    """

    twist: Sequence[Sequence[float]]
    gripper_m_s: Sequence[float]  # (2,) positive opens
    in_hand: bool


class Guide(Protocol):
    """What turns a person's hands into velocities of the arms: a jogged controller, or leader arms."""

    def velocity(self, now_ns: int, set_point: Float64, jog: Jog) -> Float64 | None:
        """Both arms' joints [rad/s] and both grippers [m/s], (14,), from set-points (14,); None: the device is lost.

        Called every period of the teleop stage while the deadman is held.
        """
        ...

    def rest(self, now_ns: int) -> None:
        """Nobody moves the arms: what comes next begins anew from where they then stand. Called instead."""
        ...

    def close(self) -> None:
        """Release its devices."""
        ...


class CameraSource(Protocol):
    """A set of cameras."""

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        """The frames that became available since the last call, at most one for each camera."""
        ...

    def close(self) -> None:
        """Stop streaming."""
        ...


class StateFollower(Protocol):
    """Cameras that render the twin wherever they run, from the positions that it sends."""

    def follow(self, state: SimState) -> None:
        """See ``state`` from now on."""
        ...


# ---------------------------------------------------------------- the two systems


class PartialThought(NamedTuple):
    """The chain of thought so far."""

    text: str


class Planner(Protocol):
    """The slow system."""

    model_id: str
    reads_truth: bool  # whether it wants the simulator's truth; a learned planner never does

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Yield the growing chain of thought, then exactly one intent (or none if there is nothing to want)."""
        ...


class Expert(Protocol):
    """The fast system."""

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """A chunk from the intent and the arms' own state, (14,) at ``observation_ns``.

        ``committed`` is the chunk being executed: its first ``inference_delay_steps`` rows after
        ``observation_ns`` will have been executed when this chunk arrives, so a good chunk begins with them.
        """
        ...


# ---------------------------------------------------------------- the twin


class World(Protocol):
    """A simulated robot and table that advances when told to."""

    def reset(self, reset: SimReset) -> None:
        """Lay the table; the arms stay where they are."""
        ...

    def advance(self, now_ns: int) -> None:
        """Integrate the physics up to ``now_ns``."""
        ...

    def state(self, now_ns: int) -> SimState:
        """What is needed to render it."""
        ...

    def truth(self, now_ns: int) -> SimTruth:
        """What only a simulator knows."""
        ...

    def close(self) -> None:
        """Release renderers and sockets."""
        ...


class ArmPlant(Protocol):
    """The physical arm under an emulated or direct driver: joints that can be measured and driven."""

    def measured(self) -> tuple[Float64, Float64, Float64, float]:
        """Position (6,) rad, velocity (6,) rad/s, effort (6,) Nm, gripper width m."""
        ...

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Set-points of the joints' servos; ignored without torque."""
        ...

    def torque(self, on: bool) -> None:
        """Switch the servos; off, the arm sinks under its weight."""
        ...


class EmulatedDevice(Protocol):
    """A device that answers its vendor's SDK, without a thread of its own: the twin's process calls it."""

    def receive(self, now_ns: int) -> None:
        """Take in what the SDK sent and act on it. Called before the physics advances."""
        ...

    def send(self, now_ns: int) -> None:
        """Send the feedback that is due. Called after the physics advanced."""
        ...

    def close(self) -> None:
        """Leave the bus."""
        ...
