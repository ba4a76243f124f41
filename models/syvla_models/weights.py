"""Weight files: safetensors only, and refusals that name the tensor."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from syvla.errors import ConfigError


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``tensors`` to ``path``."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def check_tensors(path: Path) -> None:
    """ConfigError unless ``path`` is whole; reads only what it says of itself."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of ``path``, by name; ConfigError if it cannot be read."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return tensors


def load_tensors(path: Path, into: Mapping[str, torch.Tensor]) -> None:
    """Copy the tensors of ``path`` into those of the same names; ConfigError names what does not fit.

    Names and shapes must agree exactly; numbers are converted to the dtype and device of the target.
    """
    found = read_tensors(path)
    refuse(path, missing=into.keys() - found.keys(), unexpected=found.keys() - into.keys())
    shapes = {name: (tuple(found[name].shape), tuple(into[name].shape)) for name in into}
    refuse(path, mismatched={name: pair for name, pair in shapes.items() if pair[0] != pair[1]})
    with torch.no_grad():
        for name, target in into.items():
            target.copy_(found[name])


def refuse(
    path: Path,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Mapping[str, tuple[object, object]] | None = None,
) -> None:
    """ConfigError if there is anything to refuse. ``mismatched`` has (found, expected) shapes by name."""
    if names := sorted(missing):
        raise ConfigError(f"{path}: missing tensor {_first(names)}")
    if names := sorted(unexpected):
        raise ConfigError(f"{path}: unexpected tensor {_first(names)}")
    if mismatched:
        name, (found, expected) = min(mismatched.items())
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise ConfigError(f"{path}: tensor {name} has shape {found}, expected {expected}{more}")


def _first(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
