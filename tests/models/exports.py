"""What tests of exported experts share."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from syvla.digest import file_sha256
from syvla_models.backends.exported import EXPORT_FILE, FOLDER, Export, Tried
from syvla_models.spec import load_json, save_json

CPU = ("onnxruntime", "openvino")


def acted_by(tried: dict[str, Tried]) -> dict[str, Tried]:
    """As if episodes had been run."""
    return {name: msgspec.structs.replace(each, episodes=1, same_success=True) for name, each in tried.items()}


def acted(export: Export) -> Export:
    return msgspec.structs.replace(export, tried=acted_by(export.tried))


def change(policy: Path, edit: Callable[[Export], Export]) -> None:
    """Change ``export.json``, with digests that fit."""
    path = policy / FOLDER
    export = edit(load_json(path / EXPORT_FILE, Export))
    sha256 = {name: file_sha256(path / name) for name in export.sha256}
    save_json(path / EXPORT_FILE, msgspec.structs.replace(export, sha256=sha256))
