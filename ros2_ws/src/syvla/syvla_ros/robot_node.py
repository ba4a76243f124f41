"""The robot's node: its lifecycle, the operator's services, and the task in force."""

import contextlib
import os
import queue
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from syvla.apps.doctor_software import calibration_findings
from syvla.clock import monotonic_ns, to_ns
from syvla.config import RunConfig
from syvla.control.mode import MOVING
from syvla.errors import SyvlaError
from syvla.hosts.process import ProcessHost, stop_with_parent
from syvla.messages import ARMS, Mode, OperatorCommand, SafetyState
from syvla.rig import ask_realtime, stage_host
from syvla.runs import RunFolder
from syvla_ros import qos
from syvla_ros.ends import Desk, JoinedInlet, JoinedOutlet
from syvla_ros.node import NAMESPACE, init_ros, join, ros_stage, spun_beside
from syvla_ros.routes import TASK

WATCHED = ("expert", "cameras", "planner")
HELD_FOR = ("expert", "cameras", "teleop")  # without these the arms hold at once; an intent lives on for a while
# A model takes a while to load, and enabled arms do not wait for it; cameras that see nothing yet would hold them.
AWAITED = {"health/planner", "health/expert", "cameras"}
ENABLED_MARK = "enabled-by-itself"
BY_ITSELF_PERIOD_S = 0.2
FEEDBACK_LIMIT_S = 3.0  # for both arms to be heard
ANSWER_LIMIT_S = 1.0  # for the gate to obey
AGAIN_S = 0.2  # after which it is told again: arms that brake cannot be resumed yet
BUILD_LIMIT_S = 30.0
POLL_S = 0.01
_OK, _FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class RobotNode(LifecycleNode):
    """Configured: the arms are heard, and commanded nothing. Active: enabled. Inactive again: held, with torque on.

    Nothing leads back from torque: the arms hold when this node is cleaned up or shut down, and when it dies they
    stay at the last set-point. The stage runs in the main thread (:meth:`serve`); what ROS asks comes in an
    executor's threads and is said to the stage as the operator's words.
    """

    def __init__(self, run: RunConfig, folder: RunFolder, realtime: str, instruction: str, enable: bool) -> None:
        super().__init__("robot", namespace=NAMESPACE, start_parameter_services=False)
        self._run, self._folder, self._realtime = run, folder, realtime
        self._requests: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self._ended = False
        self._host: ProcessHost | None = None  # of the stage that is configured
        self._served: ProcessHost | None = None  # of the last one that was
        self._inlet: JoinedInlet | None = None
        self._outlet: JoinedOutlet | None = None
        self._desk = Desk()
        self._tried_to_configure = False
        services = MutuallyExclusiveCallbackGroup()  # a hold is heard while a transition waits
        self.create_service(SetBool, "enable", self._on_enable, callback_group=services)
        for name in ("hold", "soft_stop", "resume", "clear_fault"):
            self.create_service(Trigger, name, self._operator(name), callback_group=services)
        self._task = self.create_publisher(String, f"{TASK}/current", qos.KEPT)
        self.create_subscription(String, TASK, self._task.publish, qos.COMMAND, callback_group=services)
        self.create_timer(BY_ITSELF_PERIOD_S, self._go_on_by_itself)
        self._enable_by_itself = enable
        if instruction:
            self._task.publish(String(data=instruction))

    # ------------------------------------------------------------ the main thread

    def serve(self) -> None:
        """Run the stage whenever it is configured, until a signal or the shutdown transition. The arms then hold."""
        while not self._ended:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # while a stage runs, its host has them
                signal.signal(number, lambda *_: self._end())
            if self._served is not None and self._served.signalled:
                return
            with contextlib.suppress(queue.Empty):
                self._serve_one(self._requests.get(timeout=0.1))

    def _serve_one(self, asked: Future[None]) -> None:
        try:
            stage = ros_stage("robot", self._run, self._folder, self)
            self._inlet, self._outlet = join(self._run, stage, self, self._desk, WATCHED, HELD_FOR)
            self._host = self._served = stage_host("robot", self._run, stage, self._inlet, self._outlet, self._realtime)
        except SyvlaError as error:
            asked.set_exception(error)
            return
        asked.set_result(None)
        self._served.run()
        self._host = None

    def _end(self) -> None:
        self._ended = True

    # ------------------------------------------------------------ lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open both arms and hear them; what of the rig nobody has measured is said."""
        for finding in calibration_findings(self._run.rig):
            if finding.fix:
                self.get_logger().warning(f"{finding.name}: {finding.seen}; {finding.fix}")
        asked: Future[None] = Future()
        self._requests.put(asked)
        try:
            asked.result(BUILD_LIMIT_S)
        except (SyvlaError, TimeoutError) as error:
            self.get_logger().error(f"not configured: {error}")
            return _FAILED
        silent = [arm for arm in ARMS if not self._wait(partial(self._seen, f"arm/{arm}"), FEEDBACK_LIMIT_S)]
        if silent:
            self.get_logger().error(f"not configured: no feedback from the {' and the '.join(silent)} arm")
            self._stop_stage()
            return _FAILED
        return _OK

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable; or, where the arms were held before, resume."""
        mode = self._mode()
        action = "enable" if mode is Mode.DISABLED else "resume"
        return _OK if mode in MOVING or self._ask(action, MOVING)[0] else _FAILED

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold."""
        return _OK if self._ask("hold", set(Mode) - MOVING)[0] else _FAILED

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the arms, which hold with torque on."""
        self._stop_stage()
        return _OK

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, for good."""
        self._stop_stage()
        self._ended = True
        return _OK

    def _stop_stage(self) -> None:
        host, self._host = self._host, None
        self._inlet = self._outlet = None
        if host is not None:
            host.request_stop()

    def _go_on_by_itself(self) -> None:
        """Configure at once; where that was asked for, enable once in a run, when both systems are heard.

        A node that was started again after its death finds the mark of the first: nothing resumes by itself.
        """
        if not self._tried_to_configure:
            self._tried_to_configure = True
            self.trigger_configure()
        inlet = self._inlet
        if not self._enable_by_itself or inlet is None or not inlet.heard >= AWAITED:
            return
        self._enable_by_itself = False
        with contextlib.suppress(FileExistsError):
            (self._folder.path / ENABLED_MARK).touch(exist_ok=False)
            self.trigger_activate()

    # ------------------------------------------------------------ the operator

    def _operator(self, action: Any) -> Callable[[Any, Any], Any]:
        expected = {"resume": MOVING, "clear_fault": {Mode.HOLD}}.get(action, set(Mode) - MOVING)

        def answer(_: Any, response: Any) -> Any:
            response.success, response.message = self._ask(action, expected)
            return response

        return answer

    def _on_enable(self, request: Any, response: Any) -> Any:
        if request.data and self._mode() is Mode.DISABLED:  # the same as activating, so that the state tells it too
            response.success, response.message = self.trigger_activate() is _OK, self._words()
            return response
        action = "enable" if request.data else "hold"
        response.success, response.message = self._ask(action, MOVING if request.data else set(Mode) - MOVING)
        return response

    def _ask(self, action: Any, expected: Any) -> tuple[bool, str]:
        """Say it to the gate, and again while it may not obey yet; whether it did, and its mode with the reasons."""
        if self._host is None:
            return False, "not configured"
        if action in ("enable", "resume") and self._inlet is not None and self._inlet.crowded("chunk"):
            return False, "more than one node publishes chunks"
        begun_ns = monotonic_ns()
        limit_s = ANSWER_LIMIT_S + (self._run.rig.control.enable_timeout_s if action == "enable" else 0.0)
        done = False
        while not done and monotonic_ns() - begun_ns < to_ns(limit_s):
            now_ns = monotonic_ns()
            self._desk.say("robot/operator", OperatorCommand(command_id=now_ns, issued_ns=now_ns, action=action))
            done = self._wait(lambda: self._mode() in expected and self._safety_ns() > begun_ns, AGAIN_S)
        return done, self._words()

    # ------------------------------------------------------------ what the stage said

    def _seen(self, topic: str) -> Any:
        return None if self._outlet is None else self._outlet.seen.get(topic)

    def _mode(self) -> Mode | None:
        safety = self._seen("safety")
        return safety.mode if isinstance(safety, SafetyState) else None

    def _safety_ns(self) -> int:
        safety = self._seen("safety")
        return safety.stamp_ns if isinstance(safety, SafetyState) else -1

    def _words(self) -> str:
        safety = self._seen("safety")
        if not isinstance(safety, SafetyState):
            return "no word from the gate"
        return "; ".join([safety.mode.value, *(f"{r.code}: {r.detail}. {r.next_step}" for r in safety.reasons)])

    @staticmethod
    def _wait(condition: Callable[[], Any], limit_s: float) -> bool:
        end_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)
        return True


def run_robot(folder: RunFolder, instruction: str, enable: bool) -> None:
    """Be the robot's node of the run in ``folder``."""
    run = folder.load()
    stop_with_parent(os.getppid())
    realtime = ask_realtime("robot", run.rig.realtime)
    init_ros()
    node = RobotNode(run, folder, realtime, instruction, enable)
    executor = MultiThreadedExecutor(num_threads=2)
    executor.add_node(node)
    with spun_beside(executor):
        node.serve()
