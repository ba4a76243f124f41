"""What of the optional dependencies is installed here, and the error that says how to install what is missing."""

import importlib.util
from collections.abc import Sequence

from syvla.errors import ConfigError

TELEOP_PACKAGES = ("mujoco", "mink", "daqp", "ruckig", "sdl2")
LEARN_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
SIM_PACKAGES = ("av", "matplotlib", "mujoco")  # not on the robot's computer


def check_learn() -> None:
    """ConfigError if a package is missing that a learned policy needs."""
    _check(LEARN_PACKAGES, "a learned policy needs: pip install 'syvla[learn]'")


def check_teleop() -> None:
    """ConfigError if a package is missing with which a person takes over."""
    _check(TELEOP_PACKAGES, "a joystick needs: pip install 'syvla[teleop]'")


def check_rerun() -> None:
    """ConfigError if rerun's SDK is missing."""
    _check(("rerun",), "--rerun needs: pip install 'syvla[rerun]'")


def check_convert(*packages: str) -> None:
    """ConfigError if a package is missing that a format needs."""
    _check(packages, "this format needs: pip install 'syvla[convert]'")


def _check(packages: Sequence[str], needs: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is missing; {needs}")


def check_realsense() -> None:
    """ConfigError where the vendor's SDK cannot be loaded."""
    try:
        import pyrealsense2  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{error}; the cameras need: pip install 'syvla[robot]', and Debian's libusb-1.0-0 "
            '(a twin does without where its rig says cameras.source = "render")'
        ) from error
