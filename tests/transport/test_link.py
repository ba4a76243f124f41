"""The two ends of a link: who gets in, what crosses, and what becomes of it when either end goes and comes back."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
import zmq

from syvla import messages as m
from syvla.errors import TransportError
from syvla.protocols import Header, Received
from syvla.transport.codec import encode
from syvla.transport.conversation import encode_note
from syvla.transport.curve import Doorkeeper
from syvla.transport.keys import PlannerKeys, RobotKeys, make_keys, planner_keys, robot_keys
from syvla.transport.planner_end import PlannerEnd
from syvla.transport.robot_end import RobotEnd

LIMIT_S = 30.0
QUIET_S = 0.3
LOOPBACK = "tcp://127.0.0.1:*"
End = PlannerEnd | RobotEnd
E = TypeVar("E", PlannerEnd, RobotEnd)


class Link:
    """Ends of one test, served as their hosts would."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.got: dict[End, list[Received]] = {}

    def planner(self, address: str = LOOPBACK, keys: PlannerKeys | None = None, epoch: int = 1000) -> PlannerEnd:
        return self._add(PlannerEnd(address, epoch, keys))

    def robot(self, planner: PlannerEnd | str, keys: RobotKeys | None = None, epoch: int = 50) -> RobotEnd:
        return self._add(RobotEnd(planner if isinstance(planner, str) else planner.address, epoch, keys))

    def _add(self, end: E) -> E:
        self.ends.append(end)
        self.got[end] = []
        return end

    def turn(self, *paused: End) -> None:
        for end in self.ends:
            if end not in paused:
                self.got[end] += end.drain()
                end.poll()
        time.sleep(0.002)

    def until(self, done: Callable[[], bool], *paused: End) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline_s, "it never came about"
            self.turn(*paused)

    def rest(self, seconds: float = QUIET_S, *paused: End) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.turn(*paused)

    def leave(self, end: End) -> None:
        end.close()
        self.ends.remove(end)

    def numbers(self, end: End, topic: str) -> list[int]:
        return [number(r.message) for r in self.got[end] if r.header.topic == topic]


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    for end in list(link.ends):
        link.leave(end)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlannerKeys, RobotKeys, RobotKeys]:
    """A planner's, those of a robot on its list, and those of one that is not."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("planner", "robot", "stranger"):
        make_keys(folder / name)
    for name in ("robot", "stranger"):
        shutil.copy(folder / "planner" / "own.key", folder / name / "planner.key")
    shutil.copy(folder / "robot" / "own.key", folder / "planner" / "allowed" / "robot.key")
    return planner_keys(folder / "planner"), robot_keys(folder / "robot"), robot_keys(folder / "stranger")


Keys = tuple[PlannerKeys, RobotKeys, RobotKeys]


def observation(stamp: int, shape: tuple[int, int] = (20, 30)) -> m.Observation:
    rgb = np.full((*shape, 3), stamp % 251, np.uint8)
    frames = tuple(
        m.CameraFrame(camera=camera, frame_id=stamp, exposure_ns=stamp, rgb=rgb) for camera in ("cam_high", "cam_left")
    )
    return m.Observation(observation_ns=stamp, proprioception=np.zeros(14), frames=frames, source_age_s={})


def intent(number: int, stamp: int = 0) -> m.Intent:
    return m.Intent(
        intent_id=number,
        task_id=1,
        observation_ns=stamp,
        chain_of_thought="so",
        feature_query_states=np.ones((20, 2048), np.float16),
        model_id="x",
    )


def task(number: int) -> m.Task:
    return m.Task(task_id=number, instruction="tidy up", issued_ns=0)


def number(message: object) -> int:
    if isinstance(message, m.Intent):
        return message.intent_id
    if isinstance(message, m.Task):
        return message.task_id
    assert isinstance(message, m.Observation)
    return message.observation_ns


# ---------------------------------------------------------------- what crosses


@pytest.mark.parametrize("encrypted", [False, True])
def test_observations_go_up_and_intents_come_down_with_the_robots_own_stamps(
    link: Link, keys: Keys, encrypted: bool
) -> None:
    planner = link.planner(keys=keys[0] if encrypted else None)
    robot = link.robot(planner, keys[1] if encrypted else None)
    began_ns = time.monotonic_ns()
    robot.publish("task", task(3), 0, 0)
    robot.publish("observation", observation(123), 11, 12)
    link.until(lambda: len(link.got[planner]) == 2 or link.numbers(planner, "task") == [3])
    if not link.numbers(planner, "observation"):  # it was published before anybody was there, so it was old
        robot.publish("observation", observation(123), 11, 12)
    link.until(lambda: link.numbers(planner, "observation") == [123])
    seen = link.got[planner][-1].message
    assert isinstance(seen, m.Observation)
    assert (seen.frames[1].rgb == 123).all()
    planner.publish("intent", intent(5, 123), 987_654_321, 42)
    link.until(lambda: link.numbers(robot, "intent") == [5])
    (received,) = link.got[robot]
    assert isinstance(received.message, m.Intent)
    assert received.message.observation_ns == 123
    epoch, sequence, sent_ns, step_ns = received.header[1:]
    assert (sequence, step_ns) == (0, 42), "the planner's own"
    assert began_ns <= epoch <= sent_ns <= time.monotonic_ns(), "in the robot's time, whatever the planner's clock says"
    sent = encode(Header("intent", 1000, 0, 987_654_321, 42), intent(5, 123))
    assert [bytes(frame) for frame in received.wire()] == [bytes(frame) for frame in sent[1:]]


def test_the_largest_image_crosses_encrypted(link: Link, keys: Keys) -> None:
    """Encryption makes a frame a little longer than the limit that holds for what is in it."""
    planner = link.planner(keys=keys[0])
    robot = link.robot(planner, keys[1])
    link.until(lambda: robot.connected)
    robot.publish("observation", observation(1, (550, 1271)), 0, 0)  # 2 bytes less than 2 MiB
    link.until(lambda: link.numbers(planner, "observation") == [1])


def test_other_topics_do_not_cross(link: Link) -> None:
    planner = link.planner()
    robot = link.robot(planner)
    link.until(lambda: robot.connected)
    hold = m.OperatorCommand(command_id=1, issued_ns=0, action="resume")
    robot.publish("operator", hold, 0, 0)
    planner.publish("operator", hold, 0, 0)
    link.rest()
    assert not link.got[robot]
    assert not link.got[planner]


# ---------------------------------------------------------------- who gets in


def test_a_key_that_is_not_on_the_list_is_refused_and_the_robot_says_so(link: Link, keys: Keys) -> None:
    planner = link.planner(keys=keys[0])
    robot, stranger = link.robot(planner, keys[1]), link.robot(planner, keys[2])
    link.until(lambda: robot.connected and stranger.trouble == "it refuses this robot's key")
    stranger.publish("task", task(666), 0, 0)
    link.rest()
    assert not link.got[planner]
    assert not stranger.connected


def test_another_planners_key_is_refused(link: Link, keys: Keys) -> None:
    planner = link.planner(keys=keys[0])
    public, _ = zmq.curve_keypair()
    robot = link.robot(planner, keys[1]._replace(planner=public))
    link.until(lambda: "key may be another one" in robot.trouble)
    link.rest()
    assert not robot.connected


@pytest.mark.parametrize("who", ["planner", "robot"])
def test_one_end_without_encryption_does_not_get_through(link: Link, keys: Keys, who: str) -> None:
    planner = link.planner(keys=None if who == "planner" else keys[0])
    robot = link.robot(planner, None if who == "robot" else keys[1])
    link.until(lambda: "handshake failed" in robot.trouble)
    link.rest()
    assert not robot.connected


def test_without_a_doorkeeper_nobody_gets_in(link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself libzmq lets everybody in who knows the public key, when nobody answers at the door."""
    monkeypatch.setattr(Doorkeeper, "poll", lambda self: None)
    planner = link.planner(keys=keys[0])
    assert planner._doorkeeper is not None
    planner._doorkeeper.socket.close()
    robot = link.robot(planner, keys[1])
    link.rest(1.0)
    assert not robot.connected


