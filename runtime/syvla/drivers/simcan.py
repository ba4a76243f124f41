"""A CAN bus over loopback UDP: a python-can interface for a vendor's SDK, and the other end for an emulated device.

A channel is ``NAME@PORT``. The device binds 127.0.0.1:PORT. The SDK opens its bus twice, to listen and to
transmit: the first opening binds PORT + 1, the second PORT + 2, a third is refused, and all are connected to
the device, so that the kernel delivers nothing else. No broker, no thread, no state shared by the openings.

A datagram is a burst of 1 to 64 frames, 16 bytes each, laid out like the kernel's ``struct can_frame`` in
network order: identifier (4), length (1), padding (3), data (8).
"""

import random
import select
import socket
import struct
import time
from collections import deque
from typing import Any

import can

LOOPBACK = "127.0.0.1"
PORTS_PER_BUS = 3
FRAME = struct.Struct("!IB3x8s")
MAX_BURST = 64
MAX_DATAGRAM = MAX_BURST * FRAME.size

_MAX_STANDARD_ID = 0x7FF
_RECEIVE_BUFFER_BYTES = 1 << 20  # seconds of feedback, where the kernel allows it
_MAX_DATAGRAMS_PER_CALL = 256  # bounds one call under a flood
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; SocketCAN stamps its frames through the same option
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
_FREE_PORTS = range(15_000, 32_000)  # below Linux's ephemeral ports, which come and go

CanFrame = tuple[int, bytes]  # identifier, data


def parse_channel(channel: str) -> tuple[str, int]:
    """The bus's name and first port; ValueError says what a channel looks like."""
    name, _, port = str(channel).partition("@")
    if not name or not port.isascii() or not port.isdigit() or not 1024 <= int(port) <= 65_536 - PORTS_PER_BUS:
        raise ValueError(
            f"a simcan channel is NAME@PORT with a port of 1024..65533, such as left@24000; not {channel!r}"
        )
    return name, int(port)


def free_channels(*names: str) -> tuple[str, ...]:
    """A channel for each bus name, on ports that nobody holds now: one run asks once and hands them to both ends."""
    start = random.randrange(0, len(_FREE_PORTS), PORTS_PER_BUS)
    candidates = deque((*_FREE_PORTS[start::PORTS_PER_BUS], *_FREE_PORTS[:start:PORTS_PER_BUS]))
    channels = []
    for name in names:
        while not all(_is_free(candidates[0] + offset) for offset in range(PORTS_PER_BUS)):
            candidates.popleft()
        channels.append(f"{name}@{candidates.popleft()}")
    return tuple(channels)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _bound_socket(port: int) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        endpoint.setblocking(False)
        endpoint.bind((LOOPBACK, port))
    except OSError:
        endpoint.close()
        raise
    return endpoint


def _split(datagram: bytes, is_cut: bool) -> list[CanFrame] | None:
    """The frames of a datagram, or None if it is not a burst of frames."""
    if is_cut or not datagram or len(datagram) % FRAME.size:
        return None
    frames = []
    for identifier, length, data in FRAME.iter_unpack(datagram):
        if identifier > _MAX_STANDARD_ID or length > 8:
            return None
        frames.append((identifier, data[:length]))
    return frames


class SimCanDevice:
    """The device's end of a bus. ``refused`` counts datagrams that were not the SDK's or not frames."""

    def __init__(self, channel: str) -> None:
        self.name, port = parse_channel(channel)
        self.refused = 0
        self._peers = ((LOOPBACK, port + 1), (LOOPBACK, port + 2))
        self._socket = _bound_socket(port)

    def receive(self) -> list[CanFrame]:
        """The frames that came since the last call; never blocks."""
        frames: list[CanFrame] = []
        for _ in range(_MAX_DATAGRAMS_PER_CALL):
            try:
                datagram, _, flags, sender = self._socket.recvmsg(MAX_DATAGRAM)
            except BlockingIOError:
                break
            burst = _split(datagram, bool(flags & socket.MSG_TRUNC)) if sender in self._peers else None
            if burst is None:
                self.refused += 1
            else:
                frames += burst
        return frames

    def send(self, burst: bytes) -> bool:
        """Send packed frames to the listener; False if the kernel had no room, as on a bus that nobody reads."""
        try:
            self._socket.sendto(burst, self._peers[0])
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def close(self) -> None:
        """Leave the bus."""
        self._socket.close()


