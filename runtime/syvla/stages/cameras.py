"""The cameras as a stage: whatever a source has, sent under each camera's topic, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from syvla.clock import NS_PER_S, to_ns
from syvla.config import CamerasConfig
from syvla.control.camera_watch import CameraWatch
from syvla.errors import ConfigError
from syvla.messages import CamerasState, SimState
from syvla.protocols import CameraSource, Emit, Inbox, Periodic, StateFollower
from syvla.topics import CAMERAS

STATE_PERIOD_NS = NS_PER_S // 20


class CamerasStage:
    """Polls a camera source at a rate; in the twin, shows it the newest ``sim/state`` first."""

    name = "cameras"
    lossless = False

    def __init__(
        self,
        source: CameraSource,
        config: CamerasConfig,
        cameras: Sequence[str] = CAMERAS,
        watched: Sequence[str] = CAMERAS,
        poll_hz: float | None = None,
        follower: StateFollower | None = None,
    ) -> None:
        """A stage over ``source``.

        Args:
            source: Where frames come from; the stage owns it.
            config: When a camera is lost or frozen.
            cameras: The cameras that it may deliver.
            watched: Those of them without which the policy is blind: when one is lost or frozen, the arms hold.
            poll_hz: How often it is polled; None: at the cameras' rate.
            follower: Who renders from the twin's state; None for real cameras.
        """
        missing = [camera for camera in watched if camera not in cameras]
        if missing:
            raise ConfigError(f"the policy looks at {missing[0]}; the rig has {', '.join(cameras) or 'no camera'}")
        rate_hz = config.rate_hz if poll_hz is None else poll_hz
        if not 0.1 <= rate_hz <= 1000.0:
            raise ConfigError(f"the cameras' poll_hz must be 0.1..1000, not {rate_hz}")
        self._watch = CameraWatch(watched, config)
        self._source = source
        self._follower = follower
        self._delays_ns = {camera: to_ns(delay_s) for camera, delay_s in config.delay_s.items()}
        self._topics = {camera: f"camera/{camera}" for camera in cameras}
        self.reads: tuple[str, ...] = () if follower is None else ("sim/state",)
        self.writes: tuple[str, ...] = (*self._topics.values(), "cameras")
        self.trigger = Periodic(to_ns(1.0 / rate_hz))
        self._state_key: tuple[tuple[str, str], ...] | None = None
        self._state_ns = 0
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """Send every frame that became available, each as soon as it is there, then what is wrong."""
        if self._follower is not None:
            for state in inbox.new("sim/state"):
                self._follower.follow(cast(SimState, state))
        for frame in self._source.read(now_ns):
            delay_ns = self._delays_ns.get(frame.camera, 0)
            if delay_ns:
                frame = msgspec.structs.replace(frame, exposure_ns=frame.exposure_ns - delay_ns)
            self._watch.see(frame)
            yield Emit(self._topics[frame.camera], frame)
        faults = self._watch.faults(now_ns)
        key = tuple((fault.camera, fault.what) for fault in faults)
        if key != self._state_key or now_ns - self._state_ns >= STATE_PERIOD_NS:
            self._state_key, self._state_ns = key, now_ns
            yield Emit("cameras", CamerasState(stamp_ns=now_ns, faults=faults))

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
