"""Every setting with its default, in one place. TOML files decode into these structs; a misspelt key is an error."""

import importlib.resources
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from syvla.errors import ConfigError
from syvla.messages import CAMERAS

T = TypeVar("T")
MAX_IMAGE_BYTES = 2 * 1024 * 1024
MAX_DELAY_S = 0.5  # of a device: what is later than that is broken, not late
Blank = Literal["none", "instruction", "images"]
Continuity = Literal["prefix", "guided", "ensemble", "replace"]
Six = tuple[float, float, float, float, float, float]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a table in a configuration file."""


class IntentPolicy(Section, frozen=True):
    """What an intent's age does. ``use`` ignores it, ``slow_down`` scales the speed, ``hold`` stops."""

    warn_age_s: float = 0.5
    time_to_live_s: float = 1.0
    stale_policy: Literal["use", "slow_down", "hold"] = "hold"
    slow_down_factor: float = 0.25  # of the velocity limits, while the intent is older than its time to live
    slow_down_hold_after_s: float = 2.0  # slow_down holds in the end: at this multiple of the time to live


class SafetyLimits(Section, frozen=True):
    """The safety gate. Joint limits are one arm's, the same for both; they are intersected with the vendor's."""

    position_min_rad: Six = (-2.618, 0.0, -2.967, -1.745, -1.22, -2.0944)
    position_max_rad: Six = (2.618, 3.14, 0.0, 1.745, 1.22, 2.0944)
    velocity_rad_s: Six = (2.0, 2.0, 2.0, 2.5, 2.5, 2.5)
    acceleration_rad_s2: Six = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)
    gripper_min_m: float = 0.0
    gripper_max_m: float = 0.07
    gripper_velocity_m_s: float = 0.25
    first_step_rad: float = 0.1  # a chunk may start at most this far from the measured pose
    command_stale_s: float = 0.05  # the timeline ran dry
    chunk_wait_s: float = 5.0  # how long enabled arms stand waiting for a first chunk; later ones must not move them
    feedback_stale_s: float = 0.05
    feedback_warn_s: float = 0.02
    teleop_stale_s: float = 0.15
    clamps_to_hold: int = 10  # consecutive ticks asked beyond a position limit before the arms hold
    missed_ticks_to_hold: int = 3
    arm_distance_slow_m: float = 0.05
    arm_distance_hold_m: float = 0.02
    arm_distance_slow_factor: float = 0.2
    arm_distance_every_ticks: int = 4  # 50 Hz at 200 Hz


class ControlConfig(Section, frozen=True):
    """The robot stage."""

    rate_hz: float = 200.0
    blend_s: float = 0.1  # how long an old chunk fades into a new one
    enable_timeout_s: float = 5.0


class PolicyConfig(Section, frozen=True):
    """Rates of the two systems. Latencies are stand-ins for a model's compute time; 0 means as fast as it runs."""

    planner_latency_s: float = 0.0
    expert_latency_s: float = 0.0
    planner_min_period_s: float = 0.03  # no frame of a camera of 30 Hz is passed over for it
    # A thought of that age ends when a newer observation is there, and the intent in use grows older by it; 0: never.
    planner_preempt_after_s: float = 0.0
    expert_min_period_s: float = 0.05  # a new intent does not wait for it
    period_s: float = 1 / 30
    horizon: int = 50
    continuity: Continuity = "prefix"  # how a learned expert's chunk goes on from the one before it

    def __post_init__(self) -> None:
        if not 0.0 <= self.planner_preempt_after_s <= 60.0:
            raise ValueError(f"planner_preempt_after_s must be 0..60, not {self.planner_preempt_after_s}")


class RealtimeConfig(Section, frozen=True):
    """How the 200 Hz process asks the kernel to be served."""

    fifo_priority: int = 50  # 0: do not ask
    lock_memory: bool = True


class ArmConfig(Section, frozen=True):
    """One arm's bus, where its base stands in the world, and its delays, which a twin's arm then has."""

    can_interface: str = "socketcan"  # a python-can interface; "simcan" is the twin's
    can_channel: str = ""
    base_position_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    base_yaw_rad: float = 0.0
    feedback_delay_s: float = 0.0  # the stamp of a feedback minus the instant that it describes
    actuation_delay_s: float = 0.0  # the effect of the joints' set-point minus its sending
    gripper_delay_s: float = 0.0  # the same of the gripper's

    def __post_init__(self) -> None:
        for name in ("feedback_delay_s", "actuation_delay_s", "gripper_delay_s"):
            _check_delay(name, getattr(self, name))


