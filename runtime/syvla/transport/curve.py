"""CURVE on a socket: each end's options, and who is let in at the planner's."""

import logging

import zmq
from zmq.utils import z85

from syvla.transport.credit import Socket, has_input
from syvla.transport.keys import PlannerKeys, RobotKeys

OVERHEAD = 64  # bytes that encryption adds to a frame: a command's name, flags, nonce and code come to 33
DOMAIN = b"syvla"
_ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks, in each context
_TOLD = 64  # refused keys that are logged, each once
_log = logging.getLogger(__name__)


def serve_curve(socket: Socket, keys: PlannerKeys) -> None:
    """Let ``socket`` take only connections that a :class:`Doorkeeper` of its context lets in."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a doorkeeper nobody comes in, instead of everybody


def use_curve(socket: Socket, keys: RobotKeys) -> None:
    """Let ``socket`` connect only to the planner whose public key is known."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.planner)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)


class Doorkeeper:
    """Answers libzmq's question about each connection (ZAP, ZeroMQ RFC 27): only listed keys come in.

    It is polled by the thread that owns the sockets of ``context``.
    """

    def __init__(self, context: "zmq.Context[Socket]", allowed: frozenset[bytes]) -> None:
        self.refused = 0
        self._allowed = allowed
        self._told: set[bytes] = set()
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)

    def poll(self) -> None:
        """Answer what was asked."""
        while has_input(self.socket):
            self.socket.send_multipart(self._answer(self.socket.recv_multipart(zmq.NOBLOCK)), zmq.NOBLOCK)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        version, request, domain, address, _, mechanism, *credentials = question
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
        if domain == DOMAIN and key in self._allowed:
            return [version, request, b"200", b"OK", key, b""]
        self.refused += 1
        if len(self._told) < _TOLD and key not in self._told:
            self._told.add(key)
            _log.warning("refused %s: key %s is not on the list", address.decode(errors="replace"), key.decode())
        return [version, request, b"400", b"the key is not on the list", b"", b""]

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close()