def test_off_loopback_there_are_keys_or_nothing(keys: Keys) -> None:
    with pytest.raises(TransportError, match="encrypted links are required"):
        PlannerEnd("tcp://0.0.0.0:*", 1)
    with pytest.raises(TransportError, match="encrypted links are required"):
        RobotEnd("tcp://10.1.2.3:5570", 1)
    PlannerEnd("tcp://0.0.0.0:*", 1, keys[0]).close()
    RobotEnd("tcp://10.1.2.3:5570", 1, keys[1]).close()


def test_a_port_that_is_taken_is_said(link: Link) -> None:
    planner = link.planner()
    with pytest.raises(TransportError, match="Address already in use"):
        PlannerEnd(planner.address, 1)


# ---------------------------------------------------------------- one robot at a time


def test_a_second_robot_is_told_and_gets_the_seat_when_the_first_leaves(link: Link) -> None:
    planner = link.planner()
    first = link.robot(planner)
    link.until(lambda: first.connected)
    second = link.robot(planner)
    link.until(lambda: second.trouble == "it serves another robot")
    second.publish("observation", observation(2), 0, 0)
    first.publish("observation", observation(1), 0, 0)
    link.until(lambda: link.numbers(planner, "observation") == [1])
    planner.publish("intent", intent(1), 0, 0)
    link.until(lambda: link.numbers(first, "intent") == [1])
    link.leave(first)
    link.until(lambda: second.connected)
    link.rest()
    assert link.numbers(second, "intent") == [], "what was meant for the first"
    assert link.numbers(planner, "observation") == [1], "what was seen before there was a conversation is old"


