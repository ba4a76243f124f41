"""``syvla setup-can``: names the arms' CAN interfaces by USB path and brings them up at 1 Mbit/s, or prints how."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from syvla.apps.machine import Machine
from syvla.config import RigConfig
from syvla.drivers.can_links import ARPHRD_CAN, DETAILS, CanLink, LinkDetails, can_links, link_details
from syvla.drivers.piper_protocol import BITRATE
from syvla.errors import ConfigError
from syvla.messages import ArmName

RULES_FILE = "/etc/udev/rules.d/70-syvla-can.rules"  # before 80-net-setup-link.rules, which names what has no name yet
QUEUE_FRAMES = 100  # ten frames, the default, is less than both arms' set-points of two ticks
IDENTIFY_LIMIT_S = 120.0
_NAME = re.compile(r"[A-Za-z0-9_-]{1,14}")  # the kernel takes 15, one is for the name in between
_LOOK_S = 0.2
_BY_HAND = """\
# Which is the left one? Either let the command see it:
#   syvla setup-can --identify
# or look at this list, unplug the left arm's adapter, look again: the one that is gone is the left one. Then:
#   syvla setup-can --left USBPATH --right USBPATH"""


def setup_can(machine: Machine, rig: RigConfig, left: str, right: str, *, identify: bool, udev: bool, run: bool) -> int:
    """Print or run what sets the buses up; 1 if left cannot be told from right, or a command failed.

    Raises:
        ConfigError: a USB path or a name is not one there is, or ``run`` without root.
    """
    names = interface_names(rig)
    if run and udev:
        raise ConfigError("--run and --udev exclude each other: --udev only prints")
    if identify and (left or right):
        raise ConfigError("--identify finds out what --left and --right say: give one or the other")
    if run and os.geteuid() != 0:
        raise ConfigError(f"--run needs root: sudo {sys.executable} -m syvla.cli setup-can ... --run")
    sysfs = machine.path("/sys")
    paths = (
        identified(lambda: can_links(sysfs), time.sleep, _say)
        if identify
        else chosen(can_links(sysfs), names, {"left": left, "right": right})
    )
    links = can_links(sysfs)
    if paths is None:
        _say("\n".join(["# CAN interfaces of this machine:", *(f"#   {line}" for line in described(links)), _BY_HAND]))
        return 1
    if udev:
        print_lines(udev_rules(paths, names))
        return 0
    commands = commands_for(links, link_details(machine.run(DETAILS).out), paths, names)
    if not commands:
        print_lines([f"# {names['left']} and {names['right']} are up at {BITRATE} bit/s: nothing to do"])
        return 0
    if run:
        return _run(machine, commands)
    print_lines(["# pipe this into: sudo sh -ex", *(shlex.join(command) for command in commands)])
    return 0


def interface_names(rig: RigConfig) -> dict[ArmName, str]:
    """What the rig calls each arm's interface; ConfigError where that is no name of a network interface."""
    names: dict[ArmName, str] = {"left": rig.left.can_channel, "right": rig.right.can_channel}
    if not rig.left.can_interface == rig.right.can_interface == "socketcan":
        raise ConfigError(f"rig {rig.name!r}: its arms are not on socketcan, so there is nothing to set up")
    for arm, name in names.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{arm}.can_channel must be 1 to 14 letters, digits, _ or -, not {name!r}")
    if names["left"] == names["right"]:
        raise ConfigError(f"left.can_channel and right.can_channel are both {names['left']!r}")
    return names


def described(links: Sequence[CanLink]) -> list[str]:
    """The interfaces for people, one a line."""
    if not links:
        return ["none: plug the USB-CAN adapters in; syvla doctor says whether the driver is there"]
    return [
        f"{link.usb_path or 'not on USB':12s} {link.name} ({link.driver or 'no driver'}"
        f"{f', serial {link.serial}' if link.serial else ''}, {'up' if link.is_up else 'down'})"
        for link in links
    ]


def chosen(
    links: Sequence[CanLink], names: Mapping[ArmName, str], asked: Mapping[ArmName, str]
) -> dict[ArmName, str] | None:
    """The USB path of each arm: as asked, else where its name is already; None where neither is known.

    Raises:
        ConfigError: what was asked for is not there, is there twice, or is one path for both arms.
    """
    if any(asked.values()) and not all(asked.values()):
        raise ConfigError("give both --left and --right, or neither")
    if not any(asked.values()):
        named = {link.name: link.usb_path for link in links}
        asked = {arm: named.get(name, "") for arm, name in names.items()}
        if not all(asked.values()):
            return None
    if asked["left"] == asked["right"]:
        raise ConfigError(f"left and right are both {asked['left']}: one adapter cannot be both arms'")
    paths = [link.usb_path for link in links if link.usb_path]
    for arm, path in asked.items():
        if path not in paths:
            raise ConfigError(f"--{arm} {path!r}: no CAN interface is there; there are {', '.join(paths) or 'none'}")
        if paths.count(path) > 1:
            raise ConfigError(f"--{arm} {path!r}: this adapter has several channels; take one with a single channel")
    return dict(asked)


