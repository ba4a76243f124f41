"""The simulated CAN bus: what it carries, what it refuses, and that two buses stay apart."""

import socket
import time
from collections.abc import Iterator

import can
import pytest

from syvla.drivers.simcan import FRAME, LOOPBACK, MAX_BURST, SimCanBus, SimCanDevice, free_channels, parse_channel


class Ends:
    """Both ends of one bus, opened as the SDK opens it: first to listen, then to transmit."""

    def __init__(self, name: str = "left") -> None:
        (self.channel,) = free_channels(name)
        self.port = parse_channel(self.channel)[1]
        self.device = SimCanDevice(self.channel)
        self.listener = can.Bus(channel=self.channel, interface="simcan", bitrate=1_000_000)
        self.transmitter = can.Bus(channel=self.channel, interface="simcan", receive_own_messages=False)

    def close(self) -> None:
        """Leave the bus at both ends."""
        self.device.close()
        self.listener.shutdown()
        self.transmitter.shutdown()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def message(identifier: int, data: bytes) -> can.Message:
    return can.Message(arbitration_id=identifier, data=data, is_extended_id=False)


def test_frames_go_both_ways_and_none_is_echoed(ends: Ends) -> None:
    ends.transmitter.send(message(0x155, b"12345678"))
    ends.transmitter.send(message(0x151, b"abc"))
    assert ends.device.receive() == [(0x155, b"12345678"), (0x151, b"abc")]
    assert ends.listener.recv(0) is None
    ends.device.send(FRAME.pack(0x2A5, 8, b"ABCDEFGH") + FRAME.pack(0x7FF, 2, b"xy"))
    first, second = ends.listener.recv(0), ends.listener.recv(0)
    assert (first.arbitration_id, bytes(first.data), first.is_extended_id) == (0x2A5, b"ABCDEFGH", False)
    assert (second.arbitration_id, bytes(second.data), second.dlc) == (0x7FF, b"xy", 2)
    assert ends.listener.recv(0) is None
    assert ends.transmitter.recv(0) is None


def test_frames_carry_the_kernels_stamp_of_their_arrival(ends: Ends) -> None:
    before_s = time.time()
    ends.device.send(FRAME.pack(0x2A5, 8, b"ABCDEFGH"))
    after_s = time.time()
    time.sleep(0.05)
    assert before_s - 0.001 <= ends.listener.recv(0).timestamp <= after_s + 0.02


def test_recv_waits_no_longer_than_asked(ends: Ends) -> None:
    start_s = time.monotonic()
    assert ends.listener.recv(0.05) is None
    assert time.monotonic() - start_s >= 0.05


def test_a_filtered_frame_does_not_hide_the_next_from_a_poll(ends: Ends) -> None:
    ends.listener.set_filters([{"can_id": 0x2A5, "can_mask": 0x7FF, "extended": False}])
    for identifier in (0x2A2, 0x2A5, 0x2A3, 0x2A5):
        ends.device.send(FRAME.pack(identifier, 8, bytes(8)) * 2)
    assert [ends.listener.recv(0).arbitration_id for _ in range(4)] == [0x2A5] * 4
    assert ends.listener.recv(0) is None


def test_a_third_opening_and_a_second_device_are_refused(ends: Ends) -> None:
    with pytest.raises(can.CanInitializationError, match="in use"):
        SimCanBus(ends.channel)
    with pytest.raises(OSError, match="in use"):
        SimCanDevice(ends.channel)


def test_a_bus_can_be_opened_again_after_it_was_left(ends: Ends) -> None:
    ends.listener.shutdown()
    ends.transmitter.shutdown()
    ends.listener, ends.transmitter = SimCanBus(ends.channel), SimCanBus(ends.channel)
    ends.device.send(FRAME.pack(0x2A5, 8, bytes(8)))
    assert ends.listener.recv(0) is not None


def test_two_buses_do_not_hear_each_other() -> None:
    left, right = Ends("left"), Ends("right")
    try:
        assert abs(left.port - right.port) >= 3
        left.transmitter.send(message(0x155, b"leftleft"))
        left.device.send(FRAME.pack(0x2A5, 8, b"feedback"))
        assert right.device.receive() == []
        assert right.listener.recv(0) is None
        assert left.device.receive() == [(0x155, b"leftleft")]
        assert bytes(left.listener.recv(0).data) == b"feedback"
    finally:
        left.close()
        right.close()