def test_a_robot_that_falls_silent_loses_the_seat_and_comes_back_when_it_is_free(link: Link) -> None:
    planner = link.planner()
    first, second = link.robot(planner), link.robot(planner)
    link.until(lambda: first.connected or second.connected)
    silent, other = (first, second) if first.connected else (second, first)
    link.until(lambda: other.connected, silent)
    link.leave(other)

    def seen() -> bool:
        silent.publish("observation", observation(4), 0, 0)
        return link.numbers(planner, "observation")[-1:] == [4]

    link.until(seen)


# ---------------------------------------------------------------- newest wins


def test_a_busy_planner_gets_the_newest_next_and_nothing_in_between(link: Link) -> None:
    planner = link.planner()
    robot = link.robot(planner)
    link.until(lambda: robot.connected)
    for stamp in range(1, 101):
        robot.publish("observation", observation(stamp), 0, 0)
        link.turn(planner)
    link.until(lambda: link.numbers(planner, "observation")[-1:] == [100])
    assert link.numbers(planner, "observation") == [1, 100]


def test_a_busy_robot_gets_the_newest_intent_next(link: Link) -> None:
    planner = link.planner()
    robot = link.robot(planner)
    link.until(lambda: robot.connected and planner.connected)
    for count in range(50):
        planner.publish("intent", intent(count), 0, 0)
        link.turn(robot)
    link.until(lambda: link.numbers(robot, "intent")[-1:] == [49])
    assert link.numbers(robot, "intent") == [0, 49]


# ---------------------------------------------------------------- a long way


