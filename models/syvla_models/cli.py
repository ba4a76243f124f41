"""The ``syvla-train`` command: records what a policy learns from, trains it stage by stage, and measures it."""

import functools
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from syvla.commands.shared import Json, check_writable, write_json
from syvla.commands.twin import demonstrate, scenes
from syvla.errors import ConfigError, SyvlaError

if TYPE_CHECKING:
    from syvla.config import RigConfig
    from syvla_models.train.config import TrainConfig
    from syvla_models.train.trainer import Act

TRIED_SEED = 9_500  # neither evaluated nor trained on
JOBS = 2
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "matplotlib", "av", "mujoco")
Changes = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="'KEY = VALUE'"), tyro.conf.UseAppendAction]


def see(config: Path, out: Path, resume: bool = False, changes: Changes = ()) -> int:
    """Teach a small planner to see: questions about the table, and where things are.

    Args:
        config: a training file of the stage ``see``.
        out: the folder for the checkpoint, the log and the state from which a run is resumed.
        resume: go on with the run in ``out``.
        changes: a line of TOML that changes the file, such as 'loss.decoupling = false'; may be given several times.
    """
    return _train("see", config, out, resume, changes)


def pretrain(config: Path, out: Path, resume: bool = False, changes: Changes = ()) -> int:
    """Pre-train planner and expert on robot data mixed with questions and answers.

    Args:
        config: a training file of the stage ``pretrain``.
        out: the folder for the checkpoint, the log and the state from which a run is resumed.
        resume: go on with the run in ``out``.
        changes: a line of TOML that changes the file, such as 'loss.decoupling = false'; may be given several times.
    """
    return _train("pretrain", config, out, resume, changes)


def finetune(config: Path, out: Path, resume: bool = False, changes: Changes = ()) -> int:
    """Fine-tune planner and expert on demonstrations of the tasks, with their chains of thought.

    Args:
        config: a training file of the stage ``finetune``.
        out: the folder for the checkpoint, the log and the state from which a run is resumed.
        resume: go on with the run in ``out``.
        changes: a line of TOML that changes the file, such as 'loss.decoupling = false'; may be given several times.
    """
    return _train("finetune", config, out, resume, changes)


def validate(config: Path, checkpoint: Path) -> int:
    """Check a checkpoint's hashes and print its losses on the validation part of every source.

    Args:
        config: the training file that names the sources.
        checkpoint: a checkpoint folder.
    """
    from syvla.config import load_toml
    from syvla.runs import load_rig
    from syvla_models.train.config import TrainConfig

    loaded = load_toml(config, TrainConfig)
    from syvla_models.train.trainer import validate_checkpoint

    for name, value in validate_checkpoint(loaded, load_rig(loaded.rig), checkpoint).items():
        print(f"{name:48s} {value:.4f}")
    return 0


def vqa(checkpoint: Positional[Path], scenes: Positional[Path], count: int = 1000, json: Json = None) -> int:
    """Ask a checkpoint's planner about pictures, and print how often its own words are the answer, by kind of question.

    Args:
        checkpoint: a checkpoint folder.
        scenes: a folder of record-scenes that it was not trained on.
        count: how many questions at most.
        json: also write the result to this file.
    """
    check_writable(json, "syvla-train vqa")
    from syvla_models.vqa import accuracy, table

    found = accuracy(checkpoint, scenes, count, lambda line: print(f"\r{line}", end="", flush=True))
    print("\n" + table(found))
    write_json(json, "syvla-train vqa", {"kinds": [row._asdict() for row in found]})
    return 0


def describe(checkpoint: Path | None = None, size: Literal["tiny", "base", "3b"] = "3b") -> int:
    """Print parameter counts, the memory they take and the KV cache of a token.

    Args:
        checkpoint: a checkpoint folder, or a bare Qwen2.5-VL folder; without it a size by name is described.
        size: the twin's policy, the robot's expert alone, or the robot's policy.
    """
    from syvla_models.describe import describe as by_size
    from syvla_models.describe import describe_checkpoint, table

    print(table(by_size(size) if checkpoint is None else describe_checkpoint(checkpoint)))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "see": see,
    "pretrain": pretrain,
    "finetune": finetune,
    "record-demos": demonstrate,
    "record-scenes": scenes,
    "validate": validate,
    "vqa": vqa,
    "describe": describe,
}


def _train(
    stage: Literal["see", "pretrain", "finetune"], config: Path, out: Path, resume: bool, changes: Changes
) -> int:
    from syvla.runs import load_rig
    from syvla_models.train.config import load_config

    loaded = load_config(config, stage, changes)
    rig = load_rig(loaded.rig)
    from syvla.allocator import keep_freed_memory
    from syvla_models.train.trainer import train  # late: a misspelt key is answered before torch is imported

    keep_freed_memory()
    return 0 if train(loaded, rig, out, resume=resume, act=_acting(loaded, rig)) else 130


def _acting(config: "TrainConfig", rig: "RigConfig") -> "Act | None":
    """What makes a checkpoint act as ``syvla eval`` does, if episodes are asked for; ConfigError if it cannot."""
    output = config.output
    if not output.episodes:
        return None
    from syvla.apps.director import Episode
    from syvla.apps.evaluate import run_lockstep
    from syvla.apps.parallel import in_order
    from syvla.runs import EXPERT_LATENCY_S, PLANNER_LATENCY_S, chosen_tasks, lockstep_run

    if rig.kind != "twin":
        raise ConfigError(f"output.episodes are acted on a twin; rig {rig.name!r} is a {rig.kind}")
    tasks = chosen_tasks(output.episode_tasks, ("id",))
    seeds = range(TRIED_SEED, TRIED_SEED + output.episodes)
    episodes = [Episode(task, "id", seed, f"{task}-{seed}") for task in tasks for seed in seeds]

    def act(folder: Path) -> Generator[tuple[str, bool]]:
        run = lockstep_run(config.rig, PLANNER_LATENCY_S, EXPERT_LATENCY_S, str(folder))
        for outcome, _ in in_order(functools.partial(run_lockstep, run), episodes, JOBS):
            yield outcome.episode.task, outcome.success

    return act


def main() -> None:
    """Entry point: 0 done, 2 bad input, 130 interrupted (training has then saved its state)."""
    try:
        status = tyro.extras.subcommand_cli_from_dict(COMMANDS, description=__doc__)
    except SyvlaError as error:
        print(f"syvla-train: {error}", file=sys.stderr)
        status = 2
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        print(f"syvla-train: {error.name} is missing; training needs: pip install 'syvla[learn]'", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:  # outside the training loop, which saves its state and ends by itself
        print("syvla-train: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
