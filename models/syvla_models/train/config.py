"""Every setting of a training stage. A stage is a TOML file that decodes into these; a misspelt key is an error.

Paths in a file are relative to the folder from which the command is run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from syvla.config import load_toml
from syvla.errors import ConfigError
from syvla_models.spec import ActionSpaceName, CameraView, ExpertConfig, Think

Stage = Literal["see", "pretrain", "finetune"]
SourceKind = Literal["demonstrations", "scenes"]
PERIOD_S = 1 / 30  # of the rows of a chunk
TINY_EXPERT = ExpertConfig(width=128, depth=4, heads=4, mlp_ratio=3.0, rows_per_token=10, aimed=True)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low:g}..{high:g}, not {value:g}")


def _named(value: str, field: str) -> None:
    if not value or not value.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{field} must be of letters, digits, - and _, not {value!r}")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a table in a training file."""


class SourceConfig(Section, frozen=True):
    """One source of samples. ``demonstrations`` are MCAP recordings; ``scenes`` are pictures with questions.

    ``paths`` are folders, files or patterns (``data/snack/*.mcap``). ``weight`` is its share of the rows of a batch,
    relative to the other sources. ``thought_probability`` is how often a demonstration's chain of thought is part of
    the sample, instead of the one in ``[data]``; at 0 the orders of pictures have none either. In the stage ``see``
    demonstrations give thoughts, but no actions. ``reworded`` is how often a demonstration's instruction is one of the
    ``wordings.json`` beside the recordings.
    """

    name: str
    kind: SourceKind
    paths: tuple[str, ...]
    weight: float
    thought_probability: float | None = None
    reworded: float = 0.0
    validation_share: float = 0.05  # of the recordings or pictures, at least one; never trained on

    def __post_init__(self) -> None:
        _named(self.name, "name")
        if not self.paths:
            raise ValueError("paths must name at least one file, folder or pattern")
        _within("weight", self.weight, 0.0, 1e6)
        _within("validation_share", self.validation_share, 0.0, 0.5)
        _within("reworded", self.reworded, 0.0, 1.0)
        if self.thought_probability is not None:
            _within("thought_probability", self.thought_probability, 0.0, 1.0)


class ModelConfig(Section, frozen=True):
    """What is built when there is nothing to begin from.

    A stage whose ``init`` is a SyVLA checkpoint takes its planner from there as it is, and its expert if that has the
    same action space and size, unless a ``fresh_expert`` is wanted. The planner's fields count for a fresh planner and
    for a bare Qwen2.5-VL folder; ``think`` counts for every one.
    """

    name: str = "syvla-tiny"
    expert: ExpertConfig = TINY_EXPERT
    fresh_expert: bool = False
    views: tuple[CameraView, ...] = ()  # what the planner sees; none: the table, as the tiny planner of the twin does
    system_prompt: str = ""
    instruction_first: bool = True
    hands_told: bool = False  # how far the hands are open is said behind the instruction
    max_thought_tokens: int = 96
    think: Think | None = None  # when it thinks anew, see ``LearnedPlanner``; None: as the planner before it, or always
    think_every_s: float = 1.0  # of ``think = "every_s"``

    def __post_init__(self) -> None:
        _named(self.name, "name")
        _within("think_every_s", self.think_every_s, 0.0, 3600.0)
        _within("max_thought_tokens", self.max_thought_tokens, 1, 4096)


class DataConfig(Section, frozen=True):
    """How samples are drawn. ``delay_range_s`` (0, 0) and ``max_prefix`` 0 train for a synchronous loop."""

    batch_size: int = 32  # rows through the VLM, on each process
    action_samples: int = 4  # action chunks drawn for each row's intent
    intent_uses: int = 1  # steps in which the intent of a frozen VLM is used, with new chunks each time
    delay_range_s: tuple[float, float] = (0.3, 1.0)  # how much older the intent's observation is than the chunk's
    max_prefix: int = 15  # rows of committed actions given clean, drawn from 0..max_prefix
    thought_probability: float = 1.0  # how often a demonstration's chain of thought is in the sample
    perturbation_rad: float = 0.02  # how far beside the demonstration the measured joints are put
    grasp_share: float = 0.0  # of the demonstrations' rows, how many are of the moments before a hand closes
    augment: bool = True  # small changes of light and place to the images

    def __post_init__(self) -> None:
        _within("batch_size", self.batch_size, 1, 65536)
        _within("action_samples", self.action_samples, 1, 64)
        _within("intent_uses", self.intent_uses, 1, 64)
        _within("max_prefix", self.max_prefix, 0, 49)
        _within("thought_probability", self.thought_probability, 0.0, 1.0)
        _within("perturbation_rad", self.perturbation_rad, 0.0, 0.2)
        _within("grasp_share", self.grasp_share, 0.0, 1.0)
        low, high = self.delay_range_s
        if not 0.0 <= low <= high <= 10.0:
            raise ValueError(f"delay_range_s must be [low, high] with 0 <= low <= high <= 10, not {[low, high]}")


