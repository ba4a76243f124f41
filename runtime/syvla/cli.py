"""The ``syvla`` command."""

import io
import sys
from collections.abc import Callable

import tyro

from syvla.commands.machine import bench, doctor, find_cameras, find_can, keys, planner, setup_can
from syvla.commands.recordings import check, convert, replay, report
from syvla.commands.twin import demo, demonstrate, evaluate, scenes, stage
from syvla.errors import SyvlaError
from syvla.plain import LINE, plain

COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "eval": evaluate,
    "demonstrate": demonstrate,
    "scenes": scenes,
    "bench": bench,
    "report": report,
    "check": check,
    "convert": convert,
    "replay": replay,
    "doctor": doctor,
    "setup-can": setup_can,
    "find-can": find_can,
    "find-cameras": find_cameras,
    "planner": planner,
    "keys": keys,
    "stage": stage,
}


def main() -> None:
    """Entry point: 0 done, 1 not reached, 2 bad input, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be any bytes
    try:
        status = tyro.extras.subcommand_cli_from_dict(COMMANDS, description=__doc__)
    except SyvlaError as error:
        print(f"syvla: {plain(str(error), LINE)}", file=sys.stderr)
        status = 2
    except ModuleNotFoundError as error:
        from syvla.extras import SIM_PACKAGES

        if error.name not in SIM_PACKAGES:
            raise
        print(
            f"syvla: {error.name} is missing; the twin and the reports need: pip install 'syvla[sim]'", file=sys.stderr
        )
        status = 2
    except KeyboardInterrupt:  # outside a run, which holds the arms and ends by itself
        print("syvla: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
