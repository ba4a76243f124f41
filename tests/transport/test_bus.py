"""The bus between endpoints that are slow, dead, restarted or hostile."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from syvla import messages as m
from syvla.errors import MessageError, TransportError
from syvla.protocols import Header, Received
from syvla.topics import TOPICS
from syvla.transport.bus import Inlet, Outlet, Subscription
from syvla.transport.codec import encode, pack_record, unpack_record
from syvla.transport.credit import DEFAULT_WINDOW, GRANT_PERIOD_NS, MAX_WINDOW, Mode

LIMIT_S = 10.0
QUIET_S = 0.15  # longer than anything takes that is still to come


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        yield f"ipc://{folder}/publisher"


class Ends:
    """Endpoints of one test, served as their hosts would."""

    def __init__(self) -> None:
        self.outlets: list[Outlet] = []
        self.inlets: list[Inlet] = []
        self.raw: list[zmq.Socket[bytes]] = []
        self.got: dict[Inlet, list[Received]] = {}

    def outlet(self, address: str, epoch: int = 1, queue_messages: int = 4096, queue_bytes: int = 2**26) -> Outlet:
        outlet = Outlet("test", [address], epoch, queue_messages=queue_messages, queue_bytes=queue_bytes)
        self.outlets.append(outlet)
        return outlet

    def inlet(self, address: str, *topics: str, mode: Mode = "latest", window: int | None = None) -> Inlet:
        inlet = Inlet([Subscription(topic, address, mode, window) for topic in topics or ("task",)])
        self.inlets.append(inlet)
        self.got[inlet] = []
        return inlet

    def socket(self, kind: int) -> "zmq.Socket[bytes]":
        raw: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        raw.setsockopt(zmq.LINGER, 0)
        raw.setsockopt(zmq.RCVTIMEO, 5000)
        self.raw.append(raw)
        return raw

    def turn(self, paused: Sequence[Inlet] = ()) -> None:
        for outlet in self.outlets:
            outlet.poll()
        for inlet in self.inlets:
            if inlet not in paused:
                self.got[inlet] += inlet.drain()
        time.sleep(0.001)

    def until(self, done: Callable[[], bool], paused: Sequence[Inlet] = ()) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline_s, "it never came about"
            self.turn(paused)

    def rest(self, seconds: float = QUIET_S, paused: Sequence[Inlet] = ()) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.turn(paused)

    def connect(self, outlet: Outlet, inlet: Inlet, number: int = -1) -> None:
        """Publish one task until ``inlet`` has it."""
        outlet.publish("task", task(number), 0, 0)
        self.until(lambda: numbers(self.got[inlet])[-1:] == [number])

    def end(self, *ends: Outlet | Inlet) -> None:
        for end in ends:
            end.close()
            if isinstance(end, Outlet):
                self.outlets.remove(end)
            else:
                self.inlets.remove(end)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.end(*ends.outlets, *ends.inlets)
    for raw in ends.raw:
        raw.close()


def task(number: int) -> m.Task:
    return m.Task(task_id=number, instruction="put the red snack on the tray", issued_ns=number)


def image(number: int, side: int = 200) -> m.CameraFrame:
    rgb = np.full((side, side, 3), number % 251, np.uint8)
    return m.CameraFrame(camera="cam_high", frame_id=number, exposure_ns=number, rgb=rgb)


def numbers(received: Sequence[Received]) -> list[int]:
    return [r.message.task_id for r in received if isinstance(r.message, m.Task)]


# ---------------------------------------------------------------- newest wins


def test_a_message_arrives_with_its_header_and_its_bytes(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address, epoch=7)
    inlet = ends.inlet(address, "camera/cam_high", "task")
    outlet.publish("task", task(1), 10, 20)
    outlet.publish("camera/cam_high", image(3), 30, 40)
    ends.until(lambda: len(ends.got[inlet]) == 2)
    by_topic = {received.header.topic: received for received in ends.got[inlet]}
    assert by_topic["task"].header == Header("task", 7, 0, 10, 20)
    frame = by_topic["camera/cam_high"]
    assert frame.header == Header("camera/cam_high", 7, 0, 30, 40)
    sent = encode(frame.header, image(3))
    assert [bytes(part) for part in frame.wire()] == [bytes(part) for part in sent[1:]]
    assert [bytes(part) for part in unpack_record(pack_record(frame.wire()))] == [bytes(part) for part in sent[1:]]
    assert (inlet.received, inlet.refused, inlet.dropped, inlet.replayed) == (2, 0, 0, 0)


def test_a_message_goes_over_loopback_tcp(ends: Ends) -> None:
    outlet = ends.outlet("tcp://127.0.0.1:*")
    inlet = ends.inlet(outlet.addresses[0])
    ends.connect(outlet, inlet, 4)


def test_a_late_joiner_gets_the_current_value_at_once(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    for number in range(50):
        outlet.publish("task", task(number), 0, 0)
    latest = ends.inlet(address)
    lossless = ends.inlet(address, mode="lossless")
    ends.until(lambda: bool(ends.got[latest] and ends.got[lossless]))
    assert numbers(ends.got[latest]) == numbers(ends.got[lossless]) == [49]


def test_a_slow_reader_gets_the_newest_and_never_goes_back(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address)
    ends.connect(outlet, inlet)
    number = 0
    for pause in (1, 5, 100, 1000):
        for _ in range(pause):
            outlet.publish("task", task(number), 0, 0)
            outlet.poll()
            number += 1
        newest = number - 1
        ends.until(lambda newest=newest: numbers(ends.got[inlet])[-1] == newest)  # type: ignore[misc]
    seen = numbers(ends.got[inlet])
    assert seen == sorted(set(seen))
    assert inlet.dropped == inlet.refused == inlet.replayed == 0


def test_a_paused_reader_has_no_more_than_its_window_waiting(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address, window=3)
    ends.connect(outlet, inlet)
    ends.rest(2 * GRANT_PERIOD_NS / 1e9)
    for number in range(200):
        outlet.publish("task", task(number), 0, 0)
        outlet.poll()
    time.sleep(QUIET_S)
    assert numbers(inlet.drain()) == [2]
    ends.until(lambda: numbers(ends.got[inlet])[-1] == 199)
    assert inlet.superseded == 2


def test_messages_of_several_frames_are_never_split_or_mixed(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address, "camera/cam_high", "task", window=2)
    for number in range(300):
        outlet.publish("camera/cam_high", image(number, side=40 + number % 160), 0, 0)
        outlet.publish("task", task(number), 0, 0)
        if number % 3 == 0:
            ends.turn()

    def newest_came() -> bool:
        came = [r.message for r in ends.got[inlet] if isinstance(r.message, m.CameraFrame)]
        return bool(came) and came[-1].frame_id == 299

    ends.until(newest_came)
    images = [r.message for r in ends.got[inlet] if isinstance(r.message, m.CameraFrame)]
    assert len(images) > 3
    for frame in images:
        assert frame.rgb.shape[0] == 40 + frame.frame_id % 160
        assert (frame.rgb == frame.frame_id % 251).all()
    assert (inlet.refused, inlet.last_refusal) == (0, "")


def test_topics_that_nobody_asked_for_are_not_sent(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address)
    outlet.publish("camera/cam_high", image(1), 0, 0)
    ends.connect(outlet, inlet)
    ends.rest()
    assert {received.header.topic for received in ends.got[inlet]} == {"task"}
    assert inlet.refused == 0


# ---------------------------------------------------------------- every message


@pytest.mark.parametrize("window", [1, 2, None])
def test_a_lossless_reader_gets_everything_in_order(ends: Ends, address: str, window: int | None) -> None:
    outlet = ends.outlet(address)
    inlet = ends.inlet(address, "task", "camera/cam_high", mode="lossless", window=window)
    ends.connect(outlet, inlet)
    for number in range(3 * MAX_WINDOW if window is None else 30):
        outlet.publish("task", task(number), 0, 0)
        outlet.publish("camera/cam_high", image(number, side=20), 0, 0)
    total = 2 * (3 * MAX_WINDOW if window is None else 30) + 1
    ends.until(lambda: len(ends.got[inlet]) == total)
    got = [r.header.sequence for r in ends.got[inlet] if r.header.topic == "task"]
    assert got == list(range(len(got)))
    assert (inlet.dropped, outlet.dropped, inlet.superseded) == (0, 0, 0)


def test_topics_of_one_publisher_stay_in_the_order_in_which_they_were_sent(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    inlet = ends.inlet(address, "task", "operator", mode="lossless")
    ends.connect(outlet, inlet)
    outlet.publish("operator", m.OperatorCommand(command_id=0, issued_ns=0, action="hold"), 0, 0)
    ends.until(lambda: len(ends.got[inlet]) == 2)
    for number in range(20):
        outlet.publish("task", task(number), number, 0)
        outlet.publish("operator", m.OperatorCommand(command_id=number, issued_ns=0, action="hold"), number, 0)
    ends.until(lambda: len(ends.got[inlet]) == 42)
    order = [(r.header.sent_ns, r.header.topic) for r in ends.got[inlet][2:]]
    assert order == [(number, topic) for number in range(20) for topic in ("task", "operator")]


def test_overflow_of_a_lossless_queue_is_counted_at_both_ends(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address, queue_messages=10)
    inlet = ends.inlet(address, mode="lossless", window=4)
    ends.connect(outlet, inlet)
    ends.rest(2 * GRANT_PERIOD_NS / 1e9)
    for number in range(100):
        outlet.publish("task", task(number), 0, 0)
    ends.until(lambda: numbers(ends.got[inlet])[-1] == 99)
    assert numbers(ends.got[inlet]) == [-1, 0, 1, 2, 3, *range(90, 100)]
    assert outlet.dropped == inlet.dropped == 86


def test_overflow_is_counted_in_bytes_too(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address, queue_bytes=500_000)
    inlet = ends.inlet(address, "camera/cam_high", "task", mode="lossless", window=1)
    ends.connect(outlet, inlet)
    for number in range(20):
        outlet.publish("camera/cam_high", image(number), 0, 0)  # 120 kB
    ends.until(lambda: bool(ends.got[inlet]) and ends.got[inlet][-1].header.sequence == 19)
    assert outlet.dropped == inlet.dropped > 10


# ---------------------------------------------------------------- passing on


def came(epoch: int, sequence: int) -> Received:
    """A task that another process sent."""
    header = Header("task", epoch, sequence, 5, 6)
    body = encode(header, task(sequence))[1:]
    return Received(header, task(sequence), 7, lambda: body)


@pytest.mark.parametrize("mode", ["latest", "lossless"])
def test_what_is_relayed_keeps_its_header_and_its_bytes_across_restarts_of_its_sender(
    ends: Ends, address: str, mode: Mode
) -> None:
    """Under the header of the one who passes it on, a sender that had begun anew would have looked like an old one."""
    outlet, inlet = ends.outlet(address, epoch=10), ends.inlet(address, mode=mode, window=2)
    positions = [(epoch, sequence) for epoch in (11, 30, 31) for sequence in range(40)]
    for position in positions:
        outlet.relay(came(*position))
        ends.until(lambda position=position: bool(ends.got[inlet]) and ends.got[inlet][-1].header[1:3] == position)  # type: ignore[misc]
    assert [received.header[1:] for received in ends.got[inlet]] == [(*position, 5, 6) for position in positions]
    assert [bytes(frame) for frame in ends.got[inlet][-1].wire()] == [bytes(frame) for frame in came(31, 39).wire()]
    assert (inlet.dropped, inlet.replayed, inlet.refused, outlet.refused) == (0, 0, 0, 0)


def test_a_lossless_reader_behind_a_restart_of_the_sender_gets_the_rest_of_both(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address, epoch=10), ends.inlet(address, mode="lossless", window=2)
    outlet.relay(came(11, 0))
    ends.until(lambda: len(ends.got[inlet]) == 1)
    rest = [*((11, n) for n in range(1, 30)), *((12, n) for n in range(30))]
    for position in rest:
        outlet.relay(came(*position))
    ends.until(lambda: len(ends.got[inlet]) == 60)
    assert [received.header[1:3] for received in ends.got[inlet][1:]] == rest


def test_what_is_not_newer_is_not_relayed(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address, epoch=10)
    outlet.relay(came(11, 5))
    for stale in ((11, 5), (11, 4), (10, 99), (9, 0)):
        with pytest.raises(MessageError, match="cannot be relayed"):
            outlet.relay(came(*stale))


# ---------------------------------------------------------------- restarts and deaths


def test_a_restarted_publisher_is_followed(ends: Ends, address: str) -> None:
    first = ends.outlet(address, epoch=1)
    inlet = ends.inlet(address)
    lossless = ends.inlet(address, mode="lossless")
    for number in range(300):
        first.publish("task", task(number), 0, 0)
        ends.turn()
    ends.end(first)
    ends.rest()
    second = ends.outlet(address, epoch=2)
    for number in range(1000, 1300):
        second.publish("task", task(number), 0, 0)
        ends.turn()
    ends.until(lambda: numbers(ends.got[inlet])[-1] == numbers(ends.got[lossless])[-1] == 1299)
    seen = numbers(ends.got[lossless])
    assert seen == sorted(set(seen))
    assert (inlet.replayed, inlet.refused) == (0, 0)


def test_an_older_epoch_is_dropped_and_counted(ends: Ends, address: str) -> None:
    """A publisher that was replaced and comes back must not be believed again."""
    second = ends.outlet(address, epoch=2)
    inlet = ends.inlet(address)
    ends.connect(second, inlet)
    ends.end(second)
    first = ends.outlet(address, epoch=1)
    for number in range(50):
        first.publish("task", task(number), 0, 0)
        ends.rest(0.01)
    assert numbers(ends.got[inlet]) == [-1]
    assert inlet.replayed > 0
    ends.end(first)
    third = ends.outlet(address, epoch=3)
    ends.connect(third, inlet, 60)


def test_a_restarted_subscriber_begins_with_the_newest(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    for life in range(5):
        inlet = ends.inlet(address)
        ends.connect(outlet, inlet, life)
        for number in range(100):
            outlet.publish("task", task(1000 * life + number), 0, 0)
        ends.end(inlet)
    last = ends.inlet(address)
    ends.until(lambda: bool(ends.got[last]))
    assert numbers(ends.got[last]) == [4099]


def test_nothing_leaks_while_subscribers_come_and_go(ends: Ends, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credit belongs to a connection: one that broke takes its credit with it, also when it broke midway."""
    monkeypatch.setattr("syvla.transport.outlet.PEER_EXPIRES_NS", 5 * GRANT_PERIOD_NS)
    outlet = ends.outlet(address)
    steady = ends.inlet(address, window=1)
    ends.connect(outlet, steady)
    for number in range(30):
        restless = ends.inlet(address, window=1)
        for _ in range(number % 7):
            outlet.publish("task", task(number), 0, 0)
            ends.turn()
        ends.end(restless)
    ends.connect(outlet, steady, 77)
    ends.until(lambda: len(outlet._topics["task"].readers) == 1)
    ends.connect(outlet, steady, 78)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("mode", ["latest", "lossless"])