class ActionConfig(Section, frozen=True):
    """How actions are represented when the expert is new."""

    space: ActionSpaceName = "joint"
    euler_steps: int = 10
    execution_horizon_s: float = 0.0  # see ``syvla_models.spec.ActionSpec``
    noise_scale: float = 1.0  # the same
    statistics_samples: int = 4096  # chunks from which a new expert's offset and scale are measured

    def __post_init__(self) -> None:
        _within("euler_steps", self.euler_steps, 1, 100)
        _within("noise_scale", self.noise_scale, 0.0, 1.0)
        _within("statistics_samples", self.statistics_samples, 2, 1_000_000)


class LossConfig(Section, frozen=True):
    """Weights of the losses, and intention decoupling."""

    text: float = 1.0
    action: float = 1.0
    grounding: float = 2.0
    seen: float = 1.0  # what each image token shows, where a source knows it
    asked: float = 1.0  # which image token shows what a question is about, where a source knows it
    gaze: float = 0.3  # which image token is looked at by a word or a feature query, where a source knows it
    hand: float = 0.0  # of where the error of the velocity brings the grasp points, as a share of ``action``
    noise_deviation: float = 1.0  # of what chunks are denoised from in training; small where little is undecided
    at_start: float = 0.0  # share of the chunks that are taken at flow time 0, where denoising begins
    executed_rows: int = 0  # after the prefix; 0: all
    later: float = 1.0  # what the rows after those count
    decoupling: bool = True
    decoupling_percentile: float = 5.0
    decoupling_samples: int = 0  # of ``action_samples``, those of which the gradient's norm is taken; 0: all

    @property
    def reads(self) -> bool:
        """Whether anything is learned beyond the vision tower, which alone takes a quarter of the time."""
        return any(weight > 0.0 for weight in (self.text, self.action, self.grounding, self.asked, self.gaze))

    def __post_init__(self) -> None:
        for name in ("text", "action", "grounding", "seen", "asked", "gaze", "hand"):
            _within(name, getattr(self, name), 0.0, 1e6)
        _within("noise_deviation", self.noise_deviation, 0.0, 1.0)
        _within("at_start", self.at_start, 0.0, 1.0)
        _within("executed_rows", self.executed_rows, 0, 1024)
        _within("later", self.later, 0.0, 1.0)
        _within("decoupling_percentile", self.decoupling_percentile, 0.0, 100.0)
        _within("decoupling_samples", self.decoupling_samples, 0, 1024)


class OptimiserConfig(Section, frozen=True):
    """Muon and AdamW with warm-up and a cosine over the budget; the cosine ends at ``final_rate`` of the peak."""

    vlm_rate: float = 1e-3
    expert_rate: float = 1e-3
    warmup_steps: int = 100
    final_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    muon: bool = True  # for the matrices inside the networks; AdamW alone otherwise
    grad_clip: float = 1.0  # of the global norm, of the VLM and of the expert each
    ema_decay: float = 0.999  # of the weights that are saved and validated; 0: the last weights themselves
    freeze_vlm: bool = False  # train the expert only
    gradient_checkpointing: bool = False  # of the VLM: a third more arithmetic for much less memory

    def __post_init__(self) -> None:
        _within("vlm_rate", self.vlm_rate, 0.0, 1.0)
        _within("expert_rate", self.expert_rate, 0.0, 1.0)
        _within("warmup_steps", self.warmup_steps, 0, 10**9)
        _within("final_rate", self.final_rate, 0.0, 1.0)
        _within("weight_decay", self.weight_decay, 0.0, 10.0)
        _within("grad_clip", self.grad_clip, 1e-9, 1e9)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be at least 0 and below 1, not {self.ema_decay}")


class BudgetConfig(Section, frozen=True):
    """When the stage ends: after so many steps or minutes, whichever is first; 0 means no such limit."""

    max_steps: int = 0
    max_minutes: float = 0.0

    def __post_init__(self) -> None:
        if self.max_steps < 0 or self.max_minutes < 0.0:
            raise ValueError("max_steps and max_minutes must not be negative")
        if not self.max_steps and not self.max_minutes:
            raise ValueError("max_steps or max_minutes must be set, or the stage would never end")

    def fraction(self, steps: int, seconds: float) -> float:
        """How much of the budget is used, 0..1."""
        by_steps = steps / self.max_steps if self.max_steps else 0.0
        by_time = seconds / (60.0 * self.max_minutes) if self.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))


