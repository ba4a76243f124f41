"""What several tests of the applications begin from."""

from pathlib import Path

import pytest

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.runs import lockstep_run
from syvla.stages.recorder import RecorderStage


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that the reference policy did."""
    folder = tmp_path_factory.mktemp("episode")
    run = lockstep_run("twin", 0.3, 0.03, "reference")
    outcome, _ = run_lockstep(run, Episode("snack_loading", "id", 0, "episode"), [RecorderStage(folder, run)])
    assert outcome.success
    return folder / "episode.mcap"
