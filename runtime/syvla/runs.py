"""Runs: the rig, tasks and configuration that one is made of, and the folder where it keeps what it wrote."""

import datetime
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from syvla.clock import wall_offset_ns
from syvla.config import (
    Blank,
    Continuity,
    PolicyConfig,
    RemotePlannerConfig,
    RigConfig,
    RunConfig,
    load_toml,
    shipped_folder,
)
from syvla.errors import ConfigError
from syvla.extras import check_realsense, check_teleop
from syvla.messages import ARMS
from syvla.policies import find_backend, find_policy
from syvla.transport.addresses import check_address
from syvla.transport.bus import ipc_directory
from syvla.transport.keys import RobotKeys, robot_keys

PLANNER_LATENCY_S, EXPERT_LATENCY_S = 0.3, 0.03  # with which policies are evaluated
STAGES = ("twin", "cameras", "planner", "expert", "robot", "recorder")


def rig_names() -> list[str]:
    """The rigs that ship."""
    return sorted(path.stem for path in shipped_folder("calibration/rigs", "_rigs").glob("*.toml"))


def load_rig(name: str) -> RigConfig:
    """A shipped rig by name, or a rig file by path."""
    path = Path(name)
    if path.suffix != ".toml":
        path = shipped_folder("calibration/rigs", "_rigs") / f"{name}.toml"
        if not path.is_file():
            raise ConfigError(f"no rig {name!r}; there are {', '.join(rig_names())}, or give the path of a .toml file")
    return load_toml(path, RigConfig)


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
    rig: str,
    planner_latency_s: float,
    expert_latency_s: float,
    policy: str,
    blank: Blank = "none",
    backend: str = "auto",
    continuity: Continuity = "prefix",
    preempt_after_s: float = 0.0,
) -> RunConfig:
    """The configuration of a run under the virtual clock."""
    if continuity == "guided" and backend == "auto":
        backend = "eager"  # it needs a gradient
    run = _run(load_rig(rig), planner_latency_s, expert_latency_s, policy, backend, preempt_after_s=preempt_after_s)
    return msgspec.structs.replace(joined(run, continuity), blank=blank)


def joined(run: RunConfig, continuity: Continuity) -> RunConfig:
    """The run with its chunks joined in this way."""
    rig = run.rig
    if continuity == "replace":  # nothing softens the seam but the gate
        rig = msgspec.structs.replace(rig, control=msgspec.structs.replace(rig.control, blend_s=0.0))
    return msgspec.structs.replace(run, rig=rig, policy=msgspec.structs.replace(run.policy, continuity=continuity))


def realtime_run(
    rig: str,
    planner_latency_s: float,
    expert_latency_s: float,
    policy: str = "reference",
    remote_planner: RemotePlannerConfig | None = None,
    joystick: bool = False,
    backend: str = "auto",
    playback: Path | None = None,
    preempt_after_s: float = 0.0,
) -> RunConfig:
    """The configuration of a run on the bus, with a twin's CAN channels and the sockets' folder chosen.

    With ``playback`` the actions of that recording are played; no policy runs, and no cameras.
    The address and the keys of a planner on another machine are checked here, before any process is started.
    """
    if remote_planner is not None:
        check_address(remote_planner.address, encrypted=link_keys(remote_planner) is not None)
    config = load_rig(rig)
    if joystick or (playback is not None and config.kind != "twin"):  # whose deadman is held
        check_teleop()
    if config.kind != "twin" and policy == "reference" and playback is None:
        raise ConfigError(f"policy 'reference' reads the twin's truth; rig {config.name!r} is a {config.kind}")
    if config.cameras.source == "realsense" and config.ros.cameras == "own" and playback is None:
        check_realsense()
    config = _with_simcan(config) if config.kind == "twin" else config
    thinks = remote_planner is None
    run = _run(config, planner_latency_s, expert_latency_s, policy, backend, thinks, preempt_after_s)
    folder = ipc_directory(f"{os.getpid():x}-{time.monotonic_ns():x}")
    return msgspec.structs.replace(
        run,
        bus_folder=str(folder),
        wall_offset_ns=wall_offset_ns(),
        remote_planner=remote_planner,
        joystick=joystick,
        playback="" if playback is None else str(playback.resolve()),
    )


def _with_simcan(config: RigConfig) -> RigConfig:
    """A twin on buses of its own."""
    from syvla.drivers.simcan import free_channels

    left, right = free_channels(*ARMS)
    return msgspec.structs.replace(
        config,
        left=msgspec.structs.replace(config.left, can_channel=left),
        right=msgspec.structs.replace(config.right, can_channel=right),
    )


def _run(
    rig: RigConfig,
    planner_latency_s: float,
    expert_latency_s: float,
    policy: str,
    backend: str,
    thinks: bool = True,
    preempt_after_s: float = 0.0,
) -> RunConfig:
    for name, value in (("planner latency", planner_latency_s), ("expert latency", expert_latency_s)):
        if not 0.0 <= value <= 10.0:
            raise ConfigError(f"{name} must be 0 to 10 s, not {value}")
    try:
        settings = PolicyConfig(
            planner_latency_s=planner_latency_s,
            expert_latency_s=expert_latency_s,
            planner_preempt_after_s=preempt_after_s,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    name = find_policy(policy)
    return RunConfig(rig=rig, policy=settings, policy_name=name, backend=find_backend(name, backend, thinks))


def link_keys(remote: RemotePlannerConfig) -> RobotKeys | None:
    """The keys of the link to a planner on another machine; None if it is not encrypted."""
    return robot_keys(Path(remote.keys_folder)) if remote.keys_folder else None


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
