"""When a stage that messages wake may step next. Every host paces steps by it."""

from collections.abc import Collection

from syvla.protocols import OnNew, Periodic


class Pace:
    """Paces one stage, by its ``trigger``.

    What is new of ``at_once`` starts a step ahead of its turn, but never two of them within half the shortest period:
    however many come, a stage steps at most twice as often as it otherwise would.
    """

    def __init__(self, trigger: Periodic | OnNew) -> None:
        woken = trigger if isinstance(trigger, OnNew) else OnNew(())
        self._wakes, self._at_once = frozenset(woken.topics), frozenset(woken.at_once)
        self._period_ns = woken.min_period_ns
        self._rest_ns = woken.rest_ns
        self._turn_ns = self._ahead_ns = self._rested_ns = 0
        self.goes_ahead = bool(self._at_once)  # whether anything starts one before

    @property
    def turn_ns(self) -> int:
        """From when on a step may start, whatever is new that wakes it."""
        return max(self._turn_ns, self._rested_ns)

    def earliest_ns(self, news: Collection[str]) -> int | None:
        """From when on a step may start, now that there is something new of these topics; None: nothing wakes it."""
        if not self._at_once.isdisjoint(news):
            return max(min(self._turn_ns, self._ahead_ns), self._rested_ns)
        return None if self._wakes.isdisjoint(news) else self.turn_ns

    def begin(self, now_ns: int) -> None:
        """A step begins."""
        next_ns = now_ns + self._period_ns
        if now_ns < self._turn_ns:
            self._ahead_ns = now_ns + self._period_ns // 2
        self._turn_ns = next_ns

    def end(self, now_ns: int) -> None:
        """It is over."""
        self._rested_ns = now_ns + self._rest_ns
