"""The composition root: joins drivers, twin and models with the stages, for the bus host and for lockstep."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from syvla.allocator import keep_freed_memory
from syvla.clock import monotonic_ns
from syvla.config import RealtimeConfig, RemotePlannerConfig, RunConfig
from syvla.control.kinematics import Base, arm_distance_m
from syvla.errors import ConfigError
from syvla.extras import check_learn, check_realsense
from syvla.hosts.linked import LinkedInlet, LinkedOutlet
from syvla.hosts.lockstep import LockstepHost
from syvla.hosts.process import ProcessHost, stop_with_parent
from syvla.hosts.realtime import go_realtime
from syvla.messages import ARMS, ArmName, Observation, Task
from syvla.policies import policy_cameras, policy_folder, policy_model_id
from syvla.protocols import ArmDriver, CameraSource, Expert, Gamepad, Guide, Incoming, Outgoing, Planner, Stage
from syvla.recording.mcap_read import Recording
from syvla.recording.stepped import Stepped
from syvla.runs import RunFolder, link_keys
from syvla.stages.blank import BlankedPlanner
from syvla.stages.cameras import CamerasStage
from syvla.stages.expert import ExpertStage
from syvla.stages.observer import Delivered, Observer
from syvla.stages.planner import PlannerStage
from syvla.stages.playback import PlaybackStage
from syvla.stages.recorded_actions import load_actions
from syvla.stages.recorded_models import RecordedExpert, RecordedPlanner
from syvla.stages.recorder import RecorderStage
from syvla.stages.remote_planner import RemotePlannerStage
from syvla.stages.robot import RobotStage
from syvla.stages.teleop import PERIOD_NS as TELEOP_PERIOD_NS
from syvla.stages.teleop import TeleopStage
from syvla.stages.twin import TwinStage
from syvla.topics import CAMERAS, topic
from syvla.transport.bus import Inlet, Mode, Outlet, Subscription
from syvla.transport.keys import PlannerKeys
from syvla.transport.planner_end import PlannerEnd
from syvla.transport.robot_end import RobotEnd

if TYPE_CHECKING:
    from syvla.sim.reference import ReferencePlanner
    from syvla.sim.world import TwinWorld

TWIN_PERIOD_NS = 5_000_000
TWIN_BELOW_ROBOT = 20  # of FIFO priority
RECORDER_NICE = 10
REALSENSE_POLL_HZ = 200.0  # a frame waits 5 ms at most
FROZEN = ("robot", "twin", "teleop")  # make no reference cycles, so that they need no collector
LINGER_S = {"twin": 1.0, "recorder": 0.7}  # after the supervisor's death: the robot needs up to 0.2 s to stand
TELEOP_BELOW_ROBOT = 30  # of FIFO priority: a takeover is not to wait for a busy machine


def _planner_stage(run: RunConfig, cameras: Sequence[str], threads: int | None = None) -> PlannerStage:
    """``cameras`` are those that a planner without views of its own waits for."""
    return PlannerStage(_planner(run, threads), Observer(policy_cameras(run) or cameras), run.policy)


def _remote_planner_stage(run: RunConfig, remote: RemotePlannerConfig) -> RemotePlannerStage:
    """What stands in the planner's place on this machine."""
    observer = Observer(policy_cameras(run) or CAMERAS)
    return RemotePlannerStage(observer, run.policy, remote.jpeg_quality, truth=run.policy_name == "reference")


def _planner(run: RunConfig, threads: int | None) -> Planner:
    planner: Planner = _reference_planner(run) if run.policy_name == "reference" else _learned_planner(run, threads)
    if run.takeover:
        from syvla.sim.takeover import TakeoverPlanner

        planner = TakeoverPlanner(planner, _reference_planner(run))
    if run.blank != "none":
        planner = BlankedPlanner(planner, run.blank)
    return planner


