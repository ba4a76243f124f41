"""The ``syvla`` command."""

import contextlib
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import tyro
from tyro.conf import Positional

from syvla.control.gamepad import CONTROLS
from syvla.errors import ConfigError, SyvlaError
from syvla.topics import CAMERAS

if TYPE_CHECKING:
    from syvla.apps.director import Outcome

Json = Annotated[Path | None, tyro.conf.arg(help="also write the result to this file")]
Joystick = Annotated[
    bool,
    tyro.conf.arg(
        help="let a person take over with a game controller while the policy runs. "
        + "; ".join(f"{control.strip()}: {does}" for control, does in CONTROLS)
    ),
]
Policy = Annotated[str, tyro.conf.arg(metavar="reference|learned|FOLDER")]
Tasks = tuple[str, ...]


_UNATTENDED_S, _ATTENDED_S = 60.0, 600.0  # an episode's time; a person may want to try things


def demo(
    tasks: Tasks = (),
    split: str = "id",
    seed: int = 0,
    policy: Policy | None = None,
    rig: str = "twin",
    planner_latency: float | None = None,
    expert_latency: float | None = None,
    preempt_after: float = 0.0,
    planner: str | None = None,
    keys: Path | None = None,
    jpeg: int = 90,
    joystick: Joystick = False,
    backend: str = "auto",
    runs: Path = Path("runs"),
) -> int:
    """Run the whole loop on the twin at real time: one episode of each task, with a live panel and a report.

    Args:
        tasks: the tasks to run; all of them if none is named.
        split: in-distribution or one of the out-of-distribution splits.
        seed: lays the table and words the instruction.
        policy: reference, learned, or the folder of a checkpoint; learned by default where that checkpoint is here.
        rig: a shipped rig, or the path of a rig file.
        planner_latency: how long the slow system takes to think [s]; 0 is its own time. By default 0 for a learned
            policy and 0.3 for the reference, which has nothing to compute.
        expert_latency: how long the fast system takes for a chunk [s]; by default 0 or 0.03.
        preempt_after: how long a thought goes on [s] before a newer observation ends it, though never two in a row; 0:
            to its end.
        planner: tcp://host:port where `syvla planner` runs the same policy; the slow system is not started here then.
        keys: the folder of keys for it (`syvla keys`); needed unless it is on this machine.
        jpeg: quality of the images that it is sent, 1 to 95; 0 sends them raw.
        joystick: let a person take over with a game controller while the policy runs.
        backend: what computes a learned policy's chunks: auto (the fastest that syvla-export accepted), eager (torch),
            onnxruntime, openvino.
        runs: the folder in which the run's folder is made.
    """
    with _ended_by_ctrl_c():
        from rich.console import Console

        from syvla.apps.demo import demo as run_demo
        from syvla.apps.director import Episode
        from syvla.config import RemotePlannerConfig
        from syvla.policies import default_policy
        from syvla.runs import RunFolder, chosen_tasks, load_rig, realtime_run

    if not 0 <= jpeg <= 95:
        raise ConfigError(f"jpeg must be 1 to 95, or 0 for raw images, not {jpeg}")
    if keys is not None and planner is None:
        raise ConfigError("keys are for a planner on another machine: give --planner tcp://host:port too")
    if planner is not None and planner_latency is not None:
        raise ConfigError("planner-latency is that of a planner here; 'syvla planner' has its own --latency")
    if planner is not None and preempt_after:
        raise ConfigError("preempt-after is for a planner here: the one elsewhere thinks to the end")
    remote = planner and RemotePlannerConfig(
        address=planner, keys_folder=str(keys.resolve()) if keys else "", jpeg_quality=jpeg
    )
    names = chosen_tasks(tasks, (split,))
    policy = policy or default_policy()
    planner_s, expert_s = (0.3, 0.03) if policy == "reference" else (0.0, 0.0)
    planner_s = planner_s if planner_latency is None else planner_latency
    expert_s = expert_s if expert_latency is None else expert_latency
    kind = load_rig(rig).kind
    if kind != "twin":
        raise ConfigError(f"rig {rig!r} is a {kind}; a demo lays the table itself, which only a twin's can be")
    run = realtime_run(
        rig, planner_s, expert_s, policy, remote or None, joystick, backend, preempt_after_s=preempt_after
    )
    folder = RunFolder.create(runs, "demo")
    limit_s = _ATTENDED_S if joystick else _UNATTENDED_S
    episodes = [Episode(task, split, seed, f"{task}-{split}-{seed}", limit_s) for task in names]
    return run_demo(run, episodes, folder, Console())


