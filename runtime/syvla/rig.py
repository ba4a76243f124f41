"""The composition root: joins drivers, twin and models with the stages, for the bus host and for lockstep."""

import datetime
import functools
import importlib.resources
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from syvla.clock import monotonic_ns, wall_offset_ns
from syvla.config import Blank, PolicyConfig, RealtimeConfig, RigConfig, RunConfig, load_toml
from syvla.control.kinematics import Base, arm_distance_m
from syvla.errors import ConfigError
from syvla.hosts.lockstep import LockstepHost
from syvla.hosts.process import ProcessHost, stop_with_parent
from syvla.hosts.realtime import go_realtime
from syvla.messages import ARMS, ArmName
from syvla.protocols import ArmDriver, Expert, Gamepad, Guide, Incoming, Outgoing, Planner, Stage
from syvla.stages.blank import BlankedPlanner
from syvla.stages.cameras import CamerasStage
from syvla.stages.expert import ExpertStage
from syvla.stages.planner import PlannerStage
from syvla.stages.recorder import RecorderStage
from syvla.stages.robot import RobotStage
from syvla.stages.teleop import PERIOD_NS as TELEOP_PERIOD_NS
from syvla.stages.teleop import TeleopStage
from syvla.stages.twin import TwinStage
from syvla.topics import CAMERAS, topic
from syvla.transport.bus import Inlet, Mode, Outlet, Subscription, ipc_directory

if TYPE_CHECKING:
    from syvla.sim.reference import ReferencePlanner
    from syvla_models.spec import PolicySpec

TWIN_PERIOD_NS = 5_000_000
TWIN_BELOW_ROBOT = 20  # of FIFO priority
RECORDER_NICE = 10
FROZEN = ("robot", "twin", "teleop")  # make no reference cycles, so that they need no collector
LINGER_S = {"twin": 1.0, "recorder": 0.7}  # after the supervisor's death: the robot needs up to 0.2 s to stand
STAGES = ("twin", "cameras", "planner", "expert", "robot", "recorder")
TELEOP_BELOW_ROBOT = 30  # of FIFO priority: a takeover is not to wait for a busy machine
POLICIES = ("reference", "learned")
LEARNED = "syvla-tiny"  # the checkpoint that ships
Ends = Callable[[RunConfig, Stage], tuple[Incoming, Outgoing]]
TELEOP_PACKAGES = ("mujoco", "mink", "daqp", "ruckig", "sdl2")
LEARN_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


# ---------------------------------------------------------------- rigs and run folders


def _shipped(folder: str, packaged: str) -> Path:
    """A folder of the repository, or its copy inside an installed wheel."""
    here = Path(str(importlib.resources.files("syvla")))
    inside = here / packaged
    return inside if inside.is_dir() else here.parent.parent / folder


def rig_names() -> list[str]:
    """The rigs that ship."""
    return sorted(path.stem for path in _shipped("calibration/rigs", "_rigs").glob("*.toml"))


def load_rig(name: str) -> RigConfig:
    """A shipped rig by name, or a rig file by path."""
    path = Path(name)
    if path.suffix != ".toml":
        path = _shipped("calibration/rigs", "_rigs") / f"{name}.toml"
        if not path.is_file():
            raise ConfigError(f"no rig {name!r}; there are {', '.join(rig_names())}, or give the path of a .toml file")
    return load_toml(path, RigConfig)


def shipped_checkpoint() -> Path:
    """The folder of the checkpoint that ships, whether it is there or not."""
    return _shipped("models/checkpoints", "_checkpoints") / LEARNED


def find_policy(name: str) -> str:
    """``reference``, or the folder of the checkpoint that ``name`` means; ConfigError if it cannot be run here."""
    if name == "reference":
        return name
    folder = shipped_checkpoint() if name == "learned" else Path(name)
    if not (folder / "syvla.json").is_file():
        choices = f"there are {', '.join(POLICIES)}, or give the folder of a checkpoint"
        if folder.is_dir() or name == "learned":
            raise ConfigError(f"policy {name!r}: {folder} holds no checkpoint (no syvla.json); {choices}")
        raise ConfigError(f"no policy {name!r}; {choices}")
    for package in LEARN_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is missing; a learned policy needs: pip install 'syvla[learn]'")
    return str(folder.resolve())


def default_policy() -> str:
    """``learned`` where the checkpoint that ships is here, else ``reference``."""
    return "learned" if shipped_checkpoint().is_dir() else "reference"


def policy_cameras(run: RunConfig) -> tuple[str, ...]:
    """The cameras that the planner cannot do without: those of a learned planner's views."""
    spec = _spec(run)
    return () if spec is None else tuple(dict.fromkeys(view.camera for view in spec.planner.views))