def _reference_planner(run: RunConfig) -> "ReferencePlanner":
    from syvla.sim.reference import ReferencePlanner
    from syvla.sim.tasks import ALL_TASKS

    return ReferencePlanner(run.rig, ALL_TASKS, run.astray_m, run.misses)


def _learned_planner(run: RunConfig, threads: int | None) -> Planner:
    from syvla_models.learned_planner import LearnedPlanner

    return LearnedPlanner(Path(run.policy_name), threads)


def _playback_stage(run: RunConfig) -> PlaybackStage:
    """Recorded actions in the expert's place; on a robot they move only while a controller's deadman is held."""
    actions = load_actions(Recording(Path(run.playback)), run.rig)

    def controller() -> Gamepad:
        from syvla.drivers.joystick import Joystick

        return Joystick(run.rig.teleop.controller)

    return PlaybackStage(actions, run.rig, run.policy, None if run.rig.kind == "twin" else controller)


def _expert_stage(run: RunConfig, threads: int | None = None) -> ExpertStage:
    expert: Expert = _reference_expert(run) if run.policy_name == "reference" else _learned_expert(run, threads)
    if run.takeover:
        from syvla.sim.reference import MODEL_ID
        from syvla.sim.takeover import TakeoverExpert

        expert = TakeoverExpert(expert, _reference_expert(run), MODEL_ID)
    return ExpertStage(expert, run.rig.intent, run.policy)


