"""Other wordings of instructions: read from beside the recordings, or refused by the name of their file."""

from pathlib import Path

import pytest

from syvla.errors import ConfigError
from syvla_models.train.wordings import read_wordings


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "is missing"),
        (b'{"do it": "get it done"}', "cannot be read"),
        (b'{"do it": []}', "'do it' needs wordings"),
        (b'{"do it": ["see to it", " "]}', "'do it' needs wordings"),
    ],
)
def test_wordings_that_cannot_be_used_are_refused_by_their_file(
    tmp_path: Path, written: bytes | None, said: str
) -> None:
    if written is not None:
        (tmp_path / "wordings.json").write_bytes(written)
    with pytest.raises(ConfigError, match=rf"wordings\.json.*{said}"):
        read_wordings([tmp_path / "a.mcap", tmp_path / "b.mcap"])
    (tmp_path / "wordings.json").write_bytes(b'{"do it": ["see to it"]}')
    assert read_wordings([tmp_path / "a.mcap"]) == {"do it": ("see to it",)}
