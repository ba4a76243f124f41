"""The state of a training run on disk: everything that going on from it needs, and nothing to execute.

``state/state.safetensors`` has the tensors (trained weights, moments, averages), ``state/state.json`` the numbers.
Both are replaced together, so that a crash at any moment leaves one whole state.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from syvla.errors import ConfigError
from syvla_models.spec import ActionSpec
from syvla_models.train.config import TrainConfig

STATE_FOLDER = "state"
CHECKPOINT_FOLDER = "checkpoint"
_TENSORS, _NUMBERS = "state.safetensors", "state.json"
# What may change when a run goes on: a longer budget, other prints, fewer threads.
_MAY_CHANGE = ("budget", "output", "threads")


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a run is."""

    step: int
    seconds: float  # of training, over all its sittings
    config: TrainConfig
    action: ActionSpec | None = None  # what actions are normalised by; None in a state from before that was kept


def save_state(out: Path, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace the state in ``out``."""

    def write(folder: Path) -> None:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / _TENSORS)
        (folder / _NUMBERS).write_bytes(msgspec.json.format(msgspec.json.encode(progress), indent=2) + b"\n")

    replace_folder(out / STATE_FOLDER, write)


def load_state(out: Path, config: TrainConfig) -> tuple[Progress, dict[str, torch.Tensor]]:
    """The state in ``out``; ConfigError if there is none, or if it is of a run with other settings."""
    folder = whole_folder(out / STATE_FOLDER)
    try:
        progress = msgspec.json.decode((folder / _NUMBERS).read_bytes(), type=Progress)
        tensors = load_file(folder / _TENSORS)
    except FileNotFoundError as error:
        raise ConfigError(f"{out}: there is no run to resume ({error.filename} is missing)") from error
    except (OSError, msgspec.MsgspecError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{folder}: {error}") from error
    for field in TrainConfig.__struct_fields__:
        if field not in _MAY_CHANGE and getattr(progress.config, field) != getattr(config, field):
            raise ConfigError(
                f"{out}: this run began with another {field!r}; only {', '.join(_MAY_CHANGE)} may change on resuming"
            )
    return progress, tensors


def restore(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Copy ``tensors[prefix + name]`` into ``targets[name]``; ConfigError names what is missing or misshapen."""
    with torch.no_grad():
        for name, target in targets.items():
            source = tensors.get(prefix + name)
            if source is None or source.shape != target.shape:
                found = "nothing" if source is None else tuple(source.shape)
                raise ConfigError(f"the saved state has {found} for {prefix}{name}, not {tuple(target.shape)}")
            target.copy_(source)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace ``path`` by what ``write`` writes to another name."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Replace ``folder`` by what ``write`` puts into a new one; :func:`whole_folder` finds it at any moment."""
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    whole_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """``folder``, put back if a crash between the two renames of a replacement took it away."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder
