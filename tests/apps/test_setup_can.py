"""setup-can: the right commands for each state of the interfaces, judged by a kernel that keeps its rules."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.apps.made_up import Programs, made_up, plug_can, told_by_ip

from syvla.apps.machine import Answer, Machine
from syvla.apps.setup_can import chosen, commands_for, identified, interface_names, setup_can, udev_rules
from syvla.config import ArmConfig, RigConfig
from syvla.drivers.can_links import CanLink, LinkDetails
from syvla.errors import ConfigError
from syvla.messages import ArmName
from syvla.runs import load_rig

LEFT, RIGHT = "1-2:1.0", "1-3:1.0"
NAMES: dict[ArmName, str] = {"left": "can_left", "right": "can_right"}
PATHS: dict[ArmName, str] = {"left": LEFT, "right": RIGHT}
GOOD = LinkDetails(1_000_000, "ERROR-ACTIVE", 0)


def link(name: str, usb_path: str, up: bool = False) -> CanLink:
    return CanLink(name, usb_path, "gs_usb", "", up)


class Kernel:
    """Interfaces by USB path; refuses what Linux refuses."""

    def __init__(self, links: Sequence[CanLink]) -> None:
        self.name = {one.usb_path: one.name for one in links}
        self.up = {one.usb_path: one.is_up for one in links}
        self.settings: dict[str, list[str]] = {}

    def run(self, command: Sequence[str]) -> None:
        assert list(command[:3]) == ["ip", "link", "set"]
        (path,) = (path for path, name in self.name.items() if name == command[3])
        match command[4:]:
            case ["down"]:
                self.up[path] = False
            case ["up"]:
                assert path in self.settings, "a bus comes up at a known bit rate only"
                self.up[path] = True
            case ["name", new]:
                assert not self.up[path], "an interface that is up cannot be renamed"
                assert new not in self.name.values(), "a name cannot be given twice"
                assert len(new) <= 15
                self.name[path] = new
            case ["type", "can", *settings]:
                assert not self.up[path], "the bit rate of an interface that is up cannot be set"
                self.settings[path] = settings
            case ["txqueuelen", frames]:
                assert int(frames) >= 100
            case other:
                pytest.fail(f"{other}: no such setting")


@pytest.mark.parametrize("before", list(itertools.permutations(("can0", "can1", "can_left", "can_right"), 2)))
@pytest.mark.parametrize("up", [False, True])
def test_whatever_they_are_called_each_arm_gets_its_name(before: tuple[str, str], up: bool) -> None:
    links = [link(before[0], LEFT, up), link(before[1], RIGHT, up)]
    kernel = Kernel(links)
    for command in commands_for(links, {}, PATHS, NAMES):
        kernel.run(command)
    assert kernel.name == {LEFT: "can_left", RIGHT: "can_right"}
    assert all(kernel.up.values())
    assert list(kernel.settings.values()) == [["bitrate", "1000000", "restart-ms", "0"]] * 2


def test_a_bus_that_is_right_is_left_alone() -> None:
    """Setting an interface down under an enabled arm stops it; a second run of the command must not."""
    links = [link("can_left", LEFT, up=True), link("can1", RIGHT)]
    commands = commands_for(links, {"can_left": GOOD}, PATHS, NAMES)
    assert commands
    assert not any("can_left" in command for command in commands)
    both = [link("can_left", LEFT, up=True), link("can_right", RIGHT, up=True)]
    assert commands_for(both, {"can_left": GOOD, "can_right": GOOD}, PATHS, NAMES) == []


@pytest.mark.parametrize(
    ("told", "up"),
    [
        (GOOD._replace(bitrate=500_000), True),
        (GOOD._replace(bitrate=None), True),
        (GOOD._replace(state="BUS-OFF"), True),
        (GOOD._replace(restart_ms=100), True),
        (GOOD, False),
    ],
)
def test_a_bus_that_is_not_right_is_set_again(told: LinkDetails, up: bool) -> None:
    links = [link("can_left", LEFT, up), link("can_right", RIGHT, up=True)]
    commands = commands_for(links, {"can_left": told, "can_right": GOOD}, PATHS, NAMES)
    assert {command[3] for command in commands} == {"can_left"}


def test_a_name_that_a_third_interface_has_is_not_taken_from_it() -> None:
    links = [link("can0", LEFT), link("can1", RIGHT), link("can_left", "1-9:1.0")]
    with pytest.raises(ConfigError, match=r"can_left is taken by 1-9:1.0"):
        commands_for(links, {}, PATHS, NAMES)
    with pytest.raises(ConfigError, match=r"right arm's adapter at 1-3:1.0 is gone"):
        commands_for(links[:1], {}, PATHS, NAMES)


def test_left_and_right_are_as_asked_or_as_named_or_unknown() -> None:
    nameless = [link("can0", LEFT), link("can1", RIGHT)]
    assert chosen(nameless, NAMES, {"left": RIGHT, "right": LEFT}) == {"left": RIGHT, "right": LEFT}
    assert chosen(nameless, NAMES, {"left": "", "right": ""}) is None
    named = [link("can_right", LEFT), link("can_left", RIGHT)]
    assert chosen(named, NAMES, {"left": "", "right": ""}) == {"left": RIGHT, "right": LEFT}
    assert chosen(named[:1], NAMES, {"left": "", "right": ""}) is None


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        (LEFT, "", "give both --left and --right"),
        (LEFT, LEFT, "left and right are both 1-2:1.0"),
        ("1-7:1.0", RIGHT, "--left '1-7:1.0': no CAN interface is there; there are 1-2:1.0, 1-3:1.0, 1-4:1.0, 1-4:1.0"),
        (LEFT, "1-4:1.0", "several channels"),
    ],
)
def test_a_usb_path_that_cannot_be_meant_is_refused(left: str, right: str, said: str) -> None:
    links = [link("can0", LEFT), link("can1", RIGHT), link("can2", "1-4:1.0"), link("can3", "1-4:1.0")]
    with pytest.raises(ConfigError) as refused:
        chosen(links, NAMES, {"left": left, "right": right})
    assert said in str(refused.value)


def identify(*looks: tuple[str, ...]) -> dict[ArmName, str]:
    """Identify on what is seen one look after another; the last view stays."""
    views: Iterator[tuple[str, ...]] = itertools.chain(looks, itertools.repeat(looks[-1]))
    return identified(lambda: [link("can", path) for path in next(views)], lambda _: None, lambda _: None)


def test_the_adapter_that_is_unplugged_is_the_left_one() -> None:
    both = (LEFT, RIGHT)
    assert identify(both, both, (LEFT,), (LEFT,), both) == {"left": RIGHT, "right": LEFT}


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        (((LEFT,),), "needs exactly two USB-CAN adapters, there are 1"),
        (((LEFT, RIGHT, "1-4:1.0"),), "there are 3"),
        (((LEFT, RIGHT),), "no adapter was unplugged within"),
        (((LEFT, RIGHT), ()), "both adapters disappeared"),
        (((LEFT, RIGHT), (RIGHT,)), "nothing came back at 1-2:1.0"),
        (((LEFT, RIGHT), (RIGHT,), (RIGHT, "1-5:1.0")), "nothing came back at 1-2:1.0"),
    ],
)
def test_identifying_ends_with_what_went_wrong(looks: tuple[tuple[str, ...], ...], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        identify(*looks)
    assert said in str(refused.value)


def test_the_udev_rule_names_can_interfaces_by_usb_path() -> None:
    rules = [line for line in udev_rules(PATHS, NAMES) if not line.startswith("#")]
    assert rules == [
        'SUBSYSTEM=="net", ACTION=="add", ATTR{type}=="280", KERNELS=="1-2:1.0", NAME="can_left"',
        'SUBSYSTEM=="net", ACTION=="add", ATTR{type}=="280", KERNELS=="1-3:1.0", NAME="can_right"',
    ]


def robot(left: str = "can_left", right: str = "can_right") -> RigConfig:
    return RigConfig(
        name="mine", kind="cobot_magic", left=ArmConfig(can_channel=left), right=ArmConfig(can_channel=right)
    )


@pytest.mark.parametrize(
    ("rig", "said"),
    [
        (load_rig("twin"), "its arms are not on socketcan"),
        (robot(left="a name; reboot"), "left.can_channel must be 1 to 14 letters"),
        (robot(right='x", RUN="reboot'), "right.can_channel must be"),
        (robot(right="can_right_of_all"), "right.can_channel must be"),
        (robot(left="can0", right="can0"), "both 'can0'"),
    ],
)
def test_only_names_of_interfaces_reach_a_command_or_a_rule(rig: RigConfig, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        interface_names(rig)
    assert said in str(refused.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    plug_can(tmp_path, "can0", LEFT)
    plug_can(tmp_path, "can1", RIGHT)
    return made_up(
        tmp_path, {"-details": told_by_ip(can0=(500_000, "STOPPED", 0)), "can_right": Answer(2, error="busy")}
    )


def asked(machine: Machine) -> list[list[str]]:
    assert isinstance(machine.run, Programs)
    return [command for command in machine.run.asked if "-details" not in command]


def set_up(machine: Machine, left: str = "", right: str = "", udev: bool = False, run: bool = False) -> int:
    return setup_can(machine, robot(), left, right, identify=False, udev=udev, run=run)


def test_it_prints_a_script_and_runs_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert set_up(machine, LEFT, RIGHT) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ip link set ", "#")) for line in lines)
    assert "ip link set can_left type can bitrate 1000000 restart-ms 0" in lines
    assert set_up(machine, LEFT, RIGHT, udev=True) == 0
    assert 'NAME="can_left"' in capsys.readouterr().out
    assert asked(machine) == []


def test_without_knowing_left_from_right_it_explains_beside_the_output(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_up(machine) == 1
    printed = capsys.readouterr()
    assert printed.out == "", "what is piped into a shell or a rules file stays empty"
    assert "1-2:1.0" in printed.err
    assert "--identify" in printed.err


def test_running_needs_root_and_ends_at_the_first_failure(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="--run needs root"):
        set_up(machine, LEFT, RIGHT, run=True)
    assert asked(machine) == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert isinstance(machine.run, Programs)
    machine.run.answers = {**machine.run.answers, "ip": Answer(0)}
    assert set_up(machine, LEFT, RIGHT, run=True) == 1
    assert asked(machine)[-1] == ["ip", "link", "set", "can1", "name", "can_right"]
    assert "ip link set can1 name can_right: busy" in capsys.readouterr().err
