"""The doctor looks at the devices: the arms' CAN buses, the cameras, the game controller. It sends nothing to any."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from syvla.apps.finding import Finding, missing, ok, problem, wanting, warning
from syvla.apps.machine import Machine
from syvla.config import ArmConfig, RigConfig
from syvla.drivers import piper_protocol as can_id
from syvla.drivers.can_links import DETAILS, CanLink, LinkDetails, can_links, link_details
from syvla.topics import CAMERAS

LISTEN_S = 0.5
_MAX_FRAMES = 20_000  # a full bus brings half of them in that time
_FEEDBACK = {can_id.STATUS_FEEDBACK, *can_id.JOINT_FEEDBACK, can_id.GRIPPER_FEEDBACK}
_COMMANDS = {can_id.MODE, can_id.JOINTS_12, can_id.JOINTS_34, can_id.JOINTS_56, can_id.GRIPPER}
_REALSENSE_RULES = (
    "install librealsense's udev rules (config/99-realsense-libusb.rules into /etc/udev/rules.d) and plug them in anew"
)

Hear = Callable[[ArmConfig], "Counter[int] | str"]

# ---------------------------------------------------------------- CAN


def hear(arm: ArmConfig, duration_s: float = LISTEN_S) -> "Counter[int] | str":
    """Frames heard on an arm's bus by identifier, or why it cannot be listened to. Sends nothing."""
    import can

    try:
        with can.Bus(interface=arm.can_interface, channel=arm.can_channel) as bus:
            return heard_on(bus, duration_s)
    except (can.CanError, OSError, ValueError) as error:
        return str(error)


def heard_on(bus: Any, duration_s: float) -> "Counter[int]":
    """Frames that an open python-can bus brings within ``duration_s``, and those that wait then, by identifier."""
    heard: Counter[int] = Counter()
    end_s = time.monotonic() + duration_s
    for _ in range(_MAX_FRAMES):
        frame = bus.recv(max(0.0, end_s - time.monotonic()))
        if frame is None:
            break
        if not frame.is_error_frame and not frame.is_extended_id:
            heard[frame.arbitration_id] += 1
    return heard


def can_findings(machine: Machine, rig: RigConfig, listen: Hear = hear) -> Iterator[Finding]:
    """The packages, the kernel's driver, and each arm's bus."""
    packages = [("can", "python-can"), ("piper_sdk", "piper_sdk")]
    absent = [name for module, name in packages if machine.package(module, name) is None]
    if absent:
        yield problem("can.packages", f"{' and '.join(absent)} missing", f"pip install {' '.join(absent)}")
    else:
        yield ok("can.packages", ", ".join(f"{name} {machine.package(module, name)}" for module, name in packages))
    arms = {"left": rig.left, "right": rig.right}
    links = can_links(machine.path("/sys"))
    needed = any(arm.can_interface == "socketcan" for arm in arms.values())
    yield _kernel_driver(machine, {link.driver for link in links if link.driver}, needed=needed)
    details = link_details(machine.run(DETAILS).out)
    for side, arm in arms.items():
        if arm.can_interface == "simcan":
            yield ok(f"can.{side}", "the twin's own bus (simcan), made when a run starts")
        elif arm.can_interface != "socketcan":
            yield warning(
                f"can.{side}",
                f"{arm.can_interface} {arm.can_channel!r}: only socketcan and simcan are known here",
                f'set {side}.can_interface = "socketcan" in the rig file',
            )
        else:
            found = interface(side, arm.can_channel, links, details)
            yield found
            if any(link.name == arm.can_channel and link.is_up for link in links) and not absent:
                yield feedback(side, arm.can_channel, listen(arm))


def _kernel_driver(machine: Machine, drivers: set[str], *, needed: bool) -> Finding:
    name = "can.kernel"
    if drivers:
        return ok(name, f"{', '.join(sorted(drivers))} drives what is plugged in")
    if machine.path("/sys/bus/usb/drivers/gs_usb").is_dir():
        return ok(name, "the gs_usb driver is loaded")
    release = machine.read("/proc/sys/kernel/osrelease") or ""
    modules = f"/lib/modules/{release}"
    lists = (machine.read(f"{modules}/{file}") or "" for file in ("modules.dep", "modules.builtin"))
    if any("/gs_usb.ko" in text for text in lists):
        return ok(name, "gs_usb is a module of this kernel; it loads when an adapter is plugged in")
    fix = "sudo apt-get install linux-modules-extra-$(uname -r), or boot a kernel with CONFIG_CAN_GS_USB"
    return missing(name, "this kernel has no gs_usb driver for USB-CAN adapters", fix, needed=needed)


