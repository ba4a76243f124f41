"""The director's node: runs episodes on the twin as an operator would, and says how they went."""

import json

from rclpy.node import Node

from syvla.apps.director import Director, Episode, Outcome
from syvla.hosts.process import ProcessHost
from syvla.proportion import wilson
from syvla.runs import RunFolder
from syvla_ros.ends import Desk
from syvla_ros.node import serve_node

SUMMARY = "episodes.json"
PERIOD_S = 0.2


def run_director(folder: RunFolder, task: str, split: str, first_seed: int, episodes: int) -> int:
    """Direct ``episodes`` of the run in ``folder``; 0 if every one of them ran.

    The outcomes are printed as they come and written into the run's folder.
    """
    seeds = range(first_seed, first_seed + episodes)
    director = Director([Episode(task, split, seed, f"{task}-{split}-{seed}") for seed in seeds])
    told = 0

    def tell() -> None:
        nonlocal told
        for outcome in director.outcomes[told:]:
            told += 1
            print(f"[{told}/{episodes}] {outcome.words}", flush=True)

    def watch(node: Node, host: ProcessHost) -> None:
        def look() -> None:
            tell()
            if director.finished:
                host.request_stop()

        node.create_timer(PERIOD_S, look)

    serve_node("director", folder, lambda run, node: director, Desk(), watch)
    tell()
    return _summarise(folder, director.outcomes)


def _summarise(folder: RunFolder, outcomes: list[Outcome]) -> int:
    done = sum(outcome.success for outcome in outcomes)
    low, high = wilson(done, len(outcomes))
    print(f"done {done} of {len(outcomes)}, 95 % interval {low:.1%} to {high:.1%}", flush=True)
    rows = [{**outcome._asdict(), "episode": outcome.episode._asdict()} for outcome in outcomes]
    (folder.path / SUMMARY).write_text(json.dumps({"done": done, "interval": [low, high], "episodes": rows}, indent=2))
    return 0 if all(outcome.ran for outcome in outcomes) else 1
