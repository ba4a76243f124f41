"""The last chain of thought, offered as a draft wherever the next may go on like it (speculative decoding).

An offer costs one pass over its tokens and is only ever a guess: what greedy decoding does not agree with is dropped,
so offers change how fast a thought is decoded, never what is thought.
"""

from collections.abc import Sequence

MAX_MISSES = 3  # offers wrong from their first token, after which the rest is decoded plainly


class Draft:
    """A place in the last thought, moved by what became of the offers."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self._place = 0
        self._offering = True
        self._misses = 0

    def offer(self, room: int) -> list[int]:
        """What may come next, at most ``room`` tokens; empty if there is no telling."""
        return self._ids[self._place : self._place + room] if self._offering else []

    def learn(self, agreed: int, thought: Sequence[int]) -> None:
        """``agreed`` tokens of the last offer were right; ``thought`` now ends with the one that came instead."""
        if agreed:  # one token is another, the rest may well stand
            self._place += agreed + 1
            return
        self._misses += self._offering
        if self._misses >= MAX_MISSES:
            self._offering = False
            return
        # Tokens were put in or left out: go on behind the last two of the thought.
        for end in range(max(self._place, 1) + 1, len(self._ids)):
            if self._ids[end - 2 : end] == list(thought[-2:]):
                self._place, self._offering = end, True
                return
        self._offering = False