def evaluate(
    task: Tasks = (),
    split: Tasks = ("id",),
    policy: Policy = "reference",
    episodes: int = 20,
    first_seed: int = 0,
    rig: str = "twin",
    planner_latency: float = 0.3,
    expert_latency: float = 0.03,
    preempt_after: float = 0.0,
    blank: Literal["none", "instruction", "images"] = "none",
    backend: str = "auto",
    continuity: Literal["prefix", "guided", "ensemble", "replace"] = "prefix",
    jobs: int = 1,
    json: Json = None,
) -> int:
    """Measure success on the twin in lockstep, by task and split, with Wilson intervals.

    Args:
        task: the tasks; all of them if none is named.
        split: the splits; several may be named.
        policy: reference, learned, or the folder of a checkpoint.
        episodes: episodes of each task and split.
        first_seed: the first seed; episode i has seed first_seed + i.
        rig: a shipped rig, or the path of a rig file.
        planner_latency: how long the slow system takes to think [s].
        expert_latency: how long the fast system takes for a chunk [s].
        preempt_after: how long a thought goes on [s] before a newer observation ends it, though never two in a row; 0:
            to its end.
        blank: keep the instruction or the images from the planner, to see whether they are used.
        backend: what computes a learned policy's chunks: auto (the fastest that syvla-export accepted), eager (torch),
            onnxruntime, openvino.
        continuity: how a learned policy's chunk goes on from the one that is being executed.
        jobs: how many episodes run at a time, each in a process of its own.
        json: also write the result to this file.
    """
    from syvla.apps.director import Episode
    from syvla.apps.evaluate import evaluate as run_evaluation
    from syvla.apps.evaluate import rates
    from syvla.policies import policy_model_id
    from syvla.runs import chosen_tasks, lockstep_run

    run = lockstep_run(rig, planner_latency, expert_latency, policy, blank, backend, continuity, preempt_after)
    names = chosen_tasks(task, split)
    _check_writable(json)
    _at_least_one("episodes", episodes)
    _at_least_one("jobs", jobs)
    plan = [
        Episode(name, part, seed, f"{name}-{part}-{seed}")
        for name in names
        for part in split
        for seed in range(first_seed, first_seed + episodes)
    ]
    started_s = time.perf_counter()
    count = 0

    def progress(outcome: "Outcome", wall_s: float) -> None:
        nonlocal count
        count += 1
        left_s = (time.perf_counter() - started_s) / count * (len(plan) - count)
        speed = outcome.duration_s / wall_s
        print(f"[{count}/{len(plan)}, {left_s:.0f} s left] {outcome.words} ({speed:.0f}x real time)", flush=True)

    outcomes = run_evaluation(run, plan, progress, jobs)
    table = rates(outcomes)
    computed_by = "" if policy == "reference" else f" ({run.backend})"
    print(
        f"\npolicy {policy}{computed_by}, planner latency {planner_latency:g} s, expert latency {expert_latency:g} s"
        f"{'' if blank == 'none' else f', without {blank}'}"
    )
    for row in table:
        print(
            f"  {row.task:16s} {row.split:14s} {row.successes:4d}/{row.episodes:<4d} {row.rate:6.1%}"
            f"  95 % interval {row.low:.1%} to {row.high:.1%}   mean {row.mean_duration_s or 0.0:.1f} s"
        )
    _write_json(
        json,
        {
            "policy": policy,
            "backend": run.backend,
            "continuity": continuity,
            "model_id": policy_model_id(run),
            "blank": blank,
            "planner_latency_s": planner_latency,
            "planner_preempt_after_s": preempt_after,
            "expert_latency_s": expert_latency,
            "rates": [{**row._asdict(), "rate": row.rate} for row in table],
            "episodes": [{**o._asdict(), "episode": o.episode._asdict()} for o in outcomes],
        },
    )
    return 0


_DEMONSTRATION_S = 90.0  # what is not done by then will not be


