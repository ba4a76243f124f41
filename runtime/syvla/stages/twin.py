"""The twin as a stage: devices take in what their SDKs sent, the physics advances, devices answer."""

import logging
from collections.abc import Iterator, Sequence
from typing import cast

from syvla.clock import NS_PER_S
from syvla.errors import ConfigError
from syvla.messages import SimReset
from syvla.protocols import Emit, EmulatedDevice, Inbox, Periodic, World
from syvla.topics import topic

_log = logging.getLogger(__name__)


class TwinStage:
    """Steps a world and its emulated devices; says what is to be rendered and what is true.

    Before the first ``sim/reset`` the devices live but nothing is sent: there is no episode yet. Each reset is
    answered by a state and a truth at once.
    """

    name = "twin"
    reads: tuple[str, ...] = ("sim/reset",)
    writes: tuple[str, ...] = ("sim/state", "sim/truth")
    lossless = False

    def __init__(self, world: World, devices: Sequence[EmulatedDevice], period_ns: int) -> None:
        """A stage over ``world``; ``devices`` are polled in the order given."""
        if period_ns <= 0:
            raise ConfigError(f"the twin's period must be above 0 ns, not {period_ns}")
        self.trigger = Periodic(period_ns)
        self._world = world
        self._devices = tuple(devices)
        self._laid = False
        self._origin_ns: int | None = None
        self._state_rate_hz, self._truth_rate_hz = (round(topic(name).rate_hz or 1.0) for name in self.writes)
        self._state_slot = self._truth_slot = -1
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """Advance to ``now_ns``."""
        if self._origin_ns is None:
            self._origin_ns = now_ns
        laid = False
        for message in inbox.new("sim/reset"):
            laid = self._reset(cast(SimReset, message)) or laid
        for device in self._devices:
            device.receive(now_ns)
        self._world.advance(now_ns)
        for device in self._devices:
            device.send(now_ns)
        if not self._laid:
            return
        elapsed_ns = now_ns - self._origin_ns
        state_slot = elapsed_ns * self._state_rate_hz // NS_PER_S
        truth_slot = elapsed_ns * self._truth_rate_hz // NS_PER_S
        if laid or state_slot != self._state_slot:
            self._state_slot = state_slot
            yield Emit("sim/state", self._world.state(now_ns))
        if laid or truth_slot != self._truth_slot:
            self._truth_slot = truth_slot
            yield Emit("sim/truth", self._world.truth(now_ns))

    def request_stop(self) -> None:
        """The arms are held by their own servos; nothing to prepare."""
        self._stopping = True

    @property
    def stopped(self) -> bool:
        """True once a stop was requested."""
        return self._stopping

    def close(self) -> None:
        """Take the devices off their buses and release the world."""
        for device in self._devices:
            device.close()
        self._world.close()

    def _reset(self, reset: SimReset) -> bool:
        """Lay the table; a reset that names no known task or split is refused and the table stays as it is."""
        try:
            self._world.reset(reset)
        except ConfigError as error:
            _log.warning("sim/reset %d refused: %s", reset.reset_id, error)
            return False
        self._laid = True
        return True
