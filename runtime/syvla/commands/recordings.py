"""Commands about recordings: reports, checks, replays."""

import functools
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tyro
from tyro.conf import Positional

from syvla.commands.shared import Json, Policy, Tasks, at_least_one, check_writable, write_json
from syvla.errors import ConfigError


def report(recording: Positional[Path], out: Path | None = None) -> int:
    """Make the summary, the timeline and the video of a recording.

    Args:
        recording: an MCAP file; also one that was cut short.
        out: the folder for the report; by default beside the recording.
    """
    from syvla.report.write import write_report

    for path in write_report(recording, out or recording.parent):
        print(path)
    return 0


def check(
    episodes: Positional[tuple[Path, ...]],
    strict: bool = False,
    json: Path | None = None,
    html: Path | None = None,
    jobs: int = 1,
) -> int:
    """Say what is wrong with recorded episodes, and what to do about it (exit status 1 if anything is).

    It looks for stamps that are missing, jump, run backwards or repeat, messages that were lost, rates, frozen and
    desynchronised cameras, joints at their limits, units, NaN, the task's text, and what devices and processes
    complained of. Nothing that is recorded is changed.

    Args:
        episodes: MCAP files, also ones that were cut short, and folders of them.
        strict: exit status 1 also if there are warnings only.
        json: also write the result to this file; -: print it, and no table.
        html: write one page about all of them to this file; by default each folder gets a check.html about its own.
        jobs: how many are checked at a time, each in a process of its own.
    """
    from rich.console import Console

    from syvla.apps.check import check as run_check

    at_least_one("episodes", len(episodes))
    at_least_one("jobs", jobs)
    return run_check(episodes, strict, json, html, jobs, Console())


def convert(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE... OUT")],
    to: Literal["lerobot", "aloha", "mcap"],
    source_format: Annotated[Literal["auto", "mcap", "lerobot", "aloha", "ros2"], tyro.conf.arg(name="from")] = "auto",
    fps: int | None = None,
    max_age: float = 0.25,
    instruction: str = "",
    outcome: Literal["success", "failure"] | None = None,
    jpeg: int = 90,
    camera: Tasks = (),
    profile: str = "piper_ros2",
    gripper_unit: float | None = None,
    swapped_colours: bool = False,
    rig: str | None = None,
) -> int:
    """Convert recordings: to and from LeRobotDataset v3 and ALOHA HDF5, and from ROS 2 bags (.db3 or .mcap) of others.

    What was interrupted goes on where it was when the same is asked for again. Every episode is read back and compared.
    An episode that cannot be read is refused with one line, the others are converted (exit status 2).

    Args:
        paths: what to convert: files, data sets, bags or folders of them; and last the folder to make.
        to: the format to make.
        source_format: the format of the sources; by default found by looking at each.
        fps: rows a second; by default what a data set has, else 30.
        max_age: an image, arm state or command older than this at a row refuses the episode [s].
        instruction: what was asked for, where a source does not say it.
        outcome: how the episodes ended, where a source does not say it.
        jpeg: quality of images that are made, 1 to 95; 0 keeps them raw (mcap, aloha). What is JPEG stays so.
        camera: which of a data set's or ALOHA episode's cameras is which, as cam_high=top; no others are taken then.
        profile: the names of a bag's topics: piper_ros2, cobot_magic_ros1_names or syvla.
        gripper_unit: what one unit of a source's grippers is [m]; by default that of the profile, metres elsewhere.
        swapped_colours: the images of an ALOHA episode have red and blue the other way round.
        rig: whose configuration recordings from elsewhere carry, to train on them; a shipped rig, or a file.
    """
    from rich.console import Console

    from syvla.convert.command import Writing
    from syvla.convert.command import convert as run
    from syvla.convert.found import Reading, checked_cameras
    from syvla.convert.rows import MAX_FPS, Grid

    if len(paths) < 2:
        raise ConfigError("give at least one source, and then the folder to make")
    if fps is not None and not 1 <= fps <= MAX_FPS:
        raise ConfigError(f"fps must be 1 to {MAX_FPS}, not {fps}")
    if not 0.001 <= max_age <= 10.0:
        raise ConfigError(f"max-age must be 0.001 to 10 s, not {max_age}")
    if not 0 <= jpeg <= 95:
        raise ConfigError(f"jpeg must be 1 to 95, or 0 for raw images, not {jpeg}")
    if gripper_unit is not None and not 1e-6 <= gripper_unit <= 10.0:
        raise ConfigError(f"gripper-unit must be 1e-6 to 10 m, not {gripper_unit}")
    reading = Reading(
        format=None if source_format == "auto" else source_format,
        cameras=checked_cameras(camera),
        profile=profile,
        gripper_unit_m=gripper_unit,
        swapped=swapped_colours,
    )
    grid = Grid(max_age_s=max_age, instruction=instruction)
    writing = Writing(to, grid, fps, outcome or "", jpeg, "" if rig is None else _configuration(rig))
    return run(paths[:-1], paths[-1], reading, writing, Console())