class CamerasConfig(Section, frozen=True):
    """The three cameras. An uncompressed image must fit a frame of the bus."""

    source: Literal["realsense", "render"] = "realsense"  # a twin may render past the vendor's SDK; lockstep does
    serials: dict[str, str] = {}  # camera -> serial number, as printed on it; a twin needs none
    width: int = 640
    height: int = 480
    rate_hz: float = 30.0
    delay_s: dict[str, float] = {}  # camera -> the stamp of a picture minus the instant that it shows; none: 0
    depth: bool = False  # aligned to colour; measured at 3 ms of one core a frame
    silent_s: float = 0.15  # a picture older than this, and none newer: the arms hold
    frozen_frames: int = 10  # so many equal pictures in a row: the arms hold; 0: they may be equal

    def __post_init__(self) -> None:
        if not (self.width >= 1 and self.height >= 1 and 3 * self.width * self.height <= MAX_IMAGE_BYTES):
            raise ValueError(f"width x height x 3 must be 1..{MAX_IMAGE_BYTES} bytes, not {self.width}x{self.height}")
        if not 0.1 <= self.rate_hz <= 120.0:
            raise ValueError(f"rate_hz must be 0.1..120, not {self.rate_hz}")
        for camera, serial in self.serials.items():
            _check_camera("serials", camera)
            others = [name for name, other in self.serials.items() if other == serial and name != camera]
            if not serial or others:
                raise ValueError(f"serials.{camera} must be a number of its own, not {serial!r}{_also(others)}")
        for camera, delay_s in self.delay_s.items():
            _check_camera("delay_s", camera)
            _check_delay(f"delay_s.{camera}", delay_s)
        if not 1.0 / self.rate_hz < self.silent_s <= 60.0:
            raise ValueError(
                f"silent_s must be above the {1.0 / self.rate_hz:.3f} s between two frames and at most 60, "
                f"not {self.silent_s}"
            )
        for camera, delay_s in self.delay_s.items():  # a picture's age counts from what it shows
            if delay_s + 1.0 / self.rate_hz >= self.silent_s:
                raise ValueError(
                    f"delay_s.{camera} and the {1.0 / self.rate_hz:.3f} s between two frames must be less than "
                    f"silent_s, {self.silent_s} s, or the arms always hold, not {delay_s}"
                )
        if self.frozen_frames != 0 and not 2 <= self.frozen_frames <= 10_000:
            raise ValueError(f"frozen_frames must be 0 or 2..10000, not {self.frozen_frames}")


def _check_camera(key: str, camera: str) -> None:
    if camera not in CAMERAS:
        raise ValueError(f"{key}: no camera {camera!r}; there are {', '.join(CAMERAS)}")


def _check_delay(key: str, delay_s: float) -> None:
    if not 0.0 <= delay_s <= MAX_DELAY_S:
        raise ValueError(f"{key} must be 0..{MAX_DELAY_S} s, not {delay_s}")


def _also(names: list[str]) -> str:
    return f", which is {names[0]}'s" if names else ""


class RecorderConfig(Section, frozen=True):
    """What the recorder writes."""

    image_format: Literal["jpeg", "raw"] = "jpeg"
    jpeg_quality: int = 90
    chunk_bytes: int = 262_144
    ring_s: float = 60.0  # how much of what came between two episodes is kept, and saved when a fault holds the arms
    ring_bytes: int = 268_435_456  # the most that it may take in memory

    def __post_init__(self) -> None:
        if not 0.0 <= self.ring_s <= 600.0:
            raise ValueError(f"ring_s must be 0..600, not {self.ring_s}")
        if not 0 <= self.ring_bytes <= 2**34:
            raise ValueError(f"ring_bytes must be 0..{2**34}, not {self.ring_bytes}")


class TeleopConfig(Section, frozen=True):
    """How a person takes over: the controller, and leader arms if there are any."""

    controller: str = ""  # its name or GUID; "": the first one that is found
    dead_zone: float = 0.15  # of a stick's or trigger's way
    silent_s: float = 0.1  # a controller or leader arm that says nothing for so long is lost
    leader_left: ArmConfig | None = None  # both or none: arms that are read, never commanded
    leader_right: ArmConfig | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.dead_zone <= 0.9:
            raise ValueError(f"dead_zone must be 0..0.9, not {self.dead_zone}")
        if not 0.02 <= self.silent_s <= 0.14:  # the gate holds at 0.15 s
            raise ValueError(f"silent_s must be 0.02..0.14, not {self.silent_s}")
        if (self.leader_left is None) is not (self.leader_right is None):
            raise ValueError("leader_left and leader_right must be given both or not at all")


