"""Training files: what they say, and how a wrong one is refused."""

import contextlib
from pathlib import Path

import msgspec
import pytest

from syvla.errors import ConfigError
from syvla.runs import load_rig
from syvla_models import cli
from syvla_models.cli import main
from syvla_models.train.config import BudgetConfig, OutputConfig, Stage, load_config

CONFIGS = Path(__file__).parents[2] / "models" / "configs"
SMALL = """
stage = "finetune"
sources = [{ name = "snacks", kind = "demonstrations", paths = ["data"], weight = 1.0 }]
budget = { max_steps = 10 }
"""


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("tiny-look.toml", "see"),
        ("tiny-see.toml", "see"),
        ("tiny-pretrain.toml", "pretrain"),
        ("tiny-finetune.toml", "finetune"),
        ("tiny-correct.toml", "finetune"),
        ("tiny-expert.toml", "finetune"),
        ("pretrain-3b.toml", "pretrain"),
        ("finetune-3b.toml", "finetune"),
    ],
)
def test_every_shipped_training_file_loads_as_its_stage(file: str, stage: Stage) -> None:
    config = load_config(CONFIGS / file, stage)
    assert config.stage == stage
    assert config.sources


@pytest.mark.parametrize("file", ["tiny-pretrain.toml", "pretrain-3b.toml"])
def test_a_shipped_pre_training_mixes_in_a_third_of_questions_and_almost_no_thoughts(file: str) -> None:
    config = load_config(CONFIGS / file, "pretrain")
    total = sum(source.weight for source in config.sources)
    questions = sum(source.weight for source in config.sources if source.kind == "scenes")
    assert questions / total == pytest.approx(0.3)
    assert 0.0 < config.data.thought_probability < 0.01


def test_the_robots_stages_are_of_one_policy_and_its_rig() -> None:
    pretrain = load_config(CONFIGS / "pretrain-3b.toml", "pretrain")
    finetune = load_config(CONFIGS / "finetune-3b.toml", "finetune")
    assert pretrain.model == finetune.model, "or its expert would be thrown away"
    assert pretrain.action.space == finetune.action.space
    for config in (pretrain, finetune):
        assert load_rig(config.rig).kind == "cobot_magic"
        assert config.loss.grounding > 0.0 or not config.model.expert.aimed, "an aim that nobody teaches"


def test_the_shipped_stages_begin_where_the_one_before_ended() -> None:
    look = load_config(CONFIGS / "tiny-look.toml", "see")
    see = load_config(CONFIGS / "tiny-see.toml", "see")
    pretrain = load_config(CONFIGS / "tiny-pretrain.toml", "pretrain")
    finetune = load_config(CONFIGS / "tiny-finetune.toml", "finetune")
    correct = load_config(CONFIGS / "tiny-correct.toml", "finetune")
    expert = load_config(CONFIGS / "tiny-expert.toml", "finetune")
    begins = [stage.init for stage in (look, see, finetune, correct, expert)]
    assert begins == ["", *(f"runs/{stage}/checkpoint" for stage in ("look", "see", "finetune", "correct2"))]
    assert pretrain.init == see.init.replace("look", "see")
    assert look.model == see.model
    assert not look.loss.reads
    # or the expert of the pre-training would be thrown away
    assert pretrain.action.space == finetune.action.space == correct.action.space == expert.action.space
    assert pretrain.model.expert == finetune.model.expert == correct.model.expert == expert.model.expert