def interface(side: str, channel: str, links: Sequence[CanLink], details: Mapping[str, LinkDetails]) -> Finding:
    """The interface of one arm: it exists, is up, and at the arm's bit rate."""
    name = f"can.{side}"
    link = next((link for link in links if link.name == channel), None)
    if link is None:
        others = ", ".join(f"{link.name} at {link.usb_path or 'no USB path'}" for link in links)
        if not others:
            return problem(name, f"no interface {channel!r}, and no CAN adapter", "plug the arms' USB-CAN adapters in")
        return problem(name, f"no interface {channel!r}; there are {others}", "syvla setup-can (tells left from right)")
    seen = f"{channel} at {link.usb_path or 'no USB path'}"
    if link.driver:
        seen += f" ({link.driver})"
    fix = "syvla setup-can prints what brings it up at 1 Mbit/s"
    if not link.is_up:
        return problem(name, f"{seen} is down", fix)
    told = details.get(channel, LinkDetails())
    if told.bitrate is None:
        return warning(name, f"{seen} is up; its bit rate is not told", "sudo apt-get install iproute2")
    if told.bitrate != can_id.BITRATE:
        return problem(name, f"{seen} is up at {told.bitrate} bit/s, the arm speaks {can_id.BITRATE}", fix)
    if told.state == "BUS-OFF":
        anew = f"sudo ip link set {channel} down && sudo ip link set {channel} up"
        return problem(name, f"{seen} is bus-off", f"check the cable and its termination, then: {anew}")
    if told.state in ("ERROR-WARNING", "ERROR-PASSIVE"):
        return warning(name, f"{seen} is up, but {told.state}", "check the arm's power, the cable and its termination")
    if told.restart_ms:
        return warning(name, f"{seen} restarts by itself {told.restart_ms} ms after bus-off; it should not", fix)
    return ok(name, f"{seen} is up at 1 Mbit/s, {(told.state or 'state not told').lower()}")


def feedback(side: str, channel: str, heard: "Counter[int] | str") -> Finding:
    """What was heard on the bus of one arm."""
    name = f"can.{side}.feedback"
    if isinstance(heard, str):
        return problem(name, f"{channel} cannot be listened to: {heard}", f"ip -details link show {channel}")
    if not heard:
        return problem(name, f"no frame in {LISTEN_S} s", "switch the arm on; check the plug of its CAN cable")
    if not heard.keys() >= _FEEDBACK:
        silent = ", ".join(f"{identifier:#x}" for identifier in sorted(_FEEDBACK - heard.keys()))
        return problem(name, f"{heard.total()} frames, but none of {silent}", "see that a Piper arm is on this bus")
    rate_hz = min(heard[identifier] for identifier in can_id.JOINT_FEEDBACK) / LISTEN_S
    if foreign := sorted(_COMMANDS & heard.keys()):
        return warning(
            name,
            f"joints at {rate_hz:.0f} Hz, and somebody commands this arm ({foreign[0]:#x})",
            "unplug the leader arm, or end the other program, before this runtime enables the arm",
        )
    return ok(name, f"joints at {rate_hz:.0f} Hz, {heard.total() / LISTEN_S:.0f} frames a second")


# ---------------------------------------------------------------- cameras


class Camera(msgspec.Struct, frozen=True):
    """A RealSense camera that the SDK sees."""

    name: str
    serial_number: str
    usb_type: str  # such as 3.2
    firmware: str = ""


_LIST_CAMERAS = """
import json, pyrealsense2 as rs
def told(device, info):
    return device.get_info(info) if device.supports(info) else ""
print(json.dumps([dict(
    name=told(device, rs.camera_info.name),
    serial_number=told(device, rs.camera_info.serial_number),
    usb_type=told(device, rs.camera_info.usb_type_descriptor),
    firmware=told(device, rs.camera_info.firmware_version),
) for device in rs.context().query_devices()]))
"""


def connected_cameras(machine: Machine) -> list[Camera] | str:
    """The RealSense cameras that the SDK sees, or why it cannot look."""
    answer = machine.python(_LIST_CAMERAS)
    cameras = answer.decode(list[Camera])
    return cameras if cameras is not None else answer.error or "pyrealsense2 answered nothing"


def camera_findings(machine: Machine, rig: RigConfig) -> Iterator[Finding]:
    """The SDK, what is connected, and each of the rig's cameras by its serial number."""
    needed = rig.kind != "twin"
    version = machine.package("pyrealsense2", "pyrealsense2")
    if version is None:
        yield missing("cameras.sdk", "pyrealsense2 is not installed", "pip install pyrealsense2", needed=needed)
        return
    found = connected_cameras(machine)
    if isinstance(found, str):
        library = "libusb-1.0.so" in found
        fix = "sudo apt-get install libusb-1.0-0" if library else "pip install --force-reinstall pyrealsense2"
        yield missing("cameras.sdk", f"pyrealsense2 {version} does not load: {found}", fix, needed=needed)
        return
    yield ok("cameras.sdk", f"pyrealsense2 {version}")
    yield connected(found, plugged_realsenses(machine.path("/sys")), needed=needed)
    for camera in CAMERAS if needed else ():
        yield bound_camera(camera, rig.cameras.serials.get(camera), found)