def _configuration(rig: str) -> str:
    """A run's configuration as recordings have it, of a rig and of nothing else."""
    from syvla.config import RunConfig
    from syvla.runs import load_rig

    run = RunConfig(rig=load_rig(rig), policy_name="unknown")
    return msgspec.json.format(msgspec.json.encode(run)).decode()


def replay_verify(recording: Positional[Path], stages: Tasks = (), json: Json = None) -> int:
    """Run stages of a recorded episode as they were: each must send what it sent, to the bit (exit status 1 if not).

    Each is given, step by step, what it was given. A planner sees the images as they were recorded, which is what it
    saw only where the rig records them raw (recorder.image_format); it is run again if it is named, or then.

    Args:
        recording: an MCAP file; also one that was cut short.
        stages: of planner, expert, robot; by default those that can be the same.
        json: also write the result to this file.
    """
    from syvla.apps.replay_verify import exact_stages, verify
    from syvla.recording.mcap_read import Recording

    check_writable(json, "syvla replay verify")
    episode = Recording(recording)
    results = verify(episode, stages or exact_stages(episode), functools.partial(print, flush=True))
    write_json(json, "syvla replay verify", {"stages": [each._asdict() for each in results]})
    return 0 if all(each.exact for each in results) else 1


def replay_policy(
    recording: Positional[Path],
    policy: Policy | None = None,
    backend: str | None = None,
    continuity: Literal["prefix", "guided", "ensemble", "replace"] | None = None,
    planner_latency: float | None = None,
    expert_latency: float | None = None,
    setting: Annotated[Tasks, tyro.conf.arg(name="set")] = (),
    at: float | None = None,
    out: Path | None = None,
) -> int:
    """Say what a recorded episode would have been with another policy, backend, latency, splice strategy or gate.

    The stages that this concerns run again from one instant on, on what was recorded of all others, each step when it
    was made or, where a latency is changed, under a virtual clock. The arms' feedback and the images stay as they were,
    whatever would have been commanded.

    Args:
        recording: an MCAP file; also one that was cut short.
        policy: learned, or the folder of another checkpoint.
        backend: what computes the chunks.
        continuity: how a chunk goes on from the one that is being executed.
        planner_latency: how long the planner takes to think [s]; by default the median of what it took.
        expert_latency: how long the expert takes for a chunk [s]; by default likewise.
        setting: settings of the rig's safety, intent or control, as intent.stale_policy=slow_down.
        at: from when on, in seconds since the recording began; by default as soon as possible.
        out: the folder for the figures and the picture; by default beside the recording.
    """
    from syvla.apps.replay_policy import Change, replay

    change = Change(policy, backend, continuity, planner_latency, expert_latency, setting)
    for line in replay(recording, change, at, out or recording.parent, functools.partial(print, flush=True)):
        print(line)
    return 0


def replay_actions(
    recording: Positional[Path], rig: str = "twin", speed: float = 1.0, runs: Path = Path("runs")
) -> int:
    """Play the recorded joint commands again, on the twin or, while a deadman is held, on the robot.

    They pass the safety gate like a policy's. The start is approached at 0.25 rad/s at most; what would begin further
    than 0.6 rad from where the arms stand is refused. On a robot it enables the arms.

    Args:
        recording: an MCAP file.
        rig: a shipped rig, or the path of a rig file.
        speed: 0.1 to 1 of the recorded speed.
        runs: the folder in which the run's folder is made.
    """
    from syvla.apps.replay_actions import play_actions

    return play_actions(recording, rig, speed, runs, functools.partial(print, flush=True))


def replay_view(
    recording: Positional[Path],
    out: Path | None = None,
    at: float = 0.0,
    seconds: float = 600.0,
    video_height: int = 240,
    rerun: Path | None = None,
) -> int:
    """Make one HTML file of a recording, to look into: timeline, thoughts beside the film, holds and their causes.

    It needs no network. On a time of day (14:03) or a second the page shows what was seen, thought and commanded then.

    Args:
        recording: an MCAP file; also one that was cut short.
        out: the folder for the page; by default beside the recording.
        at: from when on, in seconds since the recording began.
        seconds: how much of it is shown at most.
        video_height: of a camera's picture in the film [pixels]; 0: no film.
        rerun: instead of the page, write this file (.rrd) for the rerun viewer.
    """
    from syvla.apps.replay_view import to_rerun, view

    tell = functools.partial(print, flush=True)
    if rerun is not None:
        path = to_rerun(recording, rerun, at, seconds, tell)
    else:
        path = view(recording, out or recording.parent, at, seconds, video_height, tell)
    print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


Replay = (
    Annotated[int, tyro.conf.subcommand(name="verify", constructor=replay_verify)]
    | Annotated[int, tyro.conf.subcommand(name="policy", constructor=replay_policy)]
    | Annotated[int, tyro.conf.subcommand(name="actions", constructor=replay_actions)]
    | Annotated[int, tyro.conf.subcommand(name="view", constructor=replay_view)]
)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
def replay(how: Replay) -> int:
    """Look into a recorded episode, or run it again: as it was, as it would have been, or its actions on the arms."""
    return how
