"""``syvla planner`` and ``syvla keys``: the slow system by itself for a robot elsewhere, and who may connect."""

import logging
from collections.abc import Callable
from pathlib import Path

from syvla.config import RunConfig
from syvla.rig import planner_host
from syvla.transport.addresses import check_address, is_loopback
from syvla.transport.keys import ALLOWED, PLANNER, PUBLIC, SECRET, make_keys, own_keys, planner_keys, public_key


def serve_planner(run: RunConfig, address: str, folder: Path | None, say: Callable[[str], None]) -> None:
    """Think for the robot that connects to ``address``, one at a time, until SIGINT or SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    keys = None if folder is None else planner_keys(folder)
    check_address(address, encrypted=keys is not None)  # before the model, which takes a while to load
    if keys is not None:
        where = "" if is_loopback(address) else "; the network reaches this port"
        say(f"encrypted, {len(keys.allowed)} keys may connect{where}")
    host = planner_host(run, address, keys)
    say(f"policy {run.policy_name} listens at {address}")
    host.run()


def show_keys(folder: Path, say: Callable[[str], None]) -> None:
    """Make the pair of keys in ``folder`` if there is none, and say which keys are there and what to do with them."""
    if not (folder / SECRET).exists():
        make_keys(folder)
        say(f"made {folder / SECRET}, which never leaves this machine")
    say(f"public key of this machine, {folder / PUBLIC}: {own_keys(folder).public.decode()}")
    others = sorted((folder / ALLOWED).glob("*.key"))
    for path in (*others, *((folder / PLANNER,) if (folder / PLANNER).exists() else ())):
        say(f"  {path.relative_to(folder)}: {public_key(path).decode()}")
    if not others:
        say(f"no robot may connect to a planner here: put its {PUBLIC} into {folder / ALLOWED} as NAME.key")
    if not (folder / PLANNER).exists():
        say(f"a robot here knows no planner: put its {PUBLIC} there as {folder / PLANNER}")
