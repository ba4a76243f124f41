"""What the robot's computer needs: no torch, no simulator, nothing to draw with."""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

HEAVY = ("torch", "transformers", "tokenizers", "safetensors", "mujoco", "matplotlib", "av", "mink", "scipy", "sdl2")


def test_the_robots_install_names_nothing_heavy() -> None:
    needed = [line for line in requires("syvla") or () if "extra ==" not in line]
    assert any(line.startswith("piper") for line in needed)
    assert not [line for line in needed if line.lower().startswith(HEAVY)]


def test_the_robot_stage_and_its_driver_load_nothing_heavy() -> None:
    program = (
        "import sys, syvla.cli, syvla.rig, syvla.drivers.piper, syvla.stages.robot; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_twins_packages_a_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['mujoco'] = None; sys.argv[1:] = ['eval']; from syvla.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "syvla: mujoco is missing; the twin and the reports need: pip install 'syvla[sim]'"
    ]


def test_without_its_packages_a_joystick_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'ruckig' else found(name, *a); import sys; "
        "sys.argv[1:] = ['demo', '--joystick', '--policy', 'reference']; from syvla.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["syvla: ruckig is missing; a joystick needs: pip install 'syvla[teleop]'"]
    assert not list(tmp_path.iterdir())


def test_without_its_packages_a_learned_policy_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "syvla.json").write_text("{}")
    program = (
        f"import sys; sys.modules['transformers'] = None; sys.argv[1:] = ['eval', '--policy', {str(tmp_path)!r}]; "
        "from syvla.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said == "syvla: transformers is missing; a learned policy needs: pip install 'syvla[learn]'"


def test_without_its_package_a_recording_for_rerun_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'rerun' else found(name, *a); import sys; "
        f"sys.argv[1:] = ['replay', 'view', {__file__!r}, '--rerun', 'a.rrd']; from syvla.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["syvla: rerun is missing; --rerun needs: pip install 'syvla[rerun]'"]
    assert not list(tmp_path.iterdir())


def test_without_its_packages_a_conversion_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    program = (
        "import importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'h5py' else found(name, *a); import sys; "
        "sys.argv[1:] = ['convert', 'a.hdf5', 'out', '--to', 'mcap']; from syvla.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["syvla: h5py is missing; this format needs: pip install 'syvla[convert]'"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]
