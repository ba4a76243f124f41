"""The doctor on devices: each fault of a bus, a camera or a controller has its finding and its fix."""

import json
from collections import Counter
from pathlib import Path

import can
import msgspec
import numpy as np
import pytest
from tests.apps.made_up import made_up, plug_can, put, told_by_ip

from syvla.apps.doctor_devices import (
    Camera,
    bound_camera,
    camera_findings,
    can_findings,
    connected,
    controller_findings,
    feedback,
    hear,
    heard_on,
    interface,
    plugged_realsenses,
)
from syvla.apps.finding import Finding, State
from syvla.apps.machine import Answer
from syvla.config import ArmConfig, RigConfig
from syvla.drivers.can_links import CanLink, LinkDetails
from syvla.drivers.piper_emulator import PiperEmulator
from syvla.drivers.piper_protocol import JOINTS_12
from syvla.drivers.simcan import free_channels
from syvla.message import Float64
from syvla.runs import load_rig

TWIN, ROBOT = load_rig("twin"), load_rig("cobot_magic")
GOOD = LinkDetails(1_000_000, "ERROR-ACTIVE", 0)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# ---------------------------------------------------------------- CAN


@pytest.mark.parametrize(
    ("up", "told", "state", "seen"),
    [
        (True, GOOD, State.OK, "up at 1 Mbit/s"),
        (False, GOOD, State.PROBLEM, "is down"),
        (True, None, State.WARNING, "bit rate is not told"),
        (True, GOOD._replace(bitrate=500_000), State.PROBLEM, "500000 bit/s, the arm speaks 1000000"),
        (True, GOOD._replace(state="BUS-OFF"), State.PROBLEM, "bus-off"),
        (True, GOOD._replace(state="ERROR-PASSIVE"), State.WARNING, "ERROR-PASSIVE"),
        (True, GOOD._replace(restart_ms=100), State.WARNING, "restarts by itself 100 ms"),
    ],
)
def test_an_interface_is_judged_by_what_the_kernel_tells(
    up: bool, told: LinkDetails | None, state: State, seen: str
) -> None:
    links = [CanLink("can_left", "1-2:1.0", "gs_usb", "", up)]
    finding = interface("left", "can_left", links, {"can_left": told} if told else {})
    assert (finding.state, seen in finding.seen) == (state, True), finding
    assert "1-2:1.0" in finding.seen
    assert bool(finding.fix) is (state is not State.OK)


def test_an_interface_without_its_name_is_for_setup_can() -> None:
    finding = interface("left", "can_left", [CanLink("can0", "1-2:1.0", "gs_usb", "", True)], {})
    assert finding.state is State.PROBLEM
    assert "can0 at 1-2:1.0" in finding.seen
    assert "setup-can" in finding.fix


class Still:
    """Joints that stand."""

    def measured(self) -> tuple[Float64, Float64, Float64, float]:
        return np.zeros(6), np.zeros(6), np.zeros(6), 0.0

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        pass

    def torque(self, on: bool) -> None:
        pass


def test_an_arm_that_speaks_is_heard_and_sent_nothing() -> None:
    """Over the simulated bus, against the emulated arm: the frames are those of the vendor's protocol."""
    (channel,) = free_channels("left")
    emulator = PiperEmulator("left", Still(), channel)
    with can.Bus(interface="simcan", channel=channel) as bus:
        for tick in range(100):
            emulator.send(tick * 5_000_000)
        heard = heard_on(bus, 0.0)
        sent_to_it = emulator._bus.receive()
    emulator.close()
    finding = feedback("left", channel, heard)
    assert (finding.state, "joints at 200 Hz" in finding.seen) == (State.OK, True), finding
    assert sent_to_it == []


def test_a_bus_on_which_nobody_speaks_is_silent() -> None:
    (channel,) = free_channels("left")
    assert hear(ArmConfig(can_interface="simcan", can_channel=channel), 0.05) == Counter()


def test_a_bus_that_cannot_be_opened_says_why() -> None:
    heard = hear(ArmConfig(can_interface="simcan", can_channel="nowhere"), 0.1)
    finding = feedback("left", "nowhere", heard)
    assert finding.state is State.PROBLEM
    assert "NAME@PORT" in finding.seen


