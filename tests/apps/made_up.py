"""A made-up machine for the doctor and setup-can: a tree of files, programs that answer, packages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from syvla.apps.machine import Answer, Machine

NOT_FOUND = "No such file or directory"


class Programs:
    """Answers a command by the first key that is in one of its words; keeps what was asked."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Answer:
        self.asked.append(list(command))
        for key, answer in self.answers.items():
            if any(key in word for word in command):
                return answer
        return Answer(None, error=f"{command[0]}: {NOT_FOUND}")


def made_up(
    root: Path,
    answers: Mapping[str, Answer] | None = None,
    packages: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Machine:
    """A machine with nothing but what is given; ``packages`` has versions by module."""
    versions = packages or {}
    return Machine(root, environment or {}, Programs(answers or {}), lambda module, _: versions.get(module))


def put(root: Path, name: str, text: str) -> None:
    """Write a file of the made-up machine."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def plug_can(root: Path, name: str, usb_path: str, *, up: bool = False, serial: str = "", kind: int = 280) -> None:
    """Lay a network interface on USB out as sysfs does."""
    adapter = root / "sys/devices/pci0000:00/usb1" / usb_path.split(":")[0]
    device = adapter / usb_path
    put(device / "net" / name, "type", str(kind))
    put(device / "net" / name, "flags", "0x40081" if up else "0x40080")
    if serial:
        put(adapter, "serial", serial)
    for link, target in (("subsystem", "sys/bus/usb"), ("driver", "sys/bus/usb/drivers/gs_usb")):
        (root / target).mkdir(parents=True, exist_ok=True)
        if not (device / link).exists():
            (device / link).symlink_to(root / target)
    (device / "net" / name / "device").symlink_to("../..")
    (root / "sys/class/net").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/net" / name).symlink_to(device / "net" / name)


def told_by_ip(**links: tuple[int, str, int]) -> Answer:
    """What ``ip -json -details link show type can`` prints for (bit rate, state, restart_ms) by name."""
    shown = ",".join(
        f'{{"ifname":"{name}","flags":["NOARP"],"linkinfo":{{"info_kind":"can","info_data":{{"state":"{state}",'
        f'"restart_ms":{restart_ms},"bittiming":{{"bitrate":{bitrate},"sample_point":"0.750"}},"clock":48000000}}}}}}'
        for name, (bitrate, state, restart_ms) in links.items()
    )
    return Answer(0, f"[{{}},{{}},{shown}]")