class RosConfig(Section, frozen=True):
    """What ROS calls this robot's topics and joints, and which of its devices other nodes drive.

    The profiles are those of ``syvla.profiles``.
    """

    profile: str = "syvla"
    gripper_unit_m: float | None = None  # metres between the fingers for one unit; None: the profile's
    jpeg_quality: int = 90  # of images on ROS
    arms: Literal["own", "ros"] = "own"  # ros: driver nodes that take and send joint states by the profile's names
    cameras: Literal["own", "ros"] = "own"  # ros: camera nodes that send images by the profile's names
    joystick: Literal["own", "ros"] = "own"  # ros: a game_controller_node that publishes /joy
    bags: bool = True  # every episode also as a rosbag2 bag, written when it is over


class RigConfig(Section, frozen=True):
    """One robot: measured facts, in ``calibration/rigs/<name>.toml``."""

    name: str
    kind: Literal["twin", "cobot_magic"]
    left: ArmConfig
    right: ArmConfig
    cameras: CamerasConfig = CamerasConfig()
    control: ControlConfig = ControlConfig()
    safety: SafetyLimits = SafetyLimits()
    intent: IntentPolicy = IntentPolicy()
    realtime: RealtimeConfig = RealtimeConfig()
    recorder: RecorderConfig = RecorderConfig()
    teleop: TeleopConfig = TeleopConfig()
    ros: RosConfig = RosConfig()

    def __post_init__(self) -> None:
        if self.kind != "twin" and self.cameras.source == "render":
            raise ValueError(f"cameras.source must be realsense, not render: a {self.kind} has real cameras")
        stale_s = self.safety.feedback_stale_s
        for name, arm in (("left", self.left), ("right", self.right)):
            if 0.0 < stale_s <= arm.feedback_delay_s:  # the gate says what is wrong with one that is not above 0
                raise ValueError(
                    f"{name}.feedback_delay_s must be below safety.feedback_stale_s, {stale_s} s, or the arms always "
                    f"hold, not {arm.feedback_delay_s}"
                )


def changed(rig: RigConfig, settings: Iterable[str], sections: Collection[str]) -> RigConfig:
    """The rig with each of ``settings``, as ``intent.stale_policy=hold``, in one of its ``sections``.

    A value is written as in a rig file; text needs no quotes. ConfigError names a key or value that cannot be.
    """
    for setting in settings:
        key, _, text = setting.partition("=")
        section, _, name = key.partition(".")
        if section not in sections or not text:
            raise ConfigError(f"{setting!r}: write SECTION.KEY=VALUE, with one of {', '.join(sections)}")
        old: msgspec.Struct = getattr(rig, section)
        if name not in old.__struct_fields__:
            raise ConfigError(f"{section} has no {name!r}; there are {', '.join(old.__struct_fields__)}")
        try:
            value = msgspec.toml.decode(f"value = {text}".encode())["value"]
        except msgspec.DecodeError:
            value = text
        try:
            new = msgspec.convert({**msgspec.to_builtins(old), name: value}, type(old))
            rig = msgspec.convert({**msgspec.to_builtins(rig), section: msgspec.to_builtins(new)}, RigConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{setting}: {error}") from error
    return rig


class RemotePlannerConfig(Section, frozen=True):
    """A planner on another machine, as the robot's machine sees it."""

    address: str  # tcp://host:port where it listens
    keys_folder: str = ""  # own pair and planner.key; without one only loopback is accepted
    jpeg_quality: int = 90  # of the images that it is sent; 0: raw

    def __post_init__(self) -> None:
        if not 0 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must be 1..95, or 0 for raw images, not {self.jpeg_quality}")


class RunConfig(Section, frozen=True):
    """One run: a rig and a policy. It is written into the run's folder and into every recording."""

    rig: RigConfig
    policy: PolicyConfig = PolicyConfig()
    policy_name: str = "reference"  # or the folder of a checkpoint
    backend: str = "eager"  # what computes a learned expert's chunks
    blank: Blank = "none"  # what is kept from the planner, to see if it is used
    astray_m: float = 0.0  # the reference's hand first comes this far beside a thing (deviation of x and of y)
    misses: float = 0.0  # how often it first closes on nothing beside the thing
    takeover: bool = False  # whether the reference acts in turn with the policy, to show what to do from where it got
    remote_planner: RemotePlannerConfig | None = None  # None: the planner is a process of this machine
    joystick: bool = False  # whether a person can take over
    playback: str = ""  # the recording whose actions are played in the place of a policy's
    bus_folder: str = ""  # where the processes' sockets are; chosen when the run starts
    wall_offset_ns: int = 0  # the wall clock minus the monotonic one when the run started


def load_toml(path: Path, kind: type[T]) -> T:
    """Decode the TOML file at ``path`` as ``kind``; ConfigError names the file, the key and what was expected."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def shipped_folder(folder: str, packaged: str) -> Path:
    """A folder of the repository, or its copy inside an installed wheel."""
    here = Path(str(importlib.resources.files("syvla")))
    inside = here / packaged
    return inside if inside.is_dir() else here.parent.parent / folder
