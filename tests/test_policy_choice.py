"""Which policy runs: by name or folder, with the latencies that suit it."""

from pathlib import Path

import pytest

from syvla import policies, runs
from syvla.commands.twin import demo
from syvla.config import ArmConfig, RigConfig
from syvla.errors import ConfigError
from syvla.policies import default_policy, find_policy, policy_cameras, policy_model_id
from syvla.runs import lockstep_run


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the checkpoint that ships would be; nothing is there yet."""
    monkeypatch.setattr(policies, "shipped_folder", lambda folder, packaged: tmp_path / folder)
    return tmp_path / "models" / "checkpoints" / "syvla-tiny"


def test_the_shipped_checkpoint_is_learned_and_the_default_where_it_is(shipped: Path) -> None:
    assert default_policy() == "reference"
    with pytest.raises(ConfigError, match=r"syvla-tiny holds no checkpoint .* reference, learned, or give the folder"):
        find_policy("learned")
    shipped.mkdir(parents=True)
    (shipped / "syvla.json").write_text("{}")
    assert default_policy() == "learned"
    assert find_policy("learned") == find_policy(str(shipped)) == str(shipped)


def test_a_folder_may_be_given_as_it_is_seen_from_here(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped.mkdir(parents=True)
    (shipped / "syvla.json").write_text("{}")
    monkeypatch.chdir(shipped.parent)
    assert find_policy("syvla-tiny") == str(shipped), "the processes of a run may stand elsewhere"


def test_the_reference_needs_no_camera_and_has_its_name() -> None:
    run = lockstep_run("twin", 0.3, 0.03, "reference")
    assert (policy_cameras(run), policy_model_id(run)) == ((), "reference")


def test_a_wrong_spec_is_refused_with_the_field(tmp_path: Path) -> None:
    (tmp_path / "syvla.json").write_text('{"name": "x", "views": []}')
    with pytest.raises(ConfigError, match=r"syvla\.json.*views"):
        policy_cameras(lockstep_run("twin", 0.3, 0.03, str(tmp_path)))


@pytest.mark.parametrize(
    ("there", "arguments", "expected"),
    [
        (False, {}, (0.3, 0.03, "reference")),
        (True, {}, (0.0, 0.0, "learned")),
        (True, {"policy": "reference"}, (0.3, 0.03, "reference")),
        (True, {"planner_latency": 0.5}, (0.5, 0.0, "learned")),
        (True, {"policy": "reference", "expert_latency": 0.0}, (0.3, 0.0, "reference")),
    ],
)
def test_a_demo_adds_no_latency_to_a_policy_that_computes(
    shipped: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: bool,
    arguments: dict[str, str | float],
    expected: tuple[float, float, str],
) -> None:
    if there:
        shipped.mkdir(parents=True)

    class AskedError(Exception):
        pass

    def asked(rig_name: str, planner_s: float, expert_s: float, policy: str, *_: object, **__: object) -> None:
        raise AskedError((planner_s, expert_s, policy))

    twin = RigConfig(name="twin", kind="twin", left=ArmConfig(), right=ArmConfig())
    monkeypatch.setattr(runs, "load_rig", lambda name: twin)
    monkeypatch.setattr(runs, "realtime_run", asked)
    with pytest.raises(AskedError) as found:
        demo(**arguments)  # type: ignore[arg-type]
    assert found.value.args[0] == expected
