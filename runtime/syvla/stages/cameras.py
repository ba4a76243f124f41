"""The cameras as a stage: whatever a source has, sent under each camera's topic."""

from collections.abc import Iterator, Sequence
from typing import cast

from syvla.clock import to_ns
from syvla.errors import ConfigError
from syvla.messages import SimState
from syvla.protocols import CameraSource, Emit, Inbox, Periodic, StateFollower
from syvla.topics import CAMERAS


class CamerasStage:
    """Polls a camera source at a rate; in the twin, shows it the newest ``sim/state`` first."""

    name = "cameras"
    lossless = False

    def __init__(
        self,
        source: CameraSource,
        cameras: Sequence[str] = CAMERAS,
        rate_hz: float = 30.0,
        follower: StateFollower | None = None,
    ) -> None:
        """A stage over ``source``.

        Args:
            source: Where frames come from; the stage owns it.
            cameras: The cameras that it may deliver.
            rate_hz: How often it is polled.
            follower: Who renders from the twin's state, usually ``source`` itself; None for real cameras.
        """
        unknown = [camera for camera in cameras if camera not in CAMERAS]
        if unknown:
            raise ConfigError(f"no camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
        if not 0.1 <= rate_hz <= 1000.0:
            raise ConfigError(f"the cameras' rate_hz must be 0.1..1000, not {rate_hz}")
        self._source = source
        self._follower = follower
        self.reads: tuple[str, ...] = () if follower is None else ("sim/state",)
        self.writes: tuple[str, ...] = tuple(f"camera/{camera}" for camera in cameras)
        self.trigger = Periodic(to_ns(1.0 / rate_hz))
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """Send every frame that became available, each as soon as it is there."""
        if self._follower is not None:
            for state in inbox.new("sim/state"):
                self._follower.follow(cast(SimState, state))
        for frame in self._source.read(now_ns):
            yield Emit(f"camera/{frame.camera}", frame)

    def request_stop(self) -> None:
        """Nothing to prepare."""
        self._stopping = True

    @property
    def stopped(self) -> bool:
        """True once a stop was requested."""
        return self._stopping

    def close(self) -> None:
        """Stop the cameras."""
        self._source.close()