def policy_model_id(run: RunConfig) -> str:
    """What every intent of the run's planner carries."""
    spec = _spec(run)
    return "reference" if spec is None else spec.model_id


def _spec(run: RunConfig) -> "PolicySpec | None":
    """What the checkpoint of a learned policy says about itself; this needs no torch."""
    if run.policy_name == "reference":
        return None
    from syvla_models.spec import SPEC_FILE, PolicySpec, load_json

    return load_json(Path(run.policy_name) / SPEC_FILE, PolicySpec)


class RunFolder(NamedTuple):
    """Where one run keeps its configuration, logs, recordings and report."""

    path: Path

    @classmethod
    def create(cls, parent: Path, label: str) -> "RunFolder":
        """A new folder named after the local date and time; never an existing one."""
        stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{i}" for i in range(2, 100))):
            path = parent / f"{stamp}-{label}{suffix}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            folder = cls(path.resolve())
            folder.logs.mkdir()
            folder.recordings.mkdir()
            return folder
        raise ConfigError(f"{parent}: too many runs were started in this second")

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.path / "logs"

    @property
    def recordings(self) -> Path:
        """One MCAP for each episode."""
        return self.path / "recordings"

    @property
    def configuration(self) -> Path:
        """The whole configuration of the run."""
        return self.path / "run.json"

    def save(self, run: RunConfig) -> None:
        """Write the configuration that every process of the run reads."""
        self.configuration.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2))

    def load(self) -> RunConfig:
        """The configuration of the run."""
        try:
            return msgspec.json.decode(self.configuration.read_bytes(), type=RunConfig)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{self.configuration}: {error}") from error

    def commands(self, joystick: bool = False) -> dict[str, list[str]]:
        """The processes of a run on the twin, children of this one; with one for a person at a ``joystick``."""
        parent, names = str(os.getpid()), (*STAGES, *(("teleop",) if joystick else ()))
        return {name: [sys.executable, "-m", "syvla.cli", "stage", name, str(self.path), parent] for name in names}


def chosen_tasks(names: Sequence[str], splits: Sequence[str]) -> tuple[str, ...]:
    """The tasks called ``names`` (those that are evaluated if none is); ConfigError for an unknown task or split."""
    from syvla.sim.scene import task_named
    from syvla.sim.tasks import ALL_TASKS, TASKS

    chosen = tuple(names) or tuple(TASKS)
    for name in chosen:
        for split in splits:
            task_named(ALL_TASKS, name, split)
    return chosen


def lockstep_run(
    rig: str, planner_latency_s: float, expert_latency_s: float, policy: str, blank: Blank = "none"
) -> RunConfig:
    """The configuration of a run under the virtual clock."""
    run = _run(load_rig(rig), planner_latency_s, expert_latency_s, policy)
    return msgspec.structs.replace(run, blank=blank)


def realtime_run(
    rig: str, planner_latency_s: float, expert_latency_s: float, policy: str = "reference", joystick: bool = False
) -> RunConfig:
    """The configuration of a run on the bus, with the twin's CAN channels and the sockets' folder chosen."""
    from syvla.drivers.simcan import free_channels

    if joystick:
        check_teleop()

    config = load_rig(rig)
    if config.kind != "twin":
        raise ConfigError(f"rig {config.name!r} is a {config.kind}; only a twin can be run so far")
    left, right = free_channels(*ARMS)
    config = msgspec.structs.replace(
        config,
        left=msgspec.structs.replace(config.left, can_channel=left),
        right=msgspec.structs.replace(config.right, can_channel=right),
    )
    run = _run(config, planner_latency_s, expert_latency_s, policy)
    folder = ipc_directory(f"{os.getpid():x}-{time.monotonic_ns():x}")
    return msgspec.structs.replace(run, joystick=joystick, bus_folder=str(folder), wall_offset_ns=wall_offset_ns())


def check_teleop() -> None:
    """ConfigError if a package is missing with which a person takes over."""
    for package in TELEOP_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is missing; a joystick needs: pip install 'syvla[teleop]'")


def _run(rig: RigConfig, planner_latency_s: float, expert_latency_s: float, policy: str) -> RunConfig:
    for name, value in (("planner latency", planner_latency_s), ("expert latency", expert_latency_s)):
        if not 0.0 <= value <= 10.0:
            raise ConfigError(f"{name} must be 0 to 10 s, not {value}")
    latencies = PolicyConfig(planner_latency_s=planner_latency_s, expert_latency_s=expert_latency_s)
    return RunConfig(rig=rig, policy=latencies, policy_name=find_policy(policy))


# ---------------------------------------------------------------- stages