def demonstrate(
    out: Positional[Path],
    task: Tasks = (),
    split: str = "id",
    episodes: int = 10,
    first_seed: int = 0,
    rig: str = "twin",
    cameras: tuple[str, ...] = CAMERAS,
    astray: float = 0.0,
    misses: float = 0.0,
    wordings: int = 0,
    learner: Path | None = None,
    jobs: int = 1,
) -> int:
    """Record demonstrations: the scripted demonstrator on the twin, one MCAP for each episode.

    Args:
        out: the folder for the recordings; an episode that has a recording there is not run again.
        task: the tasks; all of them if none is named.
        split: the split to draw from.
        episodes: episodes of each task.
        first_seed: the first seed.
        rig: a shipped rig, or the path of a rig file.
        cameras: the cameras that are rendered and recorded; fewer are faster, none may be named.
        astray: how far beside each thing the hand first comes (standard deviation of x and of y) [m]; it puts that
            right on its way down, so that a learner sees how. 0 to 0.05.
        misses: how often the hand first closes on nothing beside a thing, and tries again. 0 to 1.
        wordings: also write so many other wordings of each instruction into wordings.json, to train with (`reworded`
            of a source). 0 to 1000.
        learner: the folder of a checkpoint that acts in turn with the demonstrator, which shows how to go on from
            where that got. What the learner does itself is recorded, but no training takes it for a demonstration.
        jobs: how many episodes are run at a time, each in a process of its own.
    """
    from syvla.apps.demonstrate import demonstrate as record
    from syvla.apps.demonstrate import missing, write_wordings
    from syvla.apps.director import Episode
    from syvla.runs import chosen_tasks, lockstep_run

    if not 0.0 <= astray <= 0.05:
        raise ConfigError(f"astray must be 0 to 0.05 m, not {astray}")
    if not 0.0 <= misses <= 1.0:
        raise ConfigError(f"misses must be 0 to 1, not {misses}")
    if not 0 <= wordings <= 1000:
        raise ConfigError(f"wordings must be 0 to 1000, not {wordings}")
    if learner is None:
        run = lockstep_run(rig, 0.0, 0.0, "reference")
    elif str(learner) == "reference":
        raise ConfigError("learner must be learned or the folder of a checkpoint: the reference has nothing to learn")
    else:  # with the latencies that it is evaluated with: they are a part of how it goes wrong
        run = msgspec.structs.replace(lockstep_run(rig, 0.3, 0.03, str(learner)), takeover=True)
    run = msgspec.structs.replace(run, astray_m=astray, misses=misses)
    names = chosen_tasks(task, (split,))
    _at_least_one("episodes", episodes)
    plan = [
        Episode(name, split, seed, f"{name}-{split}-{seed}", _DEMONSTRATION_S)
        for name in names
        for seed in range(first_seed, first_seed + episodes)
    ]
    _at_least_one("jobs", jobs)
    todo = missing(plan, out)
    if len(todo) < len(plan):
        print(f"{len(plan) - len(todo)} of {len(plan)} are in {out} already")
    failed = 0
    for i, outcome in enumerate(record(run, todo, out, cameras, jobs), 1):
        failed += not outcome.success
        print(f"[{i}/{len(todo)}] {outcome.words}", flush=True)
    print(f"{len(todo) - failed} of {len(todo)} demonstrations recorded in {out}")
    if wordings:
        print(f"{wordings} other wordings of each instruction in {write_wordings(plan, out, wordings)}")
    return 0 if failed == 0 else 1


def scenes(
    out: Positional[Path],
    count: int = 1000,
    seed: int = 0,
    questions_per_image: int = 4,
    policy: Policy = "",
    rig: str = "twin",
) -> int:
    """Draw pictures of the twin's table, with questions and answers about them.

    Args:
        out: the folder to make; an existing one is never touched.
        count: how many pictures.
        seed: the first seed; picture i shows the random table of seed + i. With a policy, of its first episodes.
        policy: show what this policy comes upon in episodes of the tasks, instead of random tables.
        questions_per_image: questions about each picture, 1 to 12.
        rig: a shipped rig, or the path of a rig file.
    """
    from syvla.apps.scenes import random_tables, visited_tables, write_scenes
    from syvla.runs import chosen_tasks, load_rig, lockstep_run

    _at_least_one("count", count)
    if not 0 <= seed <= 2**62:
        raise ConfigError(f"seed must be 0 to 2**62, not {seed}")
    if not 1 <= questions_per_image <= 12:
        raise ConfigError(f"questions-per-image must be 1 to 12, not {questions_per_image}")
    started_s = time.perf_counter()
    if policy:
        shown = visited_tables(lockstep_run(rig, 0.3, 0.03, policy), chosen_tasks((), ("id",)), seed)
    else:
        shown = random_tables(load_rig(rig), seed)
    for done in write_scenes(load_rig(rig), out, shown, count, seed, questions_per_image):
        if done % 100 == 0 or done == count:
            left_s = (time.perf_counter() - started_s) / done * (count - done)
            print(f"\r[{done}/{count}, {left_s:.0f} s left]", end="\n" if done == count else "", flush=True)
    print(f"{count} pictures in {out}")
    return 0


