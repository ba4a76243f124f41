"""Both arms' commands, of which a bag has one message for each arm."""

from collections.abc import Iterator
from urllib.parse import parse_qsl

import msgspec
import numpy as np

from syvla.convert.rows import Stamped
from syvla.messages import ARMS, JointCommand, Provenance, Source
from syvla.standard_messages import Joints

MAX_TAGS = 1024  # characters of a frame_id that are looked at
_KEPT = ("source", "override_id")


class Commands:
    """Joins the arms' messages: one command for what was sent at once, else with the other arm's last one."""

    def __init__(self) -> None:
        self._last: dict[str, Joints] = {}
        self._new: set[str] = set()  # the arms whose messages no command was made from
        self._at_ns = 0
        self._who = Provenance(source=Source.UNKNOWN)
        self._made = 0

    def add(self, arm: str, at_ns: int, joints: Joints, who: Provenance) -> Iterator[Stamped]:
        """What is complete with an arm's next message: it waits for the other arm's, or for any that is later."""
        if at_ns > self._at_ns:
            yield from self.rest()
        self._last[arm] = joints
        self._new.add(arm)
        self._at_ns, self._who = max(self._at_ns, at_ns), who
        if len(self._new) == len(ARMS):
            yield from self.rest()

    def rest(self) -> Iterator[Stamped]:
        """What still waits."""
        if self._new and len(self._last) == len(ARMS):
            left, right = (self._last[arm] for arm in ARMS)
            command = JointCommand(
                command_id=self._made,
                commanded_ns=self._at_ns,
                position_rad=np.concatenate([left.position_rad, right.position_rad]),
                gripper_width_m=np.array([left.gripper_width_m, right.gripper_width_m]),
                provenance=self._who,
                intent_age_s=-1.0,
                limited_joints=0,
            )
            self._made += 1
            yield Stamped("command", self._at_ns, command)
        self._new.clear()


def provenance(frame_id: str) -> Provenance:
    """Who commanded, as our own nodes say it in a ``frame_id``.

    What a command was made from is left out: intents and chunks are not in a bag, and its times are of another clock.
    """
    tags = dict(parse_qsl(frame_id)) if len(frame_id) <= MAX_TAGS else {}
    known = {name: tags[name] for name in _KEPT if name in tags}
    try:
        return msgspec.convert(known, Provenance, strict=False)
    except msgspec.ValidationError:
        return Provenance(source=Source.UNKNOWN)
