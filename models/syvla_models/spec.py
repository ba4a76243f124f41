"""What a checkpoint says about itself: ``syvla.json``, beside the weights.

A checkpoint folder is a Qwen2.5-VL folder (``config.json``, ``tokenizer.json``, ``model*.safetensors``) with three
more files: ``syvla.json`` (this), ``planner.safetensors`` (the feature query tokens) and ``expert.safetensors`` (the
adapter and the action expert).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from syvla.digest import file_sha256
from syvla.errors import ConfigError
from syvla.messages import FEATURE_QUERIES

SPEC_FILE, EXPERT_FILE = "syvla.json", "expert.safetensors"
HEADS_FILE = "heads.safetensors"  # what only training needs; no part of a policy
SLOTS = 32  # width of the unified action tensor, see syvla_models.actions
ActionSpaceName = Literal["joint", "end_effector"]
Think = Literal["always", "every_s", "on_change"]
ThinkingType = Literal["float32", "bfloat16", "float16"]
Table = tuple[tuple[float, ...], ...]  # rows of numbers
T = TypeVar("T")
_DIGESTED = {".safetensors", ".json", ".jinja"}  # of a checkpoint's files
# How a policy is run, which may be changed in ``syvla.json``. All else of it is what the weights were made for.
_CHANGEABLE = {
    "planner.max_thought_tokens",
    "planner.think",
    "planner.think_every_s",
    "planner.gpu_dtype",
    "action.euler_steps",
    "action.noise_scale",
    "action.execution_horizon_s",
    "action.surprise_threshold",
}


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a table in ``syvla.json``."""


class CameraView(Section, frozen=True):
    """One image that the planner sees: a part of a camera's image, resized.

    ``crop`` is (top, left, bottom, right) as fractions of the camera's image; ``height`` and ``width`` are pixels and
    multiples of the vision tower's patch size times its merge size.
    """

    camera: str
    height: int
    width: int
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        top, left, bottom, right = self.crop
        if not (0.0 <= top < bottom <= 1.0 and 0.0 <= left < right <= 1.0):
            raise ValueError(
                f"crop must be (top, left, bottom, right) with 0 <= top < bottom <= 1 and 0 <= left < right <= 1, "
                f"not {self.crop}"
            )
        if not (1 <= self.height <= 4096 and 1 <= self.width <= 4096):
            raise ValueError(f"height and width must be 1..4096 pixels, not {self.height}x{self.width}")


class PlannerSpec(Section, frozen=True):
    """The slow system."""

    views: tuple[CameraView, ...]
    hidden_size: int  # D, of the language model
    feature_queries: int = FEATURE_QUERIES
    system_prompt: str = ""  # "": no system turn
    instruction_first: bool = False  # the instruction before the images in the user's turn, instead of after them
    hands_told: bool = False  # how far the hands are open is said behind the instruction, see ``prompt.with_hands``
    max_thought_tokens: int = 96
    think: Think = "always"
    think_every_s: float = 1.0
    gpu_dtype: ThinkingType | None = None  # what it thinks in on a GPU; None: the type of its weights

    def __post_init__(self) -> None:
        if not 1 <= self.feature_queries <= 1024:
            raise ValueError(f"feature_queries must be 1..1024, not {self.feature_queries}")
        if not 1 <= self.max_thought_tokens <= 4096:
            raise ValueError(f"max_thought_tokens must be 1..4096, not {self.max_thought_tokens}")
        if not 0.0 <= self.think_every_s <= 3600.0:
            raise ValueError(f"think_every_s must be 0..3600, not {self.think_every_s}")