def planner(
    policy: Policy | None = None,
    bind: str = "tcp://127.0.0.1:5570",
    keys: Path | None = None,
    latency: float | None = None,
    rig: str = "twin",
) -> int:
    """Run the slow system by itself, for a robot on another machine; Ctrl-C ends it.

    Args:
        policy: reference, learned, or the folder of a checkpoint; learned by default where that checkpoint is here.
        bind: tcp://address:port to listen at; other machines reach it only where there are keys.
        keys: the folder of keys (`syvla keys`): its own pair, and in allowed/ the robots that may connect.
        latency: how long it takes to think [s], where no model takes the time; 0.3 for the reference, else 0.
        rig: the rig of a reference policy.
    """
    with _ended_by_ctrl_c():
        from syvla.apps.planner import serve_planner
        from syvla.policies import default_policy
        from syvla.runs import lockstep_run

    policy = policy or default_policy()
    latency_s = latency if latency is not None else 0.3 if policy == "reference" else 0.0
    serve_planner(lockstep_run(rig, latency_s, 0.0, policy), bind, keys, functools.partial(print, flush=True))
    return 0


def keys(folder: Positional[Path]) -> int:
    """Make a pair of keys for the link between a robot and its planner, and show the public ones.

    Args:
        folder: where they are kept; keys that are there already are shown, never replaced.
    """
    from syvla.apps.planner import show_keys

    show_keys(folder, print)
    return 0


def bench(name: Positional[str], json: Json = None, repeats: int = 0, quick: bool = False) -> int:
    """Run one benchmark and say whether it reached its target (exit status 1 if not).

    Args:
        name: transport, link, loop, lockstep, takeover, demonstrator, closed-loop, cameras, recorder, expert, planner,
            reaction or seams.
        json: also write the result to this file.
        repeats: how often to measure; 0 for the benchmark's own number.
        quick: a short run, to see that it works; its figures mean little.
    """
    from syvla.bench import BENCHMARKS

    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    _check_writable(json)
    result, lines = BENCHMARKS[name](repeats or None, quick)
    print("conditions: " + ", ".join(f"{key} {value}" for key, value in result["conditions"].items()))
    for line in lines:
        print(line)
    _write_json(json, result)
    return 0 if result["reached"] else 1


def doctor(
    rig: str = "twin",
    policy: Policy | None = None,
    runs: Path = Path("runs"),
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of the table")] = False,
) -> int:
    """Say whether this machine is ready for a rig, and how to mend what is not (exit status 1 if it is not).

    It looks and listens, and changes nothing: no bus is brought up, no arm is sent anything.

    Args:
        rig: a shipped rig, or the path of a rig file.
        policy: reference, learned, or the folder of a checkpoint; learned by default where that checkpoint is here.
        runs: the folder for runs: its disk is looked at.
        json: print one JSON object instead of the table.
    """
    from syvla.apps.doctor import doctor as examine
    from syvla.apps.machine import this_machine
    from syvla.policies import default_policy, policy_folder
    from syvla.runs import load_rig

    config = load_rig(rig)
    if policy not in (None, "reference"):
        policy_folder(policy)
    return examine(this_machine(), config, policy or default_policy(), runs, json)


def setup_can(
    rig: str = "cobot_magic",
    left: str = "",
    right: str = "",
    identify: bool = False,
    udev: bool = False,
    run: bool = False,
) -> int:
    """Print the commands that name the arms' CAN interfaces and bring them up, by the USB ports they are on.

    Without --left and --right, the ports are those of the interfaces that have the rig's names already. Do not run
    the commands while the arms are enabled: an interface that they change is down for a moment.

    Args:
        rig: whose interfaces, by its can_channel; a shipped rig, or the path of a rig file.
        left: USB path of the left arm's adapter, such as 1-2:1.0.
        right: USB path of the right arm's adapter.
        identify: find out which is which, by unplugging the left one.
        udev: print a udev rule instead, which keeps the names from then on.
        run: run the commands; this needs root.
    """
    from syvla.apps.machine import this_machine
    from syvla.apps.setup_can import setup_can as set_up
    from syvla.runs import load_rig

    return set_up(this_machine(), load_rig(rig), left, right, identify=identify, udev=udev, run=run)


