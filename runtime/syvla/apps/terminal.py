"""Single keys of a terminal, read beside whatever else goes on."""

import contextlib
import os
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator

GONE = "\uffff"  # in the place of a key, which is a single byte: the terminal was closed


@contextlib.contextmanager
def pressed_keys() -> Iterator[Callable[[], str] | None]:
    """What has been typed since the last call; None where the input is no terminal, or another has it."""
    fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
    if fd < 0 or os.tcgetpgrp(fd) != os.getpgrp():
        yield None
        return
    before = termios.tcgetattr(fd)

    def typed() -> str:
        found = deque[str]()
        while select.select([fd], [], [], 0)[0]:
            key = os.read(fd, 1)
            if not key:  # the terminal is gone, and nobody could stop it any more
                found.append(GONE)
                break
            found.append(key.decode(errors="replace"))
        return "".join(found)

    tty.setcbreak(fd)
    try:
        yield typed
    finally:
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