class Wire:
    """A wire to ``port`` that takes ``delay_s``; it can be stopped, and what is on its way up is counted."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.delay_s = delay_s
        self.stopped = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._far = port
        self._ends: list[tuple[socket.socket, socket.socket, list[tuple[float, bytes]]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    @property
    def up_bytes(self) -> int:
        """What has left the robot and not arrived."""
        return sum(len(data) for _, data in list(self._ends[0][2])) if self._ends else 0

    def __enter__(self) -> "Wire":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()
        for near, far, _ in self._ends:
            near.close()
            far.close()
        self._server.close()

    def _carry(self) -> None:
        self._server.setblocking(False)
        while not self._over.wait(0.002):
            with contextlib.suppress(BlockingIOError):
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._far))
                for end in (near, far):
                    end.setblocking(False)
                self._ends += [(near, far, []), (far, near, [])]
            for source, sink, on_way in self._ends:
                with contextlib.suppress(OSError):
                    while data := source.recv(1 << 20):
                        on_way.append((time.monotonic() + self.delay_s, data))
                while on_way and not self.stopped and on_way[0][0] <= time.monotonic():
                    with contextlib.suppress(OSError):
                        sink.setblocking(True)
                        sink.sendall(on_way[0][1])
                        sink.setblocking(False)
                    del on_way[0]


def test_a_long_way_lets_everything_through_and_each_answer_has_the_whole_of_it_in_its_age(
    link: Link, keys: Keys
) -> None:
    planner = link.planner(keys=keys[0])
    delay_s = 0.06
    with Wire(int(planner.address.rpartition(":")[2]), delay_s) as wire:
        robot = link.robot(wire.address, keys[1])
        sent_s: dict[int, float] = {}
        answered: list[int] = []

        def five_answers() -> bool:
            stamp = len(sent_s) + 1
            sent_s[stamp] = time.monotonic()
            robot.publish("observation", observation(stamp), 0, 0)
            for stamp in link.numbers(planner, "observation")[len(answered) :]:
                answered.append(stamp)
                planner.publish("intent", intent(stamp, stamp), 0, 0)
            return len(link.numbers(robot, "intent")) >= 5

        link.until(five_answers)
        last = link.got[robot][-1]
        assert last.received_ns * 1e-9 - sent_s[number(last.message)] >= 2 * delay_s
        link.leave(robot)


def test_nothing_queues_behind_a_link_that_is_stuck(link: Link, keys: Keys) -> None:
    planner = link.planner(keys=keys[0])
    size = 2 * 200 * 300 * 3
    with Wire(int(planner.address.rpartition(":")[2]), 0.0) as wire:
        robot = link.robot(wire.address, keys[1])
        link.until(lambda: robot.connected)
        wire.stopped = True
        for stamp in range(1, 101):
            robot.publish("observation", observation(stamp, (200, 300)), 0, 0)
            link.turn()
        link.until(lambda: wire.up_bytes > size)
        link.rest()
        assert wire.up_bytes < 1.5 * size, "one observation, and notes"
        wire.stopped = False
        link.until(lambda: link.numbers(planner, "observation")[-1:] in ([1], [100]))
        link.leave(robot)


# ---------------------------------------------------------------- going and coming back


@pytest.mark.parametrize("epoch", [2000, 3])
def test_a_restarted_planner_is_followed_also_when_its_clock_began_anew(link: Link, epoch: int) -> None:
    planner = link.planner(epoch=1000)
    robot = link.robot(planner)
    link.until(lambda: robot.connected)
    robot.publish("task", task(8), 0, 0)
    robot.publish("observation", observation(1), 0, 0)
    planner.publish("intent", intent(900), 0, 0)
    link.until(lambda: link.numbers(robot, "intent") == [900])
    link.leave(planner)
    link.until(lambda: not robot.connected)
    again = link.planner(planner.address, epoch=epoch)
    link.until(lambda: robot.connected)
    link.until(lambda: link.numbers(again, "task") == [8])
    link.rest()
    assert link.numbers(again, "observation") == [], "an old one does not wait for a new planner"
    again.publish("intent", intent(0), 0, 0)
    link.until(lambda: link.numbers(robot, "intent") == [900, 0])
    before, after = link.got[robot]
    assert (after.header.epoch, after.header.sequence) > (before.header.epoch, before.header.sequence)
    assert after.header.epoch > before.header.epoch


def test_a_planner_that_counts_anew_in_the_same_run_cannot_go_back(link: Link) -> None:
    """Whoever passes its messages on would have been given one that was older than the last, and ended."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.RCVTIMEO, 5000)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    try:
        robot = link.robot(f"tcp://127.0.0.1:{port}")
        link.until(lambda: bool(router.poll(0)))
        identity = router.recv_multipart()[0]
        for conversation in (1, 2):
            router.send_multipart([identity, encode_note(4, conversation)])
            router.send_multipart([identity, *map(bytes, encode(Header("intent", 4, 0, 0, 0), intent(0)))])
        link.until(lambda: len(link.got[robot]) == 2)
        first, second = (received.header.epoch for received in link.got[robot])
        assert second > first
    finally:
        router.close()


def test_a_robot_whose_clock_began_anew_is_served(link: Link) -> None:
    """A robot's machine that is started anew has smaller stamps than before: that is no replay."""
    planner = link.planner()
    first = link.robot(planner, epoch=10**15)
    link.until(lambda: first.connected)
    first.publish("observation", observation(10**15), 0, 0)
    link.until(lambda: link.numbers(planner, "observation") == [10**15])
    link.leave(first)
    again = link.robot(planner, epoch=5)
    link.until(lambda: again.connected)
    again.publish("observation", observation(6), 0, 0)
    link.until(lambda: link.numbers(planner, "observation") == [10**15, 6])