def test_a_file_can_be_changed_line_by_line(tmp_path: Path) -> None:
    path = _file(tmp_path, SMALL)
    config = load_config(path, "finetune", ("loss.decoupling = false", "data.delay_range_s = [0, 0]", "seed=3"))
    assert (config.loss.decoupling, config.data.delay_range_s, config.seed) == (False, (0.0, 0.0), 3)
    assert config.budget.max_steps == 10, "the rest stays"
    assert load_config(path, "finetune", ("budget.max_minutes = 1.0",)).budget == BudgetConfig(
        max_steps=10, max_minutes=1.0
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("loss.decouplin = false", "decouplin"),
        ("loss.text = 'much'", "text"),
        ("loss.decoupling false", "--set 'loss.decoupling false'"),
    ],
)
def test_a_wrong_change_is_refused_with_its_name(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(_file(tmp_path, SMALL), "finetune", (line,))


def test_every_change_of_a_command_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of ``--set A --set B`` only B was read, and the run went on without A."""
    command = ["syvla-train", "finetune", "--config", str(_file(tmp_path, SMALL)), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [*command, "--set", "loss.decouplin = false", "--set", "seed = 3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "decouplin" in capsys.readouterr().err


def test_another_stages_file_is_refused_and_the_right_command_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run it as syvla-train finetune"):
        load_config(_file(tmp_path, SMALL), "pretrain")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL + "[data]\nbatchsize = 3\n", r"unknown field `batchsize`.*\$\.data"),
        (SMALL + "[data]\nbatch_size = 0\n", "batch_size must be 1.."),
        (SMALL + "[data]\ndelay_range_s = [1.0, 0.3]\n", "delay_range_s must be"),
        (
            SMALL + "[model]\nexpert = { width = 48, depth = 1, heads = 2, horizon = 10 }\n",
            "data.max_prefix must be 0..10",
        ),
        (SMALL + '[model]\nthink = "often"\n', "often"),
        (SMALL + "[model]\nthink_every_s = -1.0\n", "think_every_s must be 0"),
        (SMALL + "[model]\nmax_thought_tokens = 0\n", "max_thought_tokens must be 1"),
        (SMALL + '[action]\nspace = "cartesian"\n', "cartesian"),
        (SMALL + "[action]\nexecution_horizon_s = 0.6\n", "action.execution_horizon_s must be 0..0.5"),
        (SMALL + "[optimiser]\nema_decay = 1.0\n", "ema_decay must be at least 0 and below 1"),
        (SMALL + "[loss]\ndecoupling_percentile = 101\n", "decoupling_percentile must be 0..100"),
        (SMALL.replace("max_steps = 10", ""), "max_steps or max_minutes must be set"),
        (SMALL.replace("weight = 1.0", "weight = 0.0"), "weight above 0"),
        (SMALL.replace("demonstrations", "scenes"), "needs a source of kind 'demonstrations'"),
        (SMALL.replace('["data"]', "[]"), "paths must name"),
        (SMALL.replace('"snacks"', '"../snacks"'), "name must be"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path, "finetune")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    text = """
stage = "see"
budget = { max_steps = 10 }
[[sources]]
name = "a"
kind = "scenes"
paths = ["x"]
weight = 1.0
[[sources]]
name = "a"
kind = "scenes"
paths = ["y"]
weight = 1.0
"""
    with pytest.raises(ConfigError, match="different names"):
        load_config(_file(tmp_path, text), "see")


def test_freezing_the_planner_while_it_learns_to_see_is_refused(tmp_path: Path) -> None:
    text = SMALL.replace("finetune", "see") + "[optimiser]\nfreeze_vlm = true\n"
    with pytest.raises(ConfigError, match="nothing to train"):
        load_config(_file(tmp_path, text), "see")


def test_episodes_without_an_expert_are_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, SMALL.replace("finetune", "see") + "[output]\nepisodes = 2\n")
    with pytest.raises(ConfigError, match=r"output\.episodes must be 0 in the stage see"):
        load_config(path, "see")


def test_the_episodes_of_a_run_are_those_of_an_evaluation(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        load_config(CONFIGS / "tiny-expert.toml", "finetune"),
        output=OutputConfig(episodes=2, episode_tasks=("snack_loading",)),
    )
    act = cli._acting(config, load_rig("twin"))
    assert act is not None
    with contextlib.closing(act(Path("reference"))) as episodes:
        assert next(episodes) == ("snack_loading", True)
    robot = msgspec.structs.replace(load_rig("twin"), kind="cobot_magic")
    with pytest.raises(ConfigError, match="is a cobot_magic"):
        cli._acting(config, robot)
    unknown = msgspec.structs.replace(config, output=OutputConfig(episodes=1, episode_tasks=("cooking",)))
    with pytest.raises(ConfigError, match="cooking"):
        cli._acting(unknown, load_rig("twin"))
    assert cli._acting(msgspec.structs.replace(config, output=OutputConfig()), robot) is None


def test_using_intents_again_while_their_planner_learns_is_refused(tmp_path: Path) -> None:
    text = SMALL + "[data]\nintent_uses = 2\n"
    with pytest.raises(ConfigError, match="intent_uses above 1 needs optimiser"):
        load_config(_file(tmp_path, text), "finetune")


def test_the_budget_ends_with_whichever_comes_first() -> None:
    both = BudgetConfig(max_steps=100, max_minutes=1.0)
    assert both.fraction(50, 6.0) == pytest.approx(0.5)
    assert both.fraction(5, 30.0) == pytest.approx(0.5)
    assert both.fraction(5, 600.0) == 1.0
    assert BudgetConfig(max_steps=100).fraction(25, 1e9) == pytest.approx(0.25)


def _file(folder: Path, text: str) -> Path:
    path = folder / "stage.toml"
    path.write_text(text)
    return path
