"""CAN interfaces are found in sysfs by their USB path, and their bit rate in what ``ip`` prints."""

from pathlib import Path

import pytest
from tests.apps.made_up import plug_can, put, told_by_ip

from syvla.drivers.can_links import CanLink, LinkDetails, can_links, link_details


def test_interfaces_are_listed_by_usb_path_with_driver_serial_and_state(tmp_path: Path) -> None:
    plug_can(tmp_path, "can0", "1-3:1.0", serial="0042003A")
    plug_can(tmp_path, "can_left", "1-2:1.0", up=True)
    plug_can(tmp_path, "eth0", "1-4:1.0", kind=1)
    put(tmp_path, "sys/class/net/vcan0/type", "280")
    put(tmp_path, "sys/class/net/vcan0/flags", "no number")
    assert can_links(tmp_path / "sys") == [
        CanLink("vcan0", "", "", "", is_up=False),
        CanLink("can_left", "1-2:1.0", "gs_usb", "", is_up=True),
        CanLink("can0", "1-3:1.0", "gs_usb", "0042003A", is_up=False),
    ]


def test_a_machine_without_sysfs_has_none(tmp_path: Path) -> None:
    assert can_links(tmp_path) == []


def test_ip_tells_bit_rate_state_and_restart() -> None:
    told = told_by_ip(can_left=(1_000_000, "ERROR-ACTIVE", 0), can0=(500_000, "BUS-OFF", 100))
    assert link_details(told.out) == {
        "can_left": LinkDetails(1_000_000, "ERROR-ACTIVE", 0),
        "can0": LinkDetails(500_000, "BUS-OFF", 100),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("[{},{}]", {}),
        ("Object does not exist", {}),
        ('{"ifname":"can0"}', {}),
        ('[{"ifname":"vcan0","linkinfo":{"info_kind":"vcan"}}]', {}),
        ('[{"ifname":"can0","linkinfo":{"info_kind":"can"}}]', {"can0": LinkDetails()}),
    ],
)
def test_what_ip_does_not_tell_is_not_known(text: str, expected: dict[str, LinkDetails]) -> None:
    assert link_details(text) == expected