class OutputConfig(Section, frozen=True):
    """What is printed and written, and how often."""

    log_every_steps: int = 20
    validate_every_minutes: float = 5.0
    validation_rows: int = 128  # of each source
    save_every_minutes: float = 5.0
    episodes: int = 0  # of each task that the policy acts on the twin, between two steps and outside the budget
    episode_tasks: tuple[str, ...] = ()  # none named: those that are evaluated
    episodes_every_minutes: float = 15.0

    def __post_init__(self) -> None:
        _within("episodes", self.episodes, 0, 500)  # further seeds have other uses
        _within("episodes_every_minutes", self.episodes_every_minutes, 0.01, 1e6)
        _within("log_every_steps", self.log_every_steps, 1, 10**9)
        _within("validation_rows", self.validation_rows, 1, 10**6)
        _within("validate_every_minutes", self.validate_every_minutes, 0.01, 1e6)
        _within("save_every_minutes", self.save_every_minutes, 0.01, 1e6)


class TrainConfig(Section, frozen=True):
    """One training stage.

    ``init`` is a checkpoint folder of an earlier stage or a bare Qwen2.5-VL folder; "" builds the tiny planner, its
    tokenizer made from the texts of the sources. A stage for reinforcement learning would begin from a checkpoint in
    the same way, with rollouts as a further kind of source.
    """

    stage: Stage
    sources: tuple[SourceConfig, ...]
    budget: BudgetConfig
    init: str = ""
    rig: str = "twin"  # a shipped rig, or the path of a rig file: where the arms stand
    seed: int = 0
    threads: int = 0  # of torch on the CPU; 0: torch's own choice
    bfloat16: bool = True  # autocast, where the device computes in it; the weights and their moments stay float32
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    action: ActionConfig = ActionConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    output: OutputConfig = OutputConfig()

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("sources must have at least one source")
        if len(set(names)) < len(names):
            raise ValueError(f"sources must have different names, not {names}")
        if not any(source.weight > 0.0 for source in self.sources):
            raise ValueError("at least one source must have a weight above 0")
        _within("threads", self.threads, 0, 1024)
        _within("data.max_prefix", self.data.max_prefix, 0, self.model.expert.horizon)
        _within("action.execution_horizon_s", self.action.execution_horizon_s, 0.0, self.data.max_prefix * PERIOD_S)
        if self.stage != "see" and not any(s.kind == "demonstrations" and s.weight > 0.0 for s in self.sources):
            raise ValueError(f"the stage {self.stage} needs a source of kind 'demonstrations'")
        if self.output.episodes and self.stage == "see":
            raise ValueError("output.episodes must be 0 in the stage see, which has no expert to act")
        if self.optimiser.freeze_vlm and self.stage == "see":
            raise ValueError("optimiser.freeze_vlm leaves nothing to train in the stage see")
        if self.optimiser.freeze_vlm and any(s.kind == "scenes" and s.weight > 0.0 for s in self.sources):
            raise ValueError("optimiser.freeze_vlm: questions teach a frozen VLM nothing; give scenes the weight 0")
        if self.data.intent_uses > 1 and not self.optimiser.freeze_vlm:
            raise ValueError("data.intent_uses above 1 needs optimiser.freeze_vlm: a VLM that learns must read again")


def load_config(path: Path, stage: Stage, changes: Sequence[str] = ()) -> TrainConfig:
    """The training file at ``path``, with ``changes`` made to it: each a line of TOML (``loss.decoupling = false``).

    ConfigError if the file or a change is malformed, or the file is of another stage.
    """
    table = load_toml(path, dict[str, Any])
    for line in changes:
        _change(table, _changed(line))
    try:
        config = msgspec.convert(table, TrainConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}{' as changed' if changes else ''}: {error}") from error
    if config.stage != stage:
        raise ConfigError(f"{path}: its stage is {config.stage!r}: run it as syvla-train {config.stage}")
    return config


def _changed(line: str) -> dict[str, Any]:
    try:
        return msgspec.toml.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"--set {line!r}: {error}") from error


def _change(table: dict[str, Any], change: dict[str, Any]) -> None:
    """Put ``change`` into ``table``; what is a table in both is changed inside."""
    for key, value in change.items():
        known = table.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            _change(known, value)
        else:
            table[key] = value
