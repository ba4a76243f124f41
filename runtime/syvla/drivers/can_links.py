"""The CAN interfaces of this machine, as sysfs and ``ip`` tell: names, USB paths, bit rates. Opens none of them."""

from pathlib import Path
from typing import NamedTuple

import msgspec

ARPHRD_CAN = 280  # linux/if_arp.h
IFF_UP = 1
SYSFS = Path("/sys")
DETAILS = ("ip", "-json", "-details", "link", "show", "type", "can")  # reads; the bit rate is not in sysfs


class CanLink(NamedTuple):
    """One interface. ``usb_path`` is its USB interface such as 1-2:1.0, "" where it is not on USB."""

    name: str
    usb_path: str
    driver: str
    serial: str  # of the adapter
    is_up: bool


class LinkDetails(NamedTuple):
    """What only the kernel's netlink tells; None where it did not."""

    bitrate: int | None = None
    state: str | None = None  # ERROR-ACTIVE, ERROR-WARNING, ERROR-PASSIVE, BUS-OFF, STOPPED
    restart_ms: int | None = None  # 0: bus-off does not restart by itself


def can_links(sysfs: Path = SYSFS) -> list[CanLink]:
    """Every CAN interface below ``sysfs``, by USB path; the loopback ones (vcan) have none."""
    links = []
    for folder in (sysfs / "class/net").glob("*"):
        if _text(folder / "type") != str(ARPHRD_CAN):
            continue
        device = (folder / "device").resolve()
        is_usb = (device / "subsystem").resolve().name == "usb"
        links.append(
            CanLink(
                name=folder.name,
                usb_path=device.name if is_usb else "",
                driver=(device / "driver").resolve().name if (device / "driver").exists() else "",
                serial=_text(device.parent / "serial") if is_usb else "",
                is_up=bool(_flags(folder) & IFF_UP),
            )
        )
    return sorted(links, key=lambda link: (link.usb_path, link.name))


def link_details(text: str) -> dict[str, LinkDetails]:
    """The CAN interfaces in what :data:`DETAILS` printed, by name; empty where that was nothing of the kind."""
    try:
        links = msgspec.json.decode(text, type=list[_Link])
    except msgspec.MsgspecError:
        return {}
    return {
        link.ifname: LinkDetails(data.bittiming.bitrate, data.state, data.restart_ms)
        for link in links
        if link.linkinfo.info_kind == "can"
        for data in (link.linkinfo.info_data,)
    }


class _Timing(msgspec.Struct, frozen=True):
    bitrate: int | None = None


class _Data(msgspec.Struct, frozen=True):
    bittiming: _Timing = _Timing()
    state: str | None = None
    restart_ms: int | None = None


class _Info(msgspec.Struct, frozen=True):
    info_kind: str = ""
    info_data: _Data = _Data()


class _Link(msgspec.Struct, frozen=True):
    ifname: str = ""
    linkinfo: _Info = _Info()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _flags(folder: Path) -> int:
    try:
        return int(_text(folder / "flags"), 16)
    except ValueError:
        return 0