def _planner_stage(run: RunConfig, cameras: Sequence[str], threads: int | None = None) -> PlannerStage:
    """``cameras`` are those that a planner without views of its own waits for."""
    planner: Planner = _reference_planner(run) if run.policy_name == "reference" else _learned_planner(run, threads)
    if run.takeover:
        from syvla.sim.takeover import TakeoverPlanner

        planner = TakeoverPlanner(planner, _reference_planner(run))
    if run.blank != "none":
        planner = BlankedPlanner(planner, run.blank)
    return PlannerStage(planner, policy_cameras(run) or cameras, run.policy)


def _reference_planner(run: RunConfig) -> "ReferencePlanner":
    from syvla.sim.reference import ReferencePlanner
    from syvla.sim.tasks import ALL_TASKS

    return ReferencePlanner(run.rig, ALL_TASKS, run.astray_m, run.misses)


def _learned_planner(run: RunConfig, threads: int | None) -> Planner:
    from syvla_models.policy import LearnedPlanner

    return LearnedPlanner(Path(run.policy_name), threads)


def _expert_stage(run: RunConfig, threads: int | None = None) -> ExpertStage:
    expert: Expert = _reference_expert(run) if run.policy_name == "reference" else _learned_expert(run, threads)
    if run.takeover:
        from syvla.sim.reference import MODEL_ID
        from syvla.sim.takeover import TakeoverExpert

        expert = TakeoverExpert(expert, _reference_expert(run), MODEL_ID)
    return ExpertStage(expert, run.rig.intent, run.policy)


def _reference_expert(run: RunConfig) -> Expert:
    from syvla.sim.reference import ReferenceExpert

    return ReferenceExpert(run.rig, run.policy)


def _learned_expert(run: RunConfig, threads: int | None) -> Expert:
    from syvla_models.policy import LearnedExpert

    return LearnedExpert(Path(run.policy_name), run.rig, threads)


def _robot_stage(run: RunConfig, arms: Mapping[ArmName, ArmDriver]) -> RobotStage:
    for driver in arms.values():
        driver.open()
    distance = functools.partial(arm_distance_m, left=Base.of(run.rig.left), right=Base.of(run.rig.right))
    distance(np.zeros(6), np.zeros(6))  # numpy's first product allocates for 80 ms in locked memory: not in the loop
    return RobotStage(arms, run.rig, distance)


def _piper_robot(run: RunConfig) -> Stage:
    from syvla.drivers.piper import PiperArm

    return _robot_stage(run, {"left": PiperArm("left", run.rig.left), "right": PiperArm("right", run.rig.right)})


def _twin(run: RunConfig) -> Stage:
    from syvla.drivers.piper_emulator import PiperEmulator
    from syvla.sim.tasks import ALL_TASKS
    from syvla.sim.world import TwinWorld

    world = TwinWorld(run.rig, ALL_TASKS)
    channels = (run.rig.left.can_channel, run.rig.right.can_channel)
    emulators = [PiperEmulator(arm, world.plant(arm), channel) for arm, channel in zip(ARMS, channels, strict=True)]
    return TwinStage(world, emulators, TWIN_PERIOD_NS)


def _twin_cameras(run: RunConfig, cameras: Sequence[str] = CAMERAS) -> Stage:
    from syvla.sim.cameras import TwinCameras
    from syvla.sim.tasks import ALL_TASKS

    source = TwinCameras(run.rig, ALL_TASKS, cameras)
    return CamerasStage(source, cameras, run.rig.cameras.rate_hz, source)


def teleop_stage(run: RunConfig, gamepad: Gamepad) -> TeleopStage:
    """The teleop stage behind ``gamepad``: it jogs, or follows the rig's leader arms if there are any."""
    return TeleopStage(gamepad, _guide(run), run.rig.teleop)


def _guide(run: RunConfig) -> Guide:
    rig, leaders = run.rig, (run.rig.teleop.leader_left, run.rig.teleop.leader_right)
    if leaders[0] is None or leaders[1] is None:
        from syvla.teleop.jog import Jogger

        return Jogger(Base.of(rig.left), Base.of(rig.right), rig.safety, TELEOP_PERIOD_NS)
    from syvla.drivers.piper import PiperArm
    from syvla.teleop.leader import Leaders

    arms: dict[ArmName, ArmDriver] = {"left": PiperArm("left", leaders[0]), "right": PiperArm("right", leaders[1])}
    for driver in arms.values():
        driver.open()
    return Leaders(arms, rig.safety, rig.teleop)


def _sdl_teleop(run: RunConfig) -> Stage:
    from syvla.drivers.joystick import Joystick

    return teleop_stage(run, Joystick(run.rig.teleop.controller))


def _recorder(run: RunConfig, folder: RunFolder) -> Stage:
    return RecorderStage(folder.recordings, run)


