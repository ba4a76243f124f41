"""Commands that run the loop on the twin, or a part of it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import tyro
from tyro.conf import Positional

from syvla.commands.shared import Json, Policy, Tasks, at_least_one, check_writable, ended_by_ctrl_c, write_json
from syvla.control.gamepad import CONTROLS
from syvla.errors import ConfigError
from syvla.topics import CAMERAS

if TYPE_CHECKING:
    from syvla.apps.director import Outcome

Joystick = Annotated[
    bool,
    tyro.conf.arg(
        help="let a person take over with a game controller while the policy runs. "
        + "; ".join(f"{control.strip()}: {does}" for control, does in CONTROLS)
    ),
]

_UNATTENDED_S, _ATTENDED_S = 60.0, 600.0  # an episode's time; a person may want to try things
_DEMONSTRATION_S = 90.0  # what is not done by then will not be


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
            compiled (by torch), cuda_graph, onnxruntime, openvino, openvino_bf16, tensorrt, tensorrt_rtx.
        runs: the folder in which the run's folder is made.
    """
    with ended_by_ctrl_c():
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
            compiled (by torch), cuda_graph, onnxruntime, openvino, openvino_bf16, tensorrt, tensorrt_rtx.
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
    check_writable(json, "syvla eval")
    at_least_one("episodes", episodes)
    at_least_one("jobs", jobs)
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
    write_json(
        json,
        "syvla eval",
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
    at_least_one("episodes", episodes)
    plan = [
        Episode(name, split, seed, f"{name}-{split}-{seed}", _DEMONSTRATION_S)
        for name in names
        for seed in range(first_seed, first_seed + episodes)
    ]
    at_least_one("jobs", jobs)
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

    at_least_one("count", count)
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