class SimCanBus(can.BusABC):  # type: ignore[misc]  # python-can is untyped here
    """The python-can interface ``simcan``: the SDK's end of a bus.

    ``channel`` is NAME@PORT; settings of other interfaces (bitrate, loopback) are accepted and mean nothing.
    Frames carry the kernel's wall-clock stamp of their arrival, as with SocketCAN. Filters act before a frame
    is built. ``refused`` counts datagrams that were not frames.
    """

    def __init__(self, channel: str, can_filters: Any = None, **_settings: Any) -> None:
        try:
            self.name, port = parse_channel(channel)
        except ValueError as error:
            raise can.CanInitializationError(str(error)) from error
        self.channel_info = f"simcan {channel}"
        self.refused = 0
        self._channel = channel
        self._pending: deque[can.Message] = deque()
        self._accepted: dict[int, bool] = {}
        self._socket = self._open(channel, port)
        super().__init__(channel=channel, can_filters=can_filters)

    @staticmethod
    def _open(channel: str, port: int) -> socket.socket:
        for own_port in (port + 1, port + 2):
            try:
                endpoint = _bound_socket(own_port)
            except OSError:
                continue
            endpoint.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            endpoint.connect((LOOPBACK, port))
            return endpoint
        raise can.CanInitializationError(f"simcan {channel}: ports {port + 1} and {port + 2} are in use")

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send one standard data frame; CanOperationError if nobody is at the other end."""
        if (
            msg.is_extended_id
            or msg.is_remote_frame
            or msg.is_error_frame
            or msg.is_fd
            or msg.arbitration_id > _MAX_STANDARD_ID
            or len(msg.data) > 8
        ):
            raise can.CanOperationError(f"{self.channel_info} carries standard data frames of up to 8 bytes")
        try:
            self._socket.send(FRAME.pack(msg.arbitration_id, len(msg.data), bytes(msg.data)))
        except OSError as error:
            raise can.CanOperationError(f"{self.channel_info}: {error}", error.errno) from error

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._pending:
            if self._take_datagram():
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None, True
            try:
                select.select((self._socket,), (), (), left)
            except (OSError, ValueError) as error:
                raise can.CanOperationError(f"{self.channel_info}: {error}") from error
        return self._pending.popleft(), True

    def _take_datagram(self) -> bool:
        """Queue the accepted frames of the next datagram; False if there is none."""
        try:
            datagram, ancillary, flags, _ = self._socket.recvmsg(MAX_DATAGRAM, _ANCILLARY_BYTES)
        except (BlockingIOError, ConnectionRefusedError):  # refused: an earlier send found nobody
            return False
        except OSError as error:
            raise can.CanOperationError(f"{self.channel_info}: {error}", error.errno) from error
        frames = _split(datagram, bool(flags & socket.MSG_TRUNC))
        if frames is None:
            self.refused += 1
            return True
        stamp_s = time.time()
        for _, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                stamp_s = seconds + nanoseconds * 1e-9
        for identifier, data in frames:
            accepted = self._accepted.get(identifier)
            if accepted is not False:
                frame = can.Message(
                    timestamp=stamp_s,
                    arbitration_id=identifier,
                    is_extended_id=False,
                    channel=self._channel,
                    dlc=len(data),
                    data=data,
                )
                if accepted is None:
                    accepted = self._accepted[identifier] = self._matches_filters(frame)
                if accepted:
                    self._pending.append(frame)
        return True

    def _apply_filters(self, filters: Any) -> None:
        self._accepted.clear()  # at most 2048 verdicts

    def fileno(self) -> int:
        """The socket's descriptor, for select."""
        return self._socket.fileno()

    def shutdown(self) -> None:
        """Leave the bus."""
        super().shutdown()
        self._socket.close()