def test_a_planner_that_freezes_is_noticed_and_found_again(link: Link) -> None:
    planner = link.planner()
    robot = link.robot(planner)
    link.until(lambda: robot.connected)
    link.until(lambda: robot.trouble == "silent", planner)
    link.until(lambda: robot.connected)
    robot.publish("observation", observation(1), 0, 0)
    link.until(lambda: link.numbers(planner, "observation") == [1])


def test_a_refused_robot_gets_in_when_its_key_has_been_put_on_the_list(link: Link, keys: Keys) -> None:
    """Libzmq gives up for good where it was refused."""
    planner = link.planner(keys=keys[0])
    stranger = link.robot(planner, keys[2])
    link.until(lambda: stranger.trouble == "it refuses this robot's key")
    link.leave(planner)
    link.planner(planner.address, keys[0]._replace(allowed=frozenset({keys[2].own.public})))
    link.until(lambda: stranger.connected)


# ---------------------------------------------------------------- hostile ends


def test_hostile_frames_are_counted_and_outlived(link: Link) -> None:
    planner = link.planner()
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    raw.setsockopt(zmq.LINGER, 0)
    raw.setsockopt(zmq.RCVTIMEO, 5000)
    try:
        raw.connect(planner.address)
        raw.send(encode_note(9))
        link.until(lambda: planner.connected)
        good = [bytes(frame) for frame in encode(Header("task", 9, 0, 0, 0), task(1))]
        bad = [
            [b""],
            [b"\xdd\xff\xff\xff\xff"],
            [b"\x91" * 10_000],
            [good[0], b"\x80"],
            [bytes(encode(Header("task", 9, 1, 0, 0), task(1))[0]), good[1], b"surplus"],
            [bytes(encode(Header("intent", 9, 0, 0, 0), intent(1))[0]), good[1]],
            [encode_note(9, 1, {"intent": 5})],
        ]
        for frames in bad:
            raw.send_multipart(frames)
        link.until(lambda: planner.refused == len(bad))
        assert "intent 5 was never sent" in planner.last_refusal
        later = encode(Header("task", 9, 2, 0, 0), task(7))
        raw.send_multipart([bytes(frame) for frame in later])
        link.until(lambda: link.numbers(planner, "task") == [7])
    finally:
        raw.close()


def test_a_robot_that_waits_and_lies_does_not_end_the_planner(link: Link) -> None:
    """What a note claims to have taken is only looked at in a conversation that there is."""
    planner = link.planner()
    first = link.robot(planner)
    link.until(lambda: first.connected)
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    raw.setsockopt(zmq.LINGER, 0)
    try:
        raw.connect(planner.address)
        raw.send(encode_note(9, 2, {"intent": 5}))
        link.rest()
        link.leave(first)
        raw.send(encode_note(9, 2, {"intent": 5}))
        link.until(lambda: not planner.connected or planner._conversations == 2)
        link.rest()
    finally:
        raw.close()


def test_a_hostile_planner_is_counted_and_outlived(link: Link) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.RCVTIMEO, 5000)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    try:
        robot = link.robot(f"tcp://127.0.0.1:{port}")
        link.until(lambda: bool(router.poll(0)))
        identity = router.recv_multipart()[0]
        early = [bytes(frame) for frame in encode(Header("intent", 4, 0, 0, 0), intent(0))]
        router.send_multipart([identity, *early])
        link.until(lambda: robot.passed_over == 1)
        router.send_multipart([identity, encode_note(4, 1)])
        link.until(lambda: robot.connected)
        command = m.OperatorCommand(command_id=1, issued_ns=0, action="resume")
        for frames in (
            [bytes(frame) for frame in encode(Header("operator", 4, 0, 0, 0), command)],
            [early[0], b"\x80"],
            [b"\xc1"],
        ):
            router.send_multipart([identity, *frames])
        link.until(lambda: robot.refused == 3)
        assert not link.got[robot]
        good = [bytes(frame) for frame in encode(Header("intent", 4, 1, 0, 0), intent(1))]
        router.send_multipart([identity, *good])
        router.send_multipart([identity, *good])
        link.until(lambda: robot.passed_over == 2)
        assert link.numbers(robot, "intent") == [1]
    finally:
        router.close()
