"""Commands about this machine, its devices, keys and figures."""

import functools
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from syvla.commands.shared import Json, Policy, check_writable, ended_by_ctrl_c, write_json
from syvla.errors import ConfigError


def bench(name: Positional[str], json: Json = None, repeats: int = 0, quick: bool = False) -> int:
    """Run one benchmark and say whether it reached its target (exit status 1 if not).

    Args:
        name: transport, link, loop, lockstep, takeover, demonstrator, closed-loop, cameras, recorder, disk, expert,
            planner, policy, reaction or seams.
        json: also write the result to this file.
        repeats: how often to measure; 0 for the benchmark's own number.
        quick: a short run, to see that it works; its figures mean little.
    """
    from syvla.bench import BENCHMARKS

    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    check_writable(json, f"syvla bench {name}")
    result, lines = BENCHMARKS[name](repeats or None, quick)
    print("conditions: " + ", ".join(f"{key} {value}" for key, value in result["conditions"].items()))
    for line in lines:
        print(line)
    write_json(json, f"syvla bench {name}", result)
    return 0 if result["reached"] else 1


def doctor(
    rig: str = "twin",
    policy: Policy | None = None,
    runs: Path = Path("runs"),
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of the table")] = False,
) -> int:
    """Say whether this machine is ready for a rig, and how to mend what is not (exit status 1 if it is not).

    It looks and listens, and changes nothing: no bus is brought up, no arm is sent anything.

    Args:
        rig: a shipped rig, or the path of a rig file.
        policy: reference, learned, or the folder of a checkpoint; learned by default where that checkpoint is here.
        runs: the folder for runs: its disk is looked at.
        json: print one JSON object instead of the table.
    """
    from syvla.apps.doctor import doctor as examine
    from syvla.apps.machine import this_machine
    from syvla.policies import default_policy, policy_folder
    from syvla.runs import load_rig

    config = load_rig(rig)
    if policy not in (None, "reference"):
        policy_folder(policy)
    return examine(this_machine(), config, policy or default_policy(), runs, json)


def setup_can(
    rig: str = "cobot_magic",
    left: str = "",
    right: str = "",
    identify: bool = False,
    udev: bool = False,
    run: bool = False,
) -> int:
    """Print the commands that name the arms' CAN interfaces and bring them up, by the USB ports they are on.

    Without --left and --right, the ports are those of the interfaces that have the rig's names already. Do not run
    the commands while the arms are enabled: an interface that they change is down for a moment.

    Args:
        rig: whose interfaces, by its can_channel; a shipped rig, or the path of a rig file.
        left: USB path of the left arm's adapter, such as 1-2:1.0.
        right: USB path of the right arm's adapter.
        identify: find out which is which, by unplugging the left one.
        udev: print a udev rule instead, which keeps the names from then on.
        run: run the commands; this needs root.
    """
    from syvla.apps.machine import this_machine
    from syvla.apps.setup_can import setup_can as set_up
    from syvla.runs import load_rig

    return set_up(this_machine(), load_rig(rig), left, right, identify=identify, udev=udev, run=run)


def find_can() -> int:
    """List the CAN interfaces with their USB paths and serial numbers (exit status 1 if there is none)."""
    from syvla.apps.setup_can import described
    from syvla.drivers.can_links import can_links

    links = can_links()
    print("\n".join(described(links)))
    return 0 if links else 1


def find_cameras() -> int:
    """List the RealSense cameras by serial number (exit status 1 if there is none)."""
    from syvla.apps.doctor_devices import connected_cameras
    from syvla.apps.machine import this_machine

    found = connected_cameras(this_machine())
    if isinstance(found, str):
        print(f"the cameras cannot be listed: {found}")
        return 1
    for camera in found:
        print(f"{camera.serial_number}  {camera.name}, USB {camera.usb_type or '?'}, firmware {camera.firmware or '?'}")
    if not found:
        print("none: plug the cameras in; syvla doctor says whether the SDK may open them")
    return 0 if found else 1


def planner(
    policy: Policy | None = None,
    bind: str = "tcp://127.0.0.1:5570",
    keys: Path | None = None,
    latency: float | None = None,
    rig: str = "twin",
) -> int:
    """Run the slow system by itself, for a robot on another machine; Ctrl-C ends it.

    Args:
        policy: reference, learned, or the folder of a checkpoint; learned by default where that checkpoint is here.
        bind: tcp://address:port to listen at; other machines reach it only where there are keys.
        keys: the folder of keys (`syvla keys`): its own pair, and in allowed/ the robots that may connect.
        latency: how long it takes to think [s], where no model takes the time; 0.3 for the reference, else 0.
        rig: the rig of a reference policy.
    """
    with ended_by_ctrl_c():
        from syvla.apps.planner import serve_planner
        from syvla.policies import default_policy
        from syvla.runs import lockstep_run

    policy = policy or default_policy()
    latency_s = latency if latency is not None else 0.3 if policy == "reference" else 0.0
    serve_planner(lockstep_run(rig, latency_s, 0.0, policy), bind, keys, functools.partial(print, flush=True))
    return 0


def keys(folder: Positional[Path]) -> int:
    """Make a pair of keys for the link between a robot and its planner, and show the public ones.

    Args:
        folder: where they are kept; keys that are there already are shown, never replaced.
    """
    from syvla.apps.planner import show_keys

    show_keys(folder, print)
    return 0