def identified(
    look: Callable[[], Sequence[CanLink]],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
    limit_s: float = IDENTIFY_LIMIT_S,
) -> dict[ArmName, str]:
    """Tell left from right by which adapter disappears. It must come back on the same port.

    Raises:
        ConfigError: there are not exactly two adapters, or nothing happens within ``limit_s``.
    """
    before = _usb_paths(look())
    if len(before) != 2:
        raise ConfigError(f"--identify needs exactly two USB-CAN adapters, there are {len(before)}: unplug the others")
    say(f"# unplug the LEFT arm's adapter now ({' and '.join(sorted(before))} are here)")
    gone = _awaited(look, sleep, lambda paths: len(before - paths) > 0, limit_s, "no adapter was unplugged")
    lost = before - gone
    if len(lost) != 1:
        raise ConfigError("both adapters disappeared at once: unplug one only")
    (left,) = lost
    (right,) = before - lost
    say(f"# {left} is the left arm's; plug it into the same port again")
    _awaited(look, sleep, lambda paths: before <= paths, limit_s, f"nothing came back at {left}")
    say(f"# from now on: --left {left} --right {right}")
    return {"left": left, "right": right}


def _awaited(
    look: Callable[[], Sequence[CanLink]],
    sleep: Callable[[float], None],
    happened: Callable[[set[str]], bool],
    limit_s: float,
    otherwise: str,
) -> set[str]:
    for _ in range(round(limit_s / _LOOK_S)):
        paths = _usb_paths(look())
        if happened(paths):
            return paths
        sleep(_LOOK_S)
    raise ConfigError(f"--identify: {otherwise} within {limit_s:.0f} s")


def _usb_paths(links: Sequence[CanLink]) -> set[str]:
    return {link.usb_path for link in links if link.usb_path}


def commands_for(
    links: Sequence[CanLink],
    details: Mapping[str, LinkDetails],
    paths: Mapping[ArmName, str],
    names: Mapping[ArmName, str],
) -> list[list[str]]:
    """The ``ip`` commands; none for an interface that is as it should be, so that a bus in use is left alone.

    Raises:
        ConfigError: an adapter is gone, or a name is taken by an interface that is neither arm's.
    """
    at = {link.usb_path: link for link in links if link.usb_path}
    holders = {link.name: link.usb_path for link in links}
    todo: list[tuple[str, str]] = []  # the name now, the name wanted
    for arm, path in paths.items():
        wanted = names[arm]
        if path not in at:
            raise ConfigError(f"the {arm} arm's adapter at {path} is gone")
        if holders.get(wanted, path) not in paths.values():
            raise ConfigError(f"the name {wanted} is taken by {holders[wanted] or 'an interface without a USB path'}")
        if not _is_right(at[path], wanted, details):
            todo.append((at[path].name, wanted))
    commands = [["ip", "link", "set", now, "down"] for now, _ in todo]
    if {now for now, _ in todo} & {wanted for now, wanted in todo if now != wanted}:  # they have each other's names
        commands += [["ip", "link", "set", now, "name", f"{wanted}_"] for now, wanted in todo]
        todo = [(f"{wanted}_", wanted) for _, wanted in todo]
    for now, wanted in todo:
        if now != wanted:
            commands.append(["ip", "link", "set", now, "name", wanted])
        # restart-ms 0: after bus-off the bus stays off until somebody has looked
        commands.append(["ip", "link", "set", wanted, "type", "can", "bitrate", str(BITRATE), "restart-ms", "0"])
        commands.append(["ip", "link", "set", wanted, "txqueuelen", str(QUEUE_FRAMES)])
        commands.append(["ip", "link", "set", wanted, "up"])
    return commands


def _is_right(link: CanLink, wanted: str, details: Mapping[str, LinkDetails]) -> bool:
    told = details.get(link.name, LinkDetails())
    is_working = link.is_up and told.state != "BUS-OFF"
    return link.name == wanted and is_working and told.bitrate == BITRATE and not told.restart_ms


def udev_rules(paths: Mapping[ArmName, str], names: Mapping[ArmName, str]) -> list[str]:
    """The lines of a udev rules file that gives each arm's interface its name by the USB port."""
    return [
        f"# The arms' CAN interfaces by USB port. Put this into {RULES_FILE}, then:",
        "#   sudo udevadm control --reload, and plug the adapters in anew",
        *(
            f'SUBSYSTEM=="net", ACTION=="add", ATTR{{type}}=="{ARPHRD_CAN}", KERNELS=="{path}", NAME="{names[arm]}"'
            for arm, path in paths.items()
        ),
    ]


def _run(machine: Machine, commands: Sequence[Sequence[str]]) -> int:
    for command in commands:
        print_lines([shlex.join(command)])
        answer = machine.run(command)
        if answer.status != 0:
            _say(f"syvla: {shlex.join(command)}: {answer.error or f'status {answer.status}'}")
            return 1
    return 0


def print_lines(lines: Sequence[str]) -> None:
    """To standard output, which may be a pipe to a shell or a rules file."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _say(text: str) -> None:
    """To the person at the terminal, beside what is piped."""
    sys.stderr.write(f"{text}\n")