def test_a_dead_subscriber_costs_bounded_memory(ends: Ends, address: str, mode: Mode) -> None:
    outlet = ends.outlet(address, queue_bytes=8_000_000)
    inlet = ends.inlet(address, "camera/cam_high", mode=mode)
    outlet.publish("camera/cam_high", image(0, side=500), 0, 0)
    ends.until(lambda: bool(ends.got[inlet]))
    before = memory_bytes()
    for number in range(400):  # 300 MB
        outlet.publish("camera/cam_high", image(number, side=500), 0, 0)
        outlet.poll()
    assert memory_bytes() - before < 100_000_000


def test_a_dead_subscriber_does_not_slow_the_others(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    living, dead = ends.inlet(address), ends.inlet(address, mode="lossless", window=2)
    ends.connect(outlet, living)
    for number in range(200):
        outlet.publish("task", task(number), 0, 0)
        ends.turn(paused=[dead])
    ends.until(lambda: numbers(ends.got[living])[-1] == 199, paused=[dead])
    assert len(ends.got[living]) > 50


PUBLISHER = """
import sys, time
from syvla.messages import Task
from syvla.transport.bus import Outlet
outlet = Outlet("child", [sys.argv[1]], int(sys.argv[2]))
number = 0
while True:
    outlet.publish("task", Task(task_id=number, instruction="x", issued_ns=0), 0, 0)
    outlet.poll()
    number += 1
    time.sleep(0.002)
"""
SUBSCRIBER = """
import sys, time
from syvla.transport.bus import Inlet, Subscription
inlet = Inlet([Subscription("task", sys.argv[1], sys.argv[2])])
while True:
    for received in inlet.drain():
        print(received.message.task_id, flush=True)
    time.sleep(0.002)
"""


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def kill(child: "subprocess.Popen[str]") -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(LIMIT_S)
    if child.stdout is not None:
        child.stdout.close()


def test_a_publisher_that_is_killed_and_restarted_is_followed(ends: Ends, address: str) -> None:
    inlet = ends.inlet(address)
    for epoch in (1, 2, 3):
        child = start(PUBLISHER, address, str(epoch))
        try:
            came = len(ends.got[inlet])
            ends.until(lambda came=came: len(ends.got[inlet]) > came + 20)  # type: ignore[misc]
        finally:
            kill(child)
    positions = [(r.header.epoch, r.header.sequence) for r in ends.got[inlet]]
    assert positions == sorted(set(positions))
    assert {epoch for epoch, _ in positions} == {1, 2, 3}
    assert (inlet.refused, inlet.replayed) == (0, 0)


@pytest.mark.parametrize("mode", ["latest", "lossless"])
def test_a_subscriber_that_is_killed_and_restarted_gets_the_newest(ends: Ends, address: str, mode: Mode) -> None:
    outlet = ends.outlet(address)
    for life in range(2):
        outlet.publish("task", task(life), 0, 0)
        child = start(SUBSCRIBER, address, mode)
        try:
            ends.until(lambda: any(topic.readers for topic in outlet._topics.values()))
            assert child.stdout is not None
            ends.rest(0.05)
            assert int(child.stdout.readline()) == life
        finally:
            kill(child)
        for _ in range(20):
            outlet.publish("task", task(-1), 0, 0)
            ends.rest(0.005)
    assert not outlet._topics["task"].readers


def test_a_subscriber_that_was_stopped_goes_on(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    outlet.publish("task", task(0), 0, 0)
    child = start(SUBSCRIBER, address, "latest")
    try:
        assert child.stdout is not None
        ends.until(lambda: any(topic.readers for topic in outlet._topics.values()))
        ends.rest()
        child.send_signal(signal.SIGSTOP)
        for number in range(1, 500):
            outlet.publish("task", task(number), 0, 0)
            outlet.poll()
        child.send_signal(signal.SIGCONT)
        ends.rest(0.5)
        seen = [0]
        while seen[-1] != 499:
            seen.append(int(child.stdout.readline()))
        assert len(seen) < 3 + DEFAULT_WINDOW["latest"]
    finally:
        kill(child)


# ---------------------------------------------------------------- hostile ends


def test_a_hostile_publisher_is_refused_and_counted_and_outlived(ends: Ends, address: str) -> None:
    router = ends.socket(zmq.ROUTER)
    router.bind(address)
    inlet = ends.inlet(address)
    identity, _ = router.recv_multipart()
    good = encode(Header("task", 1, 8, 0, 0), task(8))
    bad: list[list[bytes]] = [
        [b""],
        [b"\xdd\xff\xff\xff\xff"],
        [bytes(good[0])],
        [bytes(good[0]), b"\x80"],
        [bytes(good[0]), bytes(good[1]), b"surplus"],
        [bytes(good[0]), bytes(good[1]), *[b""] * 200],
        [msgpack.packb([2, "task", 1, 8, 0, 0, 0]), bytes(good[1])],
    ]
    for frames in bad:
        router.send_multipart([identity, *frames])
    ends.until(lambda: inlet.refused == len(bad))
    stray = encode(Header("camera/cam_high", 1, 8, 0, 0), image(1))
    router.send_multipart([identity, *map(bytes, stray)])
    ends.until(lambda: inlet.refused == len(bad) + 1)
    assert "camera/cam_high: came without a subscription" in inlet.last_refusal
    router.send_multipart([identity, *map(bytes, good)])
    ends.until(lambda: numbers(ends.got[inlet]) == [8])
    router.send_multipart([identity, *map(bytes, good)])
    router.send_multipart([identity, *map(bytes, encode(Header("task", 1, 7, 0, 0), task(7)))])
    router.send_multipart([identity, *map(bytes, encode(Header("task", 0, 9, 0, 0), task(9)))])
    ends.rest()
    assert numbers(ends.got[inlet]) == [8]
    assert inlet.replayed + inlet.superseded == 3


def test_a_bad_message_does_not_move_the_epoch(ends: Ends, address: str) -> None:
    """A message that was refused must not make the good ones look like replays."""
    router = ends.socket(zmq.ROUTER)
    router.bind(address)
    inlet = ends.inlet(address)
    identity, _ = router.recv_multipart()
    router.send_multipart([identity, msgpack.packb([1, "task", 2**62, 2**62, 0, 0, 0]), b"\x80"])
    ends.until(lambda: inlet.refused == 1)
    router.send_multipart([identity, *map(bytes, encode(Header("task", 1, 0, 0, 0), task(5)))])
    ends.until(lambda: numbers(ends.got[inlet]) == [5])


def test_a_frame_beyond_the_limit_is_counted_and_outlived(ends: Ends, address: str) -> None:
    """Libzmq breaks the connection before it takes the frame in, and never makes it again by itself."""
    router = ends.socket(zmq.ROUTER)
    router.bind(address)
    inlet = ends.inlet(address)
    for attempt in range(1, 3):
        identity = router.recv_multipart()[0]
        router.send_multipart([identity, bytes(3_000_000)])
        ends.until(lambda attempt=attempt: inlet.refused == attempt)  # type: ignore[misc]
        assert inlet.last_refusal == "task: the publisher broke the protocol or a limit of size"
        while router.poll(10):
            router.recv_multipart()
        ends.until(lambda: bool(router.poll(0)))
    router.close()
    outlet = ends.outlet(address)
    ends.connect(outlet, inlet, 3)


def test_a_stranger_on_the_port_is_outlived(ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        inlet = ends.inlet(f"tcp://127.0.0.1:{port}")
        connection, _ = stranger.accept()
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
        ends.rest(0.3)
        connection.close()
    outlet = ends.outlet(f"tcp://127.0.0.1:{port}")
    ends.connect(outlet, inlet, 3)


def test_hostile_grants_are_refused_and_counted_and_outlived(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address)
    ends.connect(outlet, inlet)
    dealer = ends.socket(zmq.DEALER)
    dealer.connect(address)
    grant = ["task", "latest", 4, -1, -1]
    bad: list[list[bytes]] = [
        [b""],
        [b"\xdd\xff\xff\xff\xff"],
        [b"\x91" * 10_000],
        [msgpack.packb([1, [grant]]), b"more"],
        [msgpack.packb([2, [grant]])],
        [msgpack.packb([1, [grant] * 65])],
        *(
            [msgpack.packb([1, [[*grant[:i], wrong, *grant[i + 1 :]]]])]
            for i, wrong in enumerate(("x", "x", 0, -2, "x"))
        ),
        [msgpack.packb([1, [["task", "latest", MAX_WINDOW + 1, -1, -1]]])],
        [msgpack.packb([1, [["task", "latest", 4, 1, 10**9]]])],
    ]
    for frames in bad:
        dealer.send_multipart(frames)
    ends.until(lambda: outlet.refused == len(bad))
    assert "task 1000000000 was never sent" in outlet.last_refusal
    ends.connect(outlet, inlet, 5)


def test_there_is_room_for_a_bounded_number_of_subscribers(ends: Ends, address: str) -> None:
    outlet = ends.outlet(address)
    for _ in range(70):
        dealer = ends.socket(zmq.DEALER)
        dealer.connect(address)
        dealer.send(msgpack.packb([1, [["task", "latest", 4, -1, -1]]]))
    ends.until(lambda: outlet.refused == 6)
    assert "64 subscribers are connected already" in outlet.last_refusal


# ---------------------------------------------------------------- construction


def test_wrong_settings_are_refused_with_their_names(ends: Ends, address: str) -> None:
    for subscription, names in [
        (Subscription("arm/middle", address), "no topic 'arm/middle'; there are"),
        (Subscription("task", address, "newest"), "task: mode must be latest or lossless"),  # type: ignore[arg-type]
        (Subscription("task", address, window=0), "task: window must be 1..256, not 0"),
        (Subscription("task", "tcp://10.0.0.1:1"), "encrypted links are required"),
    ]:
        with pytest.raises(TransportError, match=names.replace(".", r"\.")):
            Inlet([subscription])
    with pytest.raises(TransportError, match="task is subscribed to twice"):
        Inlet([Subscription("task", address), Subscription("task", "tcp://127.0.0.1:1")])
    with pytest.raises(TransportError, match="encrypted links are required"):
        Outlet("robot", [address, "tcp://0.0.0.0:1"], 1)
    with pytest.raises(TransportError, match="outlet robot: epoch must be"):
        Outlet("robot", [address], -1)
    taken = ends.outlet("tcp://127.0.0.1:*")
    with pytest.raises(TransportError, match=r"outlet robot: tcp://127\.0\.0\.1:.*: Address already in use"):
        Outlet("robot", taken.addresses, 1)


def test_a_message_that_cannot_be_sent_leaves_no_gap(ends: Ends, address: str) -> None:
    outlet, inlet = ends.outlet(address), ends.inlet(address, mode="lossless")
    ends.connect(outlet, inlet)
    with pytest.raises(MessageError):
        outlet.publish("task", image(1), 0, 0)
    with pytest.raises(MessageError, match="no topic"):
        outlet.publish("tusk", task(1), 0, 0)
    outlet.publish("task", task(2), 0, 0)
    ends.until(lambda: numbers(ends.got[inlet])[-1] == 2)
    assert inlet.dropped == 0


def test_every_topic_can_be_subscribed_to(ends: Ends, address: str) -> None:
    """A recorder reads them all; its grants must fit in the frames that carry them."""
    outlet = ends.outlet(address)
    inlet = ends.inlet(address, *TOPICS, mode="lossless")
    ends.connect(outlet, inlet)
    assert outlet.refused == 0