def frames(*identifiers: int) -> "Counter[int]":
    return Counter(dict.fromkeys(identifiers, 100))


@pytest.mark.parametrize(
    ("heard", "state", "seen"),
    [
        (frames(), State.PROBLEM, "no frame"),
        (frames(0x123), State.PROBLEM, "none of 0x2a1"),
        (frames(0x2A1, 0x2A5, 0x2A6, 0x2A8), State.PROBLEM, "none of 0x2a7"),
        (frames(0x2A1, 0x2A5, 0x2A6, 0x2A7, 0x2A8), State.OK, "joints at 200 Hz"),
        (frames(0x2A1, 0x2A5, 0x2A6, 0x2A7, 0x2A8, JOINTS_12), State.WARNING, "somebody commands this arm (0x155)"),
    ],
)
def test_what_is_heard_tells_whether_an_arm_is_there_and_who_commands_it(
    heard: "Counter[int]", state: State, seen: str
) -> None:
    finding = feedback("left", "can_left", heard)
    assert (finding.state, seen in finding.seen) == (state, True), finding


def test_only_a_bus_that_is_up_is_listened_to(tmp_path: Path) -> None:
    plug_can(tmp_path, "can_left", "1-2:1.0", up=True)
    plug_can(tmp_path, "can_right", "1-3:1.0")
    packages = {"can": "4.6", "piper_sdk": "0.6.2"}
    machine = made_up(tmp_path, {"-details": told_by_ip(can_left=(1_000_000, "ERROR-ACTIVE", 0))}, packages)
    listened = []

    def listen(arm: ArmConfig) -> "Counter[int] | str":
        listened.append(arm.can_channel)
        return "gone"

    found = by_name(list(can_findings(machine, ROBOT, listen)))
    assert listened == ["can_left"]
    assert found["can.left"].state is State.OK
    assert found["can.right"].state is State.PROBLEM
    assert found["can.left.feedback"].state is State.PROBLEM


@pytest.mark.parametrize(
    ("files", "ready"),
    [
        ({}, False),
        ({"lib/modules/6.8/modules.dep": "kernel/drivers/net/can/usb/gs_usb.ko.zst: kernel/net/can-dev.ko"}, True),
        ({"lib/modules/6.8/modules.dep": "kernel/drivers/net/can/usb/peak.ko:"}, False),
        ({"sys/bus/usb/drivers/gs_usb/bind": ""}, True),
    ],
)
def test_the_kernel_driver_may_be_loaded_or_loadable(tmp_path: Path, files: dict[str, str], ready: bool) -> None:
    put(tmp_path, "proc/sys/kernel/osrelease", "6.8")
    for name, text in files.items():
        put(tmp_path, name, text)
    machine = made_up(tmp_path)
    for rig, otherwise in ((ROBOT, State.PROBLEM), (TWIN, State.NOT_HERE)):
        found = by_name(list(can_findings(machine, rig)))
        assert found["can.kernel"].state is (State.OK if ready else otherwise)


def test_an_adapter_with_another_driver_needs_no_gs_usb(tmp_path: Path) -> None:
    plug_can(tmp_path, "can_left", "1-2:1.0")
    assert by_name(list(can_findings(made_up(tmp_path), ROBOT)))["can.kernel"].state is State.OK


# ---------------------------------------------------------------- cameras

HIGH = Camera("D435", "111", "3.2", "5.17")
SLOW = Camera("D405", "222", "2.1", "5.17")


@pytest.mark.parametrize(
    ("serial", "state", "seen"),
    [
        ("111", State.OK, "D435 111 on USB 3.2"),
        ("222", State.WARNING, "on USB 2.1"),
        ("333", State.PROBLEM, "333 is not connected; connected: 111, 222"),
        (None, State.PROBLEM, "no serial number is bound to it; connected: 111, 222"),
    ],
)
def test_a_camera_is_known_by_its_serial_number(serial: str | None, state: State, seen: str) -> None:
    finding = bound_camera("cam_high", serial, [HIGH, SLOW])
    assert (finding.state, seen in finding.seen) == (state, True), finding