def find_can() -> int:
    """List the CAN interfaces with their USB paths and serial numbers (exit status 1 if there is none)."""
    from syvla.apps.setup_can import described
    from syvla.drivers.can_links import can_links

    links = can_links()
    print("\n".join(described(links)))
    return 0 if links else 1


def find_cameras() -> int:
    """List the RealSense cameras by serial number (exit status 1 if there is none)."""
    from syvla.apps.doctor_devices import connected_cameras
    from syvla.apps.machine import this_machine

    found = connected_cameras(this_machine())
    if isinstance(found, str):
        print(f"the cameras cannot be listed: {found}")
        return 1
    for camera in found:
        print(f"{camera.serial_number}  {camera.name}, USB {camera.usb_type or '?'}, firmware {camera.firmware or '?'}")
    if not found:
        print("none: plug the cameras in; syvla doctor says whether the SDK may open them")
    return 0 if found else 1


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

    _at_least_one("episodes", len(episodes))
    _at_least_one("jobs", jobs)
    return run_check(episodes, strict, json, html, jobs, Console())


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

    episode = Recording(recording)
    results = verify(episode, stages or exact_stages(episode), functools.partial(print, flush=True))
    _write_json(json, [each._asdict() for each in results])
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
    """Play the recorded joint commands again, on the twin.

    They pass the safety gate like a policy's. The start is approached at 0.25 rad/s at most; what would begin further
    than 0.6 rad from where the arms stand is refused. A robot is refused as yet.

    Args:
        recording: an MCAP file.
        rig: a shipped rig, or the path of a rig file.
        speed: 0.1 to 1 of the recorded speed.
        runs: the folder in which the run's folder is made.
    """
    from syvla.apps.replay_actions import play_actions

    return play_actions(recording, rig, speed, runs, functools.partial(print, flush=True))


Replay = (
    Annotated[int, tyro.conf.subcommand(name="verify", constructor=replay_verify)]
    | Annotated[int, tyro.conf.subcommand(name="policy", constructor=replay_policy)]
    | Annotated[int, tyro.conf.subcommand(name="actions", constructor=replay_actions)]
)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
def replay(how: Replay) -> int:
    """Run a recorded episode again: as it was, as it would have been, or its actions on the arms."""
    return how


def stage(name: Positional[str], folder: Positional[Path], parent: Positional[int]) -> int:
    """Run one stage of a run as this process; the demo starts these.

    Args:
        name: the stage.
        folder: the run's folder.
        parent: the process id of the supervisor, with which this one ends.
    """
    from syvla.rig import run_stage

    run_stage(name, folder, parent)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "eval": evaluate,
    "demonstrate": demonstrate,
    "scenes": scenes,
    "bench": bench,
    "report": report,
    "check": check,
    "replay": replay,
    "doctor": doctor,
    "setup-can": setup_can,
    "find-can": find_can,
    "find-cameras": find_cameras,
    "planner": planner,
    "keys": keys,
    "stage": stage,
}


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}")


def _check_writable(path: Path | None) -> None:
    """Before the long work, not after it."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from error


def _write_json(path: Path | None, result: object) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=2, default=str) + "\n")
        print(f"written to {path}")


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once: there is nothing to clean up yet.

    While modules load, a KeyboardInterrupt may be raised where somebody else's code swallows it, and a run that was
    told to stop would begin.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Entry point: 0 done, 1 not reached, 2 bad input, 130 interrupted."""
    try:
        status = tyro.extras.subcommand_cli_from_dict(COMMANDS, description=__doc__)
    except SyvlaError as error:
        print(f"syvla: {error}", file=sys.stderr)
        status = 2
    except ModuleNotFoundError as error:
        from syvla.extras import SIM_PACKAGES

        if error.name not in SIM_PACKAGES:
            raise
        print(
            f"syvla: {error.name} is missing; the twin and the reports need: pip install 'syvla[sim]'", file=sys.stderr
        )
        status = 2
    except KeyboardInterrupt:  # outside a run, which holds the arms and ends by itself
        print("syvla: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