def connected(found: Sequence[Camera], plugged: int, *, needed: bool) -> Finding:
    """What the SDK sees, beside how many cameras the kernel sees."""
    name = "cameras.connected"
    if plugged > len(found):
        seen = f"the kernel sees {plugged} RealSense cameras, the SDK {len(found)}"
        return missing(name, seen, _REALSENSE_RULES, needed=needed)
    if len(found) < len(CAMERAS):
        told = ", ".join(camera.serial_number for camera in found) or "no camera"
        fix = "plug the cameras in" if needed else "nothing to do: the twin draws its own pictures"
        return missing(name, f"{told}; a robot has {len(CAMERAS)}", fix, needed=needed)
    return ok(name, ", ".join(f"{camera.name} {camera.serial_number}" for camera in found))


def bound_camera(camera: str, serial: str | None, found: Sequence[Camera]) -> Finding:
    """One of the rig's cameras: bound to a serial number, connected, and by USB 3."""
    name = f"cameras.{camera}"
    here = ", ".join(device.serial_number for device in found) or "none"
    if serial is None:
        return problem(
            name,
            f"no serial number is bound to it; connected: {here}",
            f'cover one lens at a time to tell them apart, then add {camera} = "SERIAL" to cameras.serials of the rig',
        )
    device = next((device for device in found if device.serial_number == serial), None)
    if device is None:
        return problem(name, f"{serial} is not connected; connected: {here}", "plug it in, or correct the rig file")
    seen = f"{device.name} {serial} on USB {device.usb_type or '?'}"
    if not device.usb_type.startswith("3"):
        return warning(name, seen, "plug it into a USB 3 port, with its own cable: USB 2 has no room for three cameras")
    return ok(name, seen)


def plugged_realsenses(sysfs: Path) -> int:
    """RealSense cameras that the kernel sees on USB, whoever may open them."""
    return sum("realsense" in _text(path).lower() for path in (sysfs / "bus/usb/devices").glob("*/product"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- controller


class _Pad(msgspec.Struct, frozen=True):
    name: str
    is_controller: bool


_LIST_CONTROLLERS = """
import json, os
os.environ["SDL_VIDEODRIVER"] = "dummy"
import sdl2
if sdl2.SDL_Init(sdl2.SDL_INIT_GAMECONTROLLER) != 0:
    raise SystemExit(sdl2.SDL_GetError().decode())
print(json.dumps([dict(
    name=(sdl2.SDL_JoystickNameForIndex(index) or b"").decode(errors="replace"),
    is_controller=bool(sdl2.SDL_IsGameController(index)),
) for index in range(sdl2.SDL_NumJoysticks())]))
"""


def controller_findings(machine: Machine, rig: RigConfig) -> Iterator[Finding]:
    """SDL, and the game controllers it sees. No rig needs one; without, nobody takes over by hand."""
    wanted = rig.kind != "twin"
    version = machine.package("sdl2", "PySDL2")
    if version is None:
        fix = "pip install PySDL2 pysdl2-dll"
        yield wanting("controller.sdk", "PySDL2 is not installed", fix, wanted=wanted)
        return
    answer = machine.python(_LIST_CONTROLLERS)
    pads = answer.decode(list[_Pad])
    if pads is None:
        yield wanting(
            "controller.sdk",
            f"PySDL2 {version} does not start: {answer.error or 'no answer'}",
            "pip install --force-reinstall PySDL2 pysdl2-dll",
            wanted=wanted,
        )
        return
    yield ok("controller.sdk", f"PySDL2 {version}")
    name = "controller.connected"
    known = [pad.name for pad in pads if pad.is_controller]
    if known:
        yield ok(name, ", ".join(known))
    elif pads:
        seen = f"SDL knows no button layout for {', '.join(pad.name for pad in pads)}"
        yield wanting(name, seen, "use a controller that SDL knows, such as an Xbox or DualShock one", wanted=wanted)
    elif devices := machine.glob("/dev/input/js*"):
        seen = f"{devices[0].name} is there, but SDL sees no controller"
        yield wanting(name, seen, "sudo usermod -aG input $USER, and log in again", wanted=wanted)
    else:
        yield wanting(name, "no game controller", "plug a game controller in", wanted=wanted)