def _build(name: str, run: RunConfig, folder: RunFolder) -> Stage:
    """One stage of a run on the bus."""
    builders: dict[str, Callable[[], Stage]] = {
        "twin": lambda: _twin(run),
        "cameras": lambda: _twin_cameras(run, policy_cameras(run) or CAMERAS),  # rendering is dear: what is looked at
        "planner": lambda: _planner_stage(run, CAMERAS),
        "expert": lambda: _expert_stage(run),
        "robot": lambda: _piper_robot(run),
        "recorder": lambda: _recorder(run, folder),
        "teleop": lambda: _sdl_teleop(run),
    }
    if name not in builders:
        raise ConfigError(f"no stage {name!r}; there are {', '.join(builders)}")
    return builders[name]()


# ---------------------------------------------------------------- the bus host


def open_bus(run: RunConfig, name: str, reads: Sequence[str], lossless: bool = False) -> tuple[Inlet, Outlet]:
    """The two ends of the bus for the process ``name``: what it reads from whom, and where it publishes."""

    def address(stage: str) -> str:
        return f"ipc://{run.bus_folder}/{stage}"

    modes: dict[bool, Mode] = {True: "lossless", False: "latest"}
    rows = [topic(row) for row in dict.fromkeys(reads)]
    subscriptions = [
        Subscription(row.name, address(row.writer), modes[lossless or row.every]) for row in rows if row.writer != name
    ]
    return Inlet(subscriptions), Outlet(name, (address(name),), monotonic_ns())


def bus_ends(run: RunConfig, stage: Stage) -> tuple[Incoming, Outgoing]:
    """The bus for all that ``stage`` reads and writes."""
    return open_bus(run, stage.name, stage.reads, stage.lossless)


def run_stage(name: str, path: Path, parent_pid: int, ends: Ends = bus_ends) -> None:
    """Be the process of stage ``name`` of the run in ``path`` until it is told to stop, or ``parent_pid`` dies.

    ``ends`` opens what the process reads from and publishes to.
    """
    folder = RunFolder(path)
    run = folder.load()
    stop_with_parent(parent_pid)
    realtime = ask_realtime(name, run.rig.realtime)
    stage_host(name, run, folder, realtime, ends).run()


def stage_host(name: str, run: RunConfig, folder: RunFolder, realtime: str, ends: Ends = bus_ends) -> ProcessHost:
    """Stage ``name`` of a run, with its devices or models, ready to be served in this process."""
    stage = _build(name, run, folder)
    inlet, outlet = ends(run, stage)
    latency_s = {"planner": run.policy.planner_latency_s, "expert": run.policy.expert_latency_s}.get(name, 0.0)
    return ProcessHost(
        stage, inlet, outlet, realtime, latency_s, frozen=name in FROZEN, linger_s=LINGER_S.get(name, 0.0)
    )


def ask_realtime(name: str, config: RealtimeConfig) -> str:
    """The robot stage runs in real time; the twin, being the physical world, comes next, then a person's hand.

    The recorder gives way to everybody.
    """
    if name == "robot":
        return go_realtime(config)
    if name == "twin":
        priority = max(0, config.fifo_priority - TWIN_BELOW_ROBOT)
        return go_realtime(RealtimeConfig(fifo_priority=priority, lock_memory=False))
    if name == "teleop":
        priority = max(0, config.fifo_priority - TELEOP_BELOW_ROBOT)
        return go_realtime(RealtimeConfig(fifo_priority=priority, lock_memory=False))
    if name == "recorder":  # on nobody's path
        os.nice(RECORDER_NICE)
        return f"SCHED_OTHER, nice {RECORDER_NICE}"
    return "SCHED_OTHER"


# ---------------------------------------------------------------- the lockstep host


def lockstep_host(run: RunConfig, extra: Sequence[Stage] = (), cameras: Sequence[str] = ()) -> LockstepHost:
    """Every stage on one fresh twin under the virtual clock; ``extra`` stages (director, recorder) come last.

    The ``cameras`` and those that the planner looks at are rendered. A model gets one thread, so that what it
    computes does not depend on the machine's number of cores.
    """
    from syvla.sim.tasks import ALL_TASKS
    from syvla.sim.twin_arm import TwinArm
    from syvla.sim.world import TwinWorld

    world = TwinWorld(run.rig, ALL_TASKS)
    unknown = [name for name in cameras if name not in CAMERAS]
    if unknown:
        raise ConfigError(f"no camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
    seen = tuple(dict.fromkeys((*cameras, *policy_cameras(run))))
    stages: list[Stage] = [
        TwinStage(world, (), TWIN_PERIOD_NS),
        _robot_stage(run, {arm: TwinArm(arm, world.plant(arm)) for arm in ARMS}),
        *([_twin_cameras(run, seen)] if seen else []),
        _planner_stage(run, seen, threads=1),
        _expert_stage(run, threads=1),
        *extra,
    ]
    return LockstepHost(stages, {"planner": run.policy.planner_latency_s, "expert": run.policy.expert_latency_s})
