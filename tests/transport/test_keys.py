"""The key files of a link: never readable by others, never overwritten, and refused when they are not what they say."""

import shutil
from pathlib import Path

import pytest
import zmq
import zmq.auth

from syvla.errors import ConfigError, TransportError
from syvla.transport.keys import KeyPair, make_keys, own_keys, planner_keys, robot_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_pair_is_made_for_us_alone_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "keys"
    pair = make_keys(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "own.key_secret").stat().st_mode & 0o777 == 0o600
    assert zmq.curve_public(pair.secret) == pair.public
    assert own_keys(folder) == pair
    assert zmq.auth.load_certificate(folder / "own.key") == (pair.public, None)
    assert pair.secret.decode() not in (folder / "own.key").read_text()


def test_keys_are_never_overwritten(folder: Path) -> None:
    pair = own_keys(folder)
    with pytest.raises(ConfigError, match="never overwritten"):
        make_keys(folder)
    assert own_keys(folder) == pair


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    (folder / "own.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="never overwritten"):
        make_keys(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_or_a_secret_that_others_may_read_is_refused(folder: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(TransportError, match="mode 0700"):
        own_keys(folder)
    folder.chmod(0o700)
    (folder / "own.key_secret").chmod(0o640)
    with pytest.raises(TransportError, match=r"own\.key_secret.*mode 0600"):
        own_keys(folder)


def test_a_pair_that_does_not_belong_together_is_refused(folder: Path) -> None:
    text = (folder / "own.key_secret").read_text()
    public, _ = zmq.curve_keypair()
    (folder / "own.key_secret").write_text(text.replace(own_keys(folder).public.decode(), public.decode()))
    with pytest.raises(ConfigError, match="does not hold a secret key and its public one"):
        own_keys(folder)


def test_each_end_names_what_it_lacks(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'syvla keys .*' makes one"):
        robot_keys(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="allowed: nobody may connect"):
        planner_keys(folder)
    with pytest.raises(ConfigError, match=r"planner\.key is missing"):
        robot_keys(folder)
    other = make_keys(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "own.key", folder / "allowed" / "robot-1.key")
    shutil.copy(tmp_path / "other" / "own.key", folder / "planner.key")
    assert planner_keys(folder).allowed == {other.public}
    assert robot_keys(folder).planner == other.public


def test_a_secret_among_the_keys_of_others_is_refused(tmp_path: Path, folder: Path) -> None:
    """Whoever copies the wrong file has given his secret away, and should hear of it."""
    make_keys(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "own.key_secret", folder / "allowed" / "robot.key")
    with pytest.raises(ConfigError, match="holds a secret key"):
        planner_keys(folder)


@pytest.mark.parametrize(
    "text",
    ["", "curve\n", '    public-key = "short"\n', '    public-key = "' + "\x01" * 40 + '"\n', "x" * 20_000],
    ids=["empty", "no key", "short", "not Z85", "large"],
)
def test_what_is_no_key_file_is_refused_with_its_name(folder: Path, text: str) -> None:
    (folder / "allowed" / "robot.key").write_text(text)
    with pytest.raises(ConfigError, match=r"robot\.key: is not a key file"):
        planner_keys(folder)


def test_key_pairs_are_told_apart(tmp_path: Path) -> None:
    pairs: list[KeyPair] = [make_keys(tmp_path / name) for name in "ab"]
    assert pairs[0].public != pairs[1].public
