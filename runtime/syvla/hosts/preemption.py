"""When a step that is under way is over before its end, and what it has said by then. Every host ends steps by it."""

from collections.abc import Collection, Generator, Iterable
from itertools import islice

from syvla.protocols import Emit, OnNew, Periodic


class Preemption:
    """Judges one stage's steps, by its ``trigger``."""

    def __init__(self, trigger: Periodic | OnNew) -> None:
        woken = trigger if isinstance(trigger, OnNew) else OnNew(())
        self.at_once = frozenset(woken.preempted_by)
        self.in_time = frozenset(woken.outdated_by)
        self._patience_ns = woken.patience_ns
        self._outdated = self._spared = False

    def begin(self) -> None:
        """A step begins. One that follows an outdated one is spared: however slow, something is said in the end."""
        self._spared, self._outdated = self._outdated, False

    def ends(self, news: Collection[str], ran_ns: int) -> bool:
        """Whether the step under way for ``ran_ns`` is over, now that there is something new of these topics."""
        if not self.at_once.isdisjoint(news):
            return True
        if self._spared or ran_ns < self._patience_ns or self.in_time.isdisjoint(news):
            return False
        self._outdated = True
        return True

    def may_have_ended(self, news: Collection[str], ran_ns: int) -> bool:
        """Whether a step may have been over ``ran_ns`` after it began, when these were new to the next."""
        outdated = ran_ns >= self._patience_ns and not self.in_time.isdisjoint(news)
        return outdated or not self.at_once.isdisjoint(news)


def said_before(emits: Iterable[Emit], count: int) -> list[Emit]:
    """The first ``count`` of a step that is ended when it has one more to say."""
    produced = iter(emits)
    begun = list(islice(produced, count + 1))
    if isinstance(produced, Generator):
        produced.close()
    return begun[:count]