class ExpertConfig(Section, frozen=True):
    """The fast system's size. ``tiny`` drives the twin, ``base`` (about 300 M) the robot."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    adapter_width: int = 0  # hidden width of the adapter MLP; 0: the same as ``width``
    intent_width: int = 0  # D of the feature query states; filled in from the planner's hidden size
    queries: int = FEATURE_QUERIES  # how many of them there are
    horizon: int = 50
    rows_per_token: int = 1  # of a chunk; a divisor of ``horizon``
    slots: int = SLOTS
    aimed: bool = False  # told in numbers how far the hands are from where the intent acts, see ``expert.Aim``
    aimed_in_hand: bool = False  # along the hand's own axes, as ``end_effector`` actions are, instead of the base's


class ActionSpec(Section, frozen=True):
    """How actions are represented; ``offset`` and ``scale`` (H, slots) normalise a live slot to mean 0, deviation 1.

    Each row of a chunk has numbers of its own, since the first is close to what was measured and the last is far. A
    single row (1, slots) stands for all. ``state_offset`` and ``state_scale`` (slots,) do the same for the measured
    state, which fills every slot.
    """

    space: ActionSpaceName
    offset: Table
    scale: Table
    period_s: float = 1 / 30
    euler_steps: int = 10
    state_offset: tuple[float, ...] = (0.0,) * SLOTS
    state_scale: tuple[float, ...] = (1.0,) * SLOTS
    max_prefix: int = 15  # rows of committed actions that may be given clean
    noise_scale: float = 1.0  # of what a chunk is denoised from; below 1 chunks are less varied, at 0 all the same
    execution_horizon_s: float = 0.0  # how long what was decided is executed; 0: until the next chunk is there
    # By which share of their norm two successive intents' query states differ where something moved all of a sudden,
    # which ends the execution horizon. Of ``syvla-tiny`` 70 ms apart they differed by less than 0.032 nine times of
    # ten; a thing moved by 6 cm made 0.075, and another thought 0.2 and more.
    surprise_threshold: float = 0.05

    def __post_init__(self) -> None:
        if not 0.001 <= self.period_s <= 1.0:
            raise ValueError(f"period_s must be 0.001..1, not {self.period_s}")
        if not 1 <= self.euler_steps <= 100:
            raise ValueError(f"euler_steps must be 1..100, not {self.euler_steps}")
        if self.max_prefix < 0:
            raise ValueError(f"max_prefix must be at least 0, not {self.max_prefix}")
        if not 0.0 <= self.execution_horizon_s <= self.max_prefix * self.period_s:
            longest_s = self.max_prefix * self.period_s
            raise ValueError(f"execution_horizon_s must be 0..{longest_s:.3f} (max_prefix rows)")
        if not 0.0 <= self.noise_scale <= 1.0:
            raise ValueError(f"noise_scale must be 0..1, not {self.noise_scale}")
        if not 0.0 < self.surprise_threshold < math.inf:
            raise ValueError(f"surprise_threshold must be above 0, not {self.surprise_threshold}")
        for name, rows in (
            ("offset", self.offset),
            ("scale", self.scale),
            ("state_offset", (self.state_offset,)),
            ("state_scale", (self.state_scale,)),
        ):
            counts = {len(row) for row in rows}
            if counts != {SLOTS}:
                raise ValueError(f"{name} must have rows of {SLOTS} numbers, not of {sorted(counts)}")
            if not all(math.isfinite(number) for row in rows for number in row):
                raise ValueError(f"{name} must have finite numbers")
        if len(self.offset) != len(self.scale):
            raise ValueError(f"offset has {len(self.offset)} rows, scale has {len(self.scale)}: they must be as many")
        if min(map(min, self.scale)) <= 0.0 or min(self.state_scale) <= 0.0:
            raise ValueError("scales must be positive")


class PolicySpec(Section, frozen=True):
    """A whole checkpoint.

    ``sha256`` has the hex digest of every file, by name; ``model_id`` is made from those of the weights. ``made_for``
    has, by name, a digest of each setting that the weights cannot do without: whatever else an expert with two heads
    for four would load and act.
    """

    name: str
    planner: PlannerSpec
    expert: ExpertConfig
    action: ActionSpec
    rig: str = "twin"
    sha256: dict[str, str] = {}
    made_for: dict[str, str] = {}

    def __post_init__(self) -> None:
        rows, horizon = len(self.action.scale), self.expert.horizon
        if rows not in (1, horizon):
            raise ValueError(f"action.scale must have 1 row or expert.horizon's {horizon}, not {rows}")
        if self.action.max_prefix > horizon:
            raise ValueError(f"action.max_prefix must be 0..{horizon} (expert.horizon), not {self.action.max_prefix}")

    @property
    def model_id(self) -> str:
        """``name@`` and 12 digits of the digest of the weights' digests; every intent carries it."""
        weights = {name for name in self.sha256 if name.endswith(".safetensors")} - {HEADS_FILE}
        joined = "\n".join(f"{name} {self.sha256[name]}" for name in sorted(weights))
        return f"{self.name}@{hashlib.sha256(joined.encode()).hexdigest()[:12]}"


def load_spec(folder: Path) -> PolicySpec:
    """What ``folder`` says about itself; reads no weights.

    ConfigError names what cannot be, and a setting that is not the one that the weights were made for.
    """
    path = folder / SPEC_FILE
    spec = load_json(path, PolicySpec)
    for name, digest in _settings(spec).items():
        if name not in spec.made_for:
            raise ConfigError(f"{path}: made_for has no entry for {name}")
        if spec.made_for[name] != digest:
            raise ConfigError(f"{path}: {name} is not what the weights were made for (made_for says otherwise)")
    return spec


def save_spec(folder: Path, spec: PolicySpec) -> PolicySpec:
    """Write ``syvla.json`` for the files that are in ``folder``; the spec as written, with their digests."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _DIGESTED and path.name != SPEC_FILE)
    sha256 = {name: file_sha256(folder / name) for name in names}
    written = msgspec.structs.replace(spec, sha256=sha256, made_for=_settings(spec))
    save_json(folder / SPEC_FILE, written)
    return written


def _settings(spec: PolicySpec) -> dict[str, str]:
    """A digest of every setting that weights are made for, by name."""
    return {
        f"{section}.{field}": hashlib.sha256(msgspec.json.encode(getattr(part, field))).hexdigest()[:12]
        for section, part in (("planner", spec.planner), ("expert", spec.expert), ("action", spec.action))
        for field in part.__struct_fields__
        if f"{section}.{field}" not in _CHANGEABLE
    }


def verify(folder: Path, sha256: Mapping[str, str], names: Iterable[str], said_by: str = SPEC_FILE) -> None:
    """ConfigError naming the file unless each of ``names`` in ``folder`` is what ``sha256`` of ``said_by`` says."""
    for name in names:
        expected = sha256.get(name)
        if expected is None:
            raise ConfigError(f"{folder}: sha256 in {said_by} has no entry for {name}; it has {sorted(sha256)}")
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is missing")
        found = file_sha256(folder / name)
        if found != expected:
            raise ConfigError(f"{folder / name} has sha256 {found[:12]}..., {said_by} says {expected[:12]}...")


def load_json(path: Path, kind: type[T]) -> T:
    """Decode the JSON file at ``path`` as ``kind``; ConfigError names the file, the key and what was expected."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def save_json(path: Path, value: msgspec.Struct) -> None:
    """Write ``value``, indented."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