def test_a_stranger_is_not_heard_at_either_end(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for offset in range(3):
            stranger.sendto(FRAME.pack(0x155, 8, bytes(8)), (LOOPBACK, ends.port + offset))
    assert ends.device.receive() == []
    assert ends.device.refused == 1
    assert ends.listener.recv(0) is None
    assert ends.transmitter.recv(0) is None


GOOD = FRAME.pack(0x155, 8, bytes(8))


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD * (MAX_BURST + 1),
        b"\xff" * 60_000,
        FRAME.pack(0x800, 8, bytes(8)),
        GOOD + FRAME.pack(0x155, 9, bytes(8)),
    ],
    ids=["empty", "short", "long", "too many frames", "bomb", "identifier", "length"],
)
def test_what_is_not_a_burst_of_frames_is_dropped_whole_and_counted(ends: Ends, hostile: bytes) -> None:
    ends.transmitter._socket.send(hostile)
    ends.transmitter.send(message(0x157, bytes(8)))
    assert ends.device.receive() == [(0x157, bytes(8))]
    assert ends.device.refused == 1
    ends.device.send(hostile)
    ends.device.send(FRAME.pack(0x2A5, 8, bytes(8)))
    assert ends.listener.recv(0).arbitration_id == 0x2A5
    assert ends.listener.recv(0) is None
    assert ends.listener.refused == 1


def test_a_backlog_of_half_a_second_is_kept(ends: Ends) -> None:
    burst = b"".join(FRAME.pack(0x200 + i, 8, bytes(8)) for i in range(16))
    for _ in range(100):
        assert ends.device.send(burst)
    count = 0
    while ends.listener.recv(0) is not None:
        count += 1
    assert count == 1600


def test_sending_to_nobody_is_an_error(ends: Ends) -> None:
    ends.device.close()
    ends.transmitter.send(message(0x155, bytes(8)))  # the kernel reports it with the next
    with pytest.raises(can.CanOperationError, match="refused"):
        ends.transmitter.send(message(0x155, bytes(8)))


def test_a_bus_that_was_left_neither_sends_nor_receives(ends: Ends) -> None:
    ends.listener.shutdown()
    with pytest.raises(can.CanOperationError):
        ends.listener.send(message(0x155, bytes(8)))
    with pytest.raises(can.CanOperationError):
        ends.listener.recv(0)


@pytest.mark.parametrize(
    "frame",
    [
        can.Message(arbitration_id=0x12345, is_extended_id=True),
        can.Message(arbitration_id=0x155, is_extended_id=False, is_remote_frame=True),
        can.Message(arbitration_id=0x155, is_extended_id=False, is_fd=True, data=bytes(12)),
    ],
    ids=["extended", "remote", "fd"],
)
def test_only_standard_data_frames_are_carried(ends: Ends, frame: can.Message) -> None:
    with pytest.raises(can.CanOperationError, match="standard data frames"):
        ends.transmitter.send(frame)
    assert ends.device.receive() == []


@pytest.mark.parametrize("channel", ["left", "@24000", "left@", "left@80", "left@65534", "left@2400²", "left@-1", ""])
def test_a_bad_channel_is_refused_with_an_example(channel: str) -> None:
    with pytest.raises(ValueError, match="left@24000"):
        parse_channel(channel)
    with pytest.raises(can.CanInitializationError, match="left@24000"):
        SimCanBus(channel)


def test_free_channels_share_no_port() -> None:
    ports = [parse_channel(channel)[1] for channel in free_channels("left", "right", "third")]
    assert len({port + offset for port in ports for offset in range(3)}) == 9


def test_free_channels_go_on_from_the_first_port_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in thousands began its search at the last ports of the range and ran out of them."""
    monkeypatch.setattr("random.randrange", lambda start, stop, step: range(start, stop, step)[-1])
    left, right = (parse_channel(channel)[1] for channel in free_channels("left", "right"))
    assert right < left
