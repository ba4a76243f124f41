"""Policies by name, and what a checkpoint says about itself; this needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from syvla.config import RunConfig, shipped_folder
from syvla.errors import ConfigError
from syvla.extras import check_learn

if TYPE_CHECKING:
    from syvla_models.spec import PolicySpec

POLICIES = ("reference", "learned")
LEARNED = "syvla-tiny"  # the checkpoint that ships


def shipped_checkpoint() -> Path:
    """The folder of the checkpoint that ships, whether it is there or not."""
    return shipped_folder("models/checkpoints", "_checkpoints") / LEARNED


def policy_folder(name: str) -> Path:
    """The folder of the checkpoint that ``name`` means; ConfigError if it holds none."""
    folder = shipped_checkpoint() if name == "learned" else Path(name)
    if not (folder / "syvla.json").is_file():
        choices = f"there are {', '.join(POLICIES)}, or give the folder of a checkpoint"
        if folder.is_dir() or name == "learned":
            raise ConfigError(f"policy {name!r}: {folder} holds no checkpoint (no syvla.json); {choices}")
        raise ConfigError(f"no policy {name!r}; {choices}")
    return folder.resolve()


def find_policy(name: str) -> str:
    """``reference``, or the folder of the checkpoint that ``name`` means; ConfigError if there is none."""
    return name if name == "reference" else str(policy_folder(name))


def recorded_policy(name: str, model_id: str) -> str:
    """Where the checkpoint ``model_id`` of a recorded run is: where it was then, ``name``, or among those that ship.

    ConfigError if it is neither.
    """
    if name == "reference":
        return name
    for folder in (Path(name), shipped_checkpoint()):
        if (folder / "syvla.json").is_file() and policy_label(folder).model_id == model_id:
            return str(folder.resolve())
    raise ConfigError(
        f"it was recorded with {model_id}, which is not in {name} and does not ship; copy it there, or say with which "
        "policy else the episode is to be run again"
    )


def find_backend(policy_name: str, asked: str, thinks: bool) -> str:
    """What computes the chunks of the policy that :func:`find_policy` found.

    ConfigError if the policy cannot be run here: torch is needed where it ``thinks``, or where torch makes the chunks.
    """
    if policy_name == "reference":
        return "eager"
    from syvla_models.backends.choice import EAGER, choose

    backend = choose(Path(policy_name), asked)
    if thinks or backend == EAGER:
        check_learn()
    return backend


def best_backend(folder: Path) -> str:
    """What would compute the chunks of the checkpoint in ``folder`` here; ConfigError if its export is not whole."""
    from syvla_models.backends.choice import AUTO, choose

    return choose(folder, AUTO)


def default_policy() -> str:
    """``learned`` where the checkpoint that ships is here, else ``reference``."""
    return "learned" if shipped_checkpoint().is_dir() else "reference"


class PolicyLabel(NamedTuple):
    """What a checkpoint says about itself: its model_id, the rig it was made for, the sha256 of what it acts with."""

    model_id: str
    rig: str
    sha256: Mapping[str, str]


def policy_label(folder: Path) -> PolicyLabel:
    """The label of a checkpoint's folder; ConfigError if it cannot be read. Needs no torch."""
    from syvla_models.spec import HEADS_FILE

    spec = _read_spec(folder)
    acting = {name: digest for name, digest in spec.sha256.items() if name != HEADS_FILE}
    return PolicyLabel(spec.model_id, spec.rig, acting)


def policy_cameras(run: RunConfig) -> tuple[str, ...]:
    """The cameras that the planner cannot do without: those of a learned planner's views."""
    spec = _spec(run)
    return () if spec is None else tuple(dict.fromkeys(view.camera for view in spec.planner.views))


def policy_model_id(run: RunConfig) -> str:
    """What every intent of the run's planner carries."""
    spec = _spec(run)
    return "reference" if spec is None else spec.model_id


def _spec(run: RunConfig) -> "PolicySpec | None":
    """What the checkpoint of a learned policy says about itself; this needs no torch."""
    return None if run.policy_name == "reference" else _read_spec(Path(run.policy_name))


def _read_spec(folder: Path) -> "PolicySpec":
    from syvla_models.spec import load_spec

    return load_spec(folder)