def bench_expert(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """What ``syvla bench expert`` measures."""
    check_learn()
    from syvla_models.backends.bench import bench

    return bench(repeats, quick)


def bench_planner(seen: Sequence[tuple[Observation, Task]]) -> tuple[dict[str, Any], list[str]]:
    """What ``syvla bench planner`` measures: the planner that ships, on what was seen in an episode."""
    check_learn()
    from syvla_models.planner_bench import bench

    return bench(policy_folder("learned"), seen)


def _reference_expert(run: RunConfig) -> Expert:
    from syvla.sim.reference import ReferenceExpert

    return ReferenceExpert(run.rig, run.policy)


def _learned_expert(run: RunConfig, threads: int | None) -> Expert:
    from syvla_models.learned_expert import LearnedExpert

    return LearnedExpert(Path(run.policy_name), run.rig, threads, run.backend, run.policy.continuity)


def robot_stage(run: RunConfig, arms: Mapping[ArmName, ArmDriver]) -> RobotStage:
    """The robot stage over the drivers of both arms, which it opens."""
    for driver in arms.values():
        driver.open()
    distance = functools.partial(arm_distance_m, left=Base.of(run.rig.left), right=Base.of(run.rig.right))
    distance(np.zeros(6), np.zeros(6))  # numpy's first product allocates for 80 ms in locked memory: not in the loop
    return RobotStage(arms, run.rig, distance)


def _piper_robot(run: RunConfig) -> Stage:
    from syvla.drivers.piper import PiperArm

    return robot_stage(run, {"left": PiperArm("left", run.rig.left), "right": PiperArm("right", run.rig.right)})


def _twin(run: RunConfig) -> Stage:
    from syvla.drivers.piper_emulator import PiperEmulator
    from syvla.sim.tasks import ALL_TASKS
    from syvla.sim.world import TwinWorld

    world = TwinWorld(run.rig, ALL_TASKS)
    channels = (run.rig.left.can_channel, run.rig.right.can_channel)
    emulators = [PiperEmulator(arm, world.plant(arm), channel) for arm, channel in zip(ARMS, channels, strict=True)]
    return TwinStage(world, emulators, TWIN_PERIOD_NS)


def _cameras(run: RunConfig) -> Stage:
    """The cameras of a run on the bus."""
    if run.rig.kind == "twin":
        return _twin_cameras(run, policy_cameras(run) or CAMERAS)  # rendering is dear: only what is looked at
    check_realsense()
    from syvla.drivers.realsense import RealSenseCameras, usb_devices

    cameras = RealSenseCameras(run.rig.cameras, usb_devices())
    cameras.open()
    here = tuple(run.rig.cameras.serials)
    return CamerasStage(cameras, run.rig.cameras, here, policy_cameras(run) or here, poll_hz=REALSENSE_POLL_HZ)


def _twin_cameras(run: RunConfig, cameras: Sequence[str], in_process: bool = False) -> Stage:
    """Rendered cameras; unless they are wanted ``in_process`` or the rig says otherwise, under the vendor's SDK."""
    from syvla.sim.cameras import TwinCameras
    from syvla.sim.tasks import ALL_TASKS

    pictures = TwinCameras(run.rig, ALL_TASKS, cameras)
    source: CameraSource = pictures
    if not in_process and run.rig.cameras.source == "realsense":
        source = _under_realsense(run, pictures, cameras)
    return CamerasStage(source, run.rig.cameras, cameras, policy_cameras(run) or cameras, follower=pictures)


def _under_realsense(run: RunConfig, pictures: CameraSource, cameras: Sequence[str]) -> CameraSource:
    check_realsense()
    from syvla.drivers.realsense import RealSenseCameras
    from syvla.drivers.realsense_emulator import EmulatedCameras, RealSenseEmulator

    emulator = RealSenseEmulator(cameras, run.rig.cameras)
    driver = RealSenseCameras(msgspec.structs.replace(run.rig.cameras, serials=emulator.serials), emulator.connected)
    driver.open()
    return EmulatedCameras(pictures, emulator, driver)


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
    return RecorderStage(folder.recordings, run, {"model_id": policy_model_id(run)})


def build_stage(name: str, run: RunConfig, folder: RunFolder) -> Stage:
    """One stage of a run on the bus."""
    builders: dict[str, Callable[[], Stage]] = {
        "twin": lambda: _twin(run),
        "cameras": lambda: _cameras(run),
        "planner": lambda: (
            _planner_stage(run, CAMERAS)
            if run.remote_planner is None
            else _remote_planner_stage(run, run.remote_planner)
        ),
        "expert": lambda: _playback_stage(run) if run.playback else _expert_stage(run),
        "robot": lambda: _piper_robot(run),
        "recorder": lambda: _recorder(run, folder),
        "teleop": lambda: _sdl_teleop(run),
    }
    if name not in builders:
        raise ConfigError(f"no stage {name!r}; there are {', '.join(builders)}")
    return builders[name]()


def replayed_stage(name: str, run: RunConfig, arms: Mapping[ArmName, ArmDriver]) -> Stage:
    """A stage of a recorded run, to be run again, with as many threads as it had; ``arms`` are the robot's.

    ConfigError for a part of the reference policy: it plans by the twin's truth, and its plans are not recorded.
    """
    if name == "robot":
        return robot_stage(run, arms)
    if run.policy_name == "reference":
        raise ConfigError(f"the {name} of the reference policy cannot be run again: it follows the twin's truth")
    threads = None if run.bus_folder else 1
    return _planner_stage(run, CAMERAS, threads) if name == "planner" else _expert_stage(run, threads)


def recorded_models(name: str, run: RunConfig, cameras: Sequence[str], showing: Sequence[Stepped]) -> Stage:
    """The planner or expert stage of a recorded run, whose model says in each step what it said in ``showing[0]``."""
    if name == "planner":
        return PlannerStage(RecordedPlanner(showing), Observer(cameras), run.policy)
    return ExpertStage(RecordedExpert(showing), run.rig.intent, run.policy)


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


def run_stage(name: str, path: Path, parent_pid: int) -> None:
    """Be the process of stage ``name`` of the run in ``path`` until it is told to stop, or ``parent_pid`` dies."""
    folder = RunFolder(path)
    run = folder.load()
    stop_with_parent(parent_pid)
    realtime = ask_realtime(name, run.rig.realtime)
    bus_host(name, run, folder, realtime).run()


def bus_host(name: str, run: RunConfig, folder: RunFolder, realtime: str) -> ProcessHost:
    """Stage ``name`` of a run, with its devices or models, on the bus; ready when this returns."""
    stage = build_stage(name, run, folder)
    inlet, outlet = open_bus(run, name, stage.reads, stage.lossless)
    return stage_host(name, run, stage, inlet, outlet, realtime)


def stage_host(
    name: str, run: RunConfig, stage: Stage, inlet: Incoming, outlet: Outgoing, realtime: str
) -> ProcessHost:
    """The host of a stage of a run in this process; ``realtime`` says what :func:`ask_realtime` was granted."""
    latency_s = {"planner": run.policy.planner_latency_s, "expert": run.policy.expert_latency_s}.get(name, 0.0)
    if name == "planner" and run.remote_planner is not None:
        link = RobotEnd(run.remote_planner.address, monotonic_ns(), link_keys(run.remote_planner))
        inlet, outlet, latency_s = LinkedInlet(inlet, link), LinkedOutlet(outlet, link), 0.0
    return ProcessHost(
        stage, inlet, outlet, realtime, latency_s, frozen=name in FROZEN, linger_s=LINGER_S.get(name, 0.0)
    )


def planner_host(run: RunConfig, address: str, keys: PlannerKeys | None) -> ProcessHost:
    """The run's planner by itself, for a robot that connects to ``address``; ready when this returns."""
    stage = PlannerStage(_planner(run, None), Delivered(policy_cameras(run)), run.policy)
    end = PlannerEnd(address, monotonic_ns(), keys)
    return ProcessHost(stage, end, end, "SCHED_OTHER", run.policy.planner_latency_s)


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
        keep_freed_memory()  # of images, a hundred in a second
        return f"SCHED_OTHER, nice {RECORDER_NICE}"
    return "SCHED_OTHER"


# ---------------------------------------------------------------- the lockstep host


_NOTHING: Mapping[str, Callable[[Stage], Stage]] = {}


def twin_world(run: RunConfig) -> "TwinWorld":
    """A twin with an empty table, for :func:`lockstep_host`."""
    from syvla.sim.tasks import ALL_TASKS
    from syvla.sim.world import TwinWorld

    return TwinWorld(run.rig, ALL_TASKS)


def lockstep_host(
    run: RunConfig,
    extra: Sequence[Stage] = (),
    cameras: Sequence[str] = (),
    expert: Expert | None = None,
    world: "TwinWorld | None" = None,
    arrange: Mapping[str, Callable[[Stage], Stage]] = _NOTHING,
) -> LockstepHost:
    """Every stage on one fresh twin under the virtual clock; ``extra`` stages (director, recorder) come last.

    The ``cameras`` and those that the planner looks at are rendered. ``expert`` stands in the place of the run's own,
    and ``world``, which nothing has happened in yet, in that of a fresh twin; ``arrange`` puts something else in the
    place of a stage, by its name. A model gets one thread, so that what it computes does not depend on the number of
    cores.
    """
    from syvla.sim.twin_arm import TwinArm

    world = twin_world(run) if world is None else world
    unknown = [name for name in cameras if name not in CAMERAS]
    if unknown:
        raise ConfigError(f"no camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
    seen = tuple(dict.fromkeys((*cameras, *policy_cameras(run))))
    stages: list[Stage] = [
        TwinStage(world, (), TWIN_PERIOD_NS),
        robot_stage(run, {arm: TwinArm(arm, world.plant(arm)) for arm in ARMS}),
        *([_twin_cameras(run, seen, in_process=True)] if seen else []),
        _planner_stage(run, seen, threads=1),
        _expert_stage(run, threads=1) if expert is None else ExpertStage(expert, run.rig.intent, run.policy),
        *extra,
    ]
    stages = [arrange[stage.name](stage) if stage.name in arrange else stage for stage in stages]
    return LockstepHost(stages, {"planner": run.policy.planner_latency_s, "expert": run.policy.expert_latency_s})