def test_cameras_that_the_kernel_sees_and_the_sdk_does_not_want_udev_rules(tmp_path: Path) -> None:
    put(tmp_path, "sys/bus/usb/devices/2-1/product", "Intel(R) RealSense(TM) Depth Camera 435")
    put(tmp_path, "sys/bus/usb/devices/2-2/product", "a mouse")
    assert plugged_realsenses(tmp_path / "sys") == 1
    finding = connected([], 1, needed=True)
    assert finding.state is State.PROBLEM
    assert "udev" in finding.fix
    assert connected([HIGH] * 3, 3, needed=True).state is State.OK
    assert connected([HIGH], 1, needed=True).state is State.PROBLEM
    assert connected([], 0, needed=False).state is State.NOT_HERE


@pytest.mark.parametrize(
    ("packages", "answer", "fix"),
    [
        ({}, Answer(None), "pip install pyrealsense2"),
        (
            {"pyrealsense2": "2.59"},
            Answer(1, error="ImportError: libusb-1.0.so.0: cannot open shared object file"),
            "libusb-1.0-0",
        ),
        ({"pyrealsense2": "2.59"}, Answer(-11), "--force-reinstall"),
        ({"pyrealsense2": "2.59"}, Answer(0, "no list"), "--force-reinstall"),
    ],
)
def test_an_sdk_that_does_not_load_is_a_finding(
    tmp_path: Path, packages: dict[str, str], answer: Answer, fix: str
) -> None:
    machine = made_up(tmp_path, {"pyrealsense2": answer}, packages)
    (robot,) = camera_findings(machine, ROBOT)
    assert (robot.name, robot.state, fix in robot.fix) == ("cameras.sdk", State.PROBLEM, True), robot
    (twin,) = camera_findings(machine, TWIN)
    assert twin.state is State.NOT_HERE


def test_each_camera_of_a_robot_has_its_finding(tmp_path: Path) -> None:
    listed = json.dumps([{"name": "D435", "serial_number": "111", "usb_type": "3.2", "firmware": "5"}])
    machine = made_up(tmp_path, {"pyrealsense2": Answer(0, "a library talks\n" + listed)}, {"pyrealsense2": "2.59"})
    cameras = msgspec.structs.replace(ROBOT.cameras, serials={"cam_high": "111", "cam_left_wrist": "9"})
    rig: RigConfig = msgspec.structs.replace(ROBOT, cameras=cameras)
    found = by_name(list(camera_findings(machine, rig)))
    assert {name: finding.state for name, finding in found.items()} == {
        "cameras.sdk": State.OK,
        "cameras.connected": State.PROBLEM,
        "cameras.cam_high": State.OK,
        "cameras.cam_left_wrist": State.PROBLEM,
        "cameras.cam_right_wrist": State.PROBLEM,
    }


# ---------------------------------------------------------------- controller


@pytest.mark.parametrize(
    ("answer", "name", "seen"),
    [
        (Answer(1, error="no SDL"), "controller.sdk", "does not start: no SDL"),
        (Answer(0, "[]"), "controller.connected", "no game controller"),
        (Answer(0, '[{"name": "Odd", "is_controller": false}]'), "controller.connected", "no button layout for Odd"),
        (Answer(0, '[{"name": "Xbox", "is_controller": true}]'), "controller.connected", "Xbox"),
    ],
)
def test_no_rig_needs_a_controller_but_a_robot_wants_one(tmp_path: Path, answer: Answer, name: str, seen: str) -> None:
    machine = made_up(tmp_path, {"sdl2": answer}, {"sdl2": "0.9"})
    is_there = "true" in answer.out
    for rig, otherwise in ((ROBOT, State.WARNING), (TWIN, State.NOT_HERE)):
        finding = by_name(list(controller_findings(machine, rig)))[name]
        assert (finding.state, seen in finding.seen) == (State.OK if is_there else otherwise, True), finding


def test_a_controller_that_may_not_be_opened_wants_the_group(tmp_path: Path) -> None:
    put(tmp_path, "dev/input/js0", "")
    machine = made_up(tmp_path, {"sdl2": Answer(0, "[]")}, {"sdl2": "0.9"})
    finding = by_name(list(controller_findings(machine, ROBOT)))["controller.connected"]
    assert "usermod -aG input" in finding.fix
