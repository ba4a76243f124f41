"""The recorder's node: the services that begin and end an episode, and each episode as a bag when it is over."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rclpy.node import Node
from std_srvs.srv import Trigger

from syvla.clock import monotonic_ns
from syvla.hosts.process import ProcessHost
from syvla.messages import EpisodeControl
from syvla.runs import RunFolder
from syvla.stages.recorder import RecorderStage
from syvla_ros.bag import MISSING, bag_folder, can_write
from syvla_ros.ends import Desk
from syvla_ros.node import run_node

Action = Literal["start", "success", "failure", "discard"]
ACTIONS: tuple[Action, ...] = ("start", "success", "failure", "discard")
OUTCOMES: dict[Action, str] = {"success": "success", "failure": "failure", "discard": "discarded"}
ANSWER_LIMIT_S = 2.0
LOOK_S = 0.5
LEFT = (".discarded.mcap", ".incomplete.mcap")
_BAG = "from syvla_ros.main import bag; bag()"


def run_recorder(folder: RunFolder, record: bool) -> None:
    """Be the recorder's node of the run in ``folder``; ``record``: begin an episode at once."""
    desk = Desk()

    def say(action: Action) -> None:
        desk.say("episode", EpisodeControl(action=action, name="", issued_ns=monotonic_ns()))

    def service(action: Action, recorder: RecorderStage) -> Callable[[Any, Any], Any]:
        def answer(_: Any, response: Any) -> Any:
            if action == "start" or recorder.episode:
                turns = recorder.turns
                say(action)
                heeded = _waited(lambda: recorder.turns != turns)
                done = recorder.episode != "" if action == "start" else recorder.outcome == OUTCOMES[action]
                response.success = heeded and done
            response.message = recorder.words
            return response

        return answer

    def furnish(node: Node, host: ProcessHost) -> None:
        recorder = host.stage
        assert isinstance(recorder, RecorderStage)  # noqa: S101 - this node's stage
        for action in ACTIONS:
            node.create_service(Trigger, f"record/{action}", service(action, recorder))
        if bags is not None and not can_write():
            node.get_logger().warning(MISSING)
        elif bags is not None:
            node.create_timer(LOOK_S, bags.look)

    bags = _Bags(folder) if folder.load().rig.ros.bags else None
    if record:
        say("start")
    run_node("recorder", folder, desk, furnish)
    if bags is not None and can_write():
        bags.look()


class _Bags:
    """Has every episode that is over written as a bag, one after the other, by processes that give way to everybody.

    The last one may outlive this process. What was discarded, or not written to its end, is left.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._recordings = folder.recordings
        self._log = folder.logs / "bags.log"
        self._begun: set[Path] = set()
        self._writer: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """See whether another one is over, and the one before it written."""
        if self._writer is not None and self._writer.poll() is None:
            return
        over = {path for path in self._recordings.glob("*.mcap") if not path.name.endswith(LEFT)} - self._begun
        path = min((path for path in over if not bag_folder(path).exists()), default=None)
        if path is None:
            return
        self._begun.add(path)
        with contextlib.suppress(OSError), self._log.open("ab") as log:  # a full disk, which the recorder tells of
            self._writer = subprocess.Popen(
                ["nice", "-n", "19", sys.executable, "-c", _BAG, str(path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


def _waited(done: Callable[[], bool]) -> bool:
    """Whether it was done within the time that an answer may take."""
    until_s = time.monotonic() + ANSWER_LIMIT_S
    while not done() and time.monotonic() < until_s:
        time.sleep(0.01)
    return done()
