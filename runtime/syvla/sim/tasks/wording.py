"""One goal in very many wordings, so that a planner learns which words matter: names, numbers and sides.

A sentence is put together of an opening, a clause and a closing; what is to be pushed follows. Now and then a word is
replaced by one that does not exist: what a planner has never read must not confuse it. How the evaluation words its
unseen splits is not among them, and a test holds that no four words in a row are.
"""

import re

import numpy as np

from syvla.sim.tasks.goal import Goal, in_words
from syvla.sim.tasks.math_packaging import CANDIES
from syvla.sim.tasks.words import NUMBERS, called

_GARBLED, _WORD_GARBLED = 0.4, 0.15  # share of the instructions with invented words, and of their words
_OPENED, _CLOSED, _REMARKED = 0.35, 0.35, 0.25  # shares with something before, after, and of no consequence
_LIST_ENDED = 0.25  # share with something right behind what is named, so that an "and" may end a list as well
_APART = 0.45  # share of the amounts that are said in a sentence of their own

_VERBS = (
    "put", "place", "drop", "lay", "set", "pack", "bring", "carry", "get", "take", "throw", "stow",
    "transfer", "collect", "pick up", "deliver", "sort", "toss", "gather", "present", "ship", "hand",
    "fetch", "deposit",
)  # fmt: skip
_INTO = (
    "into", "in", "onto", "on", "inside", "to", "for", "over to", "straight into", "down in", "within",
    "towards",
)  # fmt: skip
_FILL = (
    "load", "fill", "stock", "supply", "provide", "furnish", "equip", "top up", "prepare", "lay out",
    "make up",
)  # fmt: skip
_NEEDS = (
    "gets", "needs", "wants", "should get", "must hold", "is missing", "has to contain",
    "ought to have", "takes", "is short of", "shall receive", "is meant to hold", "lacks", "is to get",
    "could do with", "is to carry",
)  # fmt: skip
_BELONGS = (
    "should go", "must go", "ought to be", "has to be", "goes", "shall be", "is wanted", "is needed",
    "belongs", "is expected", "fits", "is supposed to be", "can go", "needs to get", "is to end",
)  # fmt: skip
_WANT = (
    "I want", "I need", "I would love", "we need", "we want", "let me have", "let us see", "I wish for",
    "give me", "we are waiting for", "I asked for", "make sure to get", "you may put", "go and get",
    "try to put",
)  # fmt: skip
_WHO = (
    "my friend", "the children", "a visitor", "the guests", "my mother", "the boss", "our neighbour",
    "the lady", "that man", "a buyer", "the client", "someone", "the team", "my brother", "the cook",
    "a passenger",
)  # fmt: skip
_ASKED = (
    "asked for", "ordered", "would like", "chose", "wants", "bought", "is hungry for", "picked",
    "needs", "sent for", "will have", "likes", "is waiting for", "reserved", "decided on",
    "pays us for",
)  # fmt: skip
_COUNTED = tuple(words for words in _ASKED if not words.endswith("for"))
_THEM = (
    "it", "them", "everything", "this", "that", "those things", "all of it", "the order",
    "what I named",
)  # fmt: skip

_AFTER = (
    "and nothing else", "alone", "and no others", ", no more", ", please", "as well", "for now", "only",
    "and only that", "this time", "from the table", "and leave all others", "and stop there", "first",
    "and then rest", ", I think", "that you see", "quickly",
)  # fmt: skip

_OPENINGS = (
    "please {}", "now {}", "next {}", "robot, {}", "OK, {}", "hello, {}", "first {}", "would you {}",
    "could you please {}", "will you {}", "I would like you to {}", "your task: {}", "we have to {}",
    "let us {}", "it is time to {}", "you should {}", "kindly {}", "here is what to do: {}",
    "be so kind and {}", "go ahead and {}", "as always, {}", "quick: {}", "today {}",
    "the job is to {}", "remember to {}", "I need you to {}", "start: {}", "listen, {}",
    "before lunch, {}", "do this: {}",
)  # fmt: skip
_CLOSINGS = (
    "{} now", "{}, thank you", "{} for me", "{} and nothing else", "{}, only that", "{} with care",
    "{} at once", "{}, no more than that", "{}, if you can", "{} as soon as you can", "{} and stop",
    "{}, as I said", "{} and forget the others", "{}, will you", "{} this time", "{} today", "{} only",
    "{}, that is all",
)  # fmt: skip
_REMARKS = (
    "Leave everything else alone.", "Do not touch the others.", "Nothing else is needed.",
    "Thanks a lot.", "Take your time.", "The other things stay where they are.", "Do not hurry.",
    "That is the whole order.", "Be careful.", "It is for a party.", "We are late already.",
    "The kitchen is closed.", "Somebody is hungry.", "Lunch is at noon.", "All the rest may stay here.",
    "Ignore what else you see.", "There is a train to catch.", "This is urgent.", "You are doing well.",
    "Good morning!", "I shall come back later.", "The shop opens soon.", "Work as usual.",
    "Do not spill anything.", "What a nice day!",
)  # fmt: skip

_PUSH = (
    "push", "shove", "shift", "nudge", "bring", "press", "drive", "drag", "steer", "pass", "propel",
)  # fmt: skip
_TO = (
    "to the {side}", "{side}", "towards the {side}", "over to the {side}", "to the {side} side",
    "a bit {side}", "further {side}", "off to the {side}", "along the table {side}",
)  # fmt: skip
_PUSHES = (
    "then {push}", "after that {push}", "{push} afterwards", "{push} when that is done",
    "what comes then: {push}", "finally {push}", "at the end {push}", "{push} once it is full",
    "when they are in, {push}", "{push} as the last step", "now {push}", "having done that, {push}",
    "as soon as it is packed {push}", "next, {push}", "later {push}", "do not forget to {push}",
    "it remains to {push}", "slide {it} off {to} after that", "you may send {it} off {to} then",
    "let {it} move {to} at last", "once they are inside, {push}", "kindly {push} in the end",
    "that done, {push}",
)  # fmt: skip
_LEAVES = (
    "{it} goes {to}", "{it} has to go {to}", "{it} must leave {to}",
    "the {side} is where {it} goes then", "{it} is picked up on the {side}",
    "on the {side} {it} is awaited", "{it} belongs {to} then",
)  # fmt: skip


def instruction(rng: np.random.Generator, goal: Goal) -> str:
    """``goal`` in one of many wordings."""
    container = f"the {called(goal.container, rng)}"
    garbled = _WORD_GARBLED if rng.random() < _GARBLED else 0.0

    def said(template: str, **names: str) -> str:
        return _garbled(rng, template, garbled).format(**names)

    sentences = []
    if goal.candidates == CANDIES and goal.count > 1 and rng.random() < _APART:
        first, second = _summands(rng, goal.count)
        sentences.append(said(_of_a_sum(rng), first=first, second=second, container=container))
    else:
        named = in_words(tuple(called(name, rng) for name in goal.candidates))
        things = _amount(rng, goal.count) if goal.candidates == CANDIES else named
        sentences.append(said(_of_things(rng), things=things, container=container))
    if goal.push is not None:
        it = container if rng.random() < 0.4 else "it"
        sentences.append(said(_of_a_push(rng), it=it, side=goal.push))
    if rng.random() < _REMARKED:
        sentences.insert(int(rng.integers(len(sentences) + 1)), said(_pick(rng, _REMARKS)))
    return " ".join(_sentence(rng, text) for text in sentences)


# ---------------------------------------------------------------- templates


_JOINTS = (". ", ": ", ", so ", "; ", ", asking you to ")
_HERE = ("take", "here is", "look at", "use", "see")


def _of_things(rng: np.random.Generator) -> str:
    """A template with {things} and {container}."""
    clause = _clause(rng)
    if rng.random() < _LIST_ENDED and "for {things}" not in clause:
        after = _pick(rng, _AFTER)
        clause = clause.replace("{things}", "{things}" + ("" if after[0] == "," else " ") + after)
    return clause


def _clause(rng: np.random.Generator) -> str:
    verb, into, kind = _pick(rng, _VERBS), _pick(rng, _INTO), rng.random()
    if kind < 0.45:
        return _framed(rng, f"{verb} {{things}} {into} {{container}}")
    if kind < 0.55:
        return _framed(rng, f"{_pick(rng, _FILL)} {{container}} with {{things}}")
    if kind < 0.65:
        return f"{{container}} {_pick(rng, _NEEDS)} {{things}}"
    if kind < 0.73:
        return f"{{things}} {_pick(rng, _BELONGS)} {into} {{container}}"
    if kind < 0.81:
        return f"{_pick(rng, _WANT)} {{things}} {into} {{container}}"
    if kind < 0.92:
        says = f"{_pick(rng, _WHO)} {_pick(rng, _ASKED)} {{things}}{_pick(rng, _JOINTS)}"
        return f"{says}{verb} {_pick(rng, _THEM)} {into} {{container}}"
    if kind < 0.96:
        return f"{_pick(rng, _HERE)} {{container}}: {verb} {{things}} {into} it"
    return f"{{things}} {into} {{container}}"


_ADDED = ("{first} + {second}", "{first} plus {second}", "{first} and {second}")
_SOLVE = (
    "what is {}?", "what do {} make?", "add {}.", "solve {}:", "work out {}.", "compute {},", "{} is?",
    "the number is {}.", "say how many {} are.", "what does {} come to?", "reckon {},", "sum up {},",
    "the sum: {}.", "with {} you have the total.", "add up {} first.", "the question is {}.",
    "count {} together,", "from {} make a sum,", "your total is {},", "{} tells you how many:",
)  # fmt: skip
_MANY = ("that many candies", "this many candies", "just so many candies", "the same number of candies")
_MORE = (
    "{first} candies and {second} more", "{first} candies and another {second}",
    "{first} and then {second} candies", "{first} candies, then {second} more candies",
    "first {first} and later {second} candies", "{first} candies together with {second} others",
    "the total of {first} candies and {second} candies", "{second} candies on top of {first}",
)  # fmt: skip
_ALSO = (
    "adds {second}", "also takes {second}", "wants {second} more", "{second} come on top",
    "there are {second} as a present", "wins another {second}", "finds {second} more",
)  # fmt: skip


def _of_a_sum(rng: np.random.Generator) -> str:
    """A template with {first}, {second} and {container}."""
    verb, into, kind = _pick(rng, _VERBS), _pick(rng, _INTO[1:]), rng.random()
    if kind < 0.35:
        then = _framed(rng, f"{verb} {_pick(rng, _MANY)} {into} {{container}}")
        return f"{_pick(rng, _SOLVE).replace('{}', _pick(rng, _ADDED))} {then}"
    if kind < 0.6:
        return _framed(rng, f"{verb} {_pick(rng, _MORE)} {into} {{container}}")
    if kind < 0.85:
        says = f"{_pick(rng, _WHO)} {_pick(rng, _COUNTED)} {{first}} candies and {_pick(rng, _ALSO)}"
        return f"{says}: {verb} {_pick(rng, _THEM)} {into} {{container}}"
    return f"{{container}} {_pick(rng, _NEEDS)} {_pick(rng, _ADDED)} candies"


def _of_a_push(rng: np.random.Generator) -> str:
    """A template with {it} and {side}."""
    to = _pick(rng, _TO)
    if rng.random() < 0.2:
        return _pick(rng, _LEAVES).replace("{to}", to)
    return _pick(rng, _PUSHES).replace("{push}", f"{_pick(rng, _PUSH)} {{it}} {{to}}").replace("{to}", to)


def _framed(rng: np.random.Generator, order: str) -> str:
    """An order, with something before or after it now and then."""
    if rng.random() < _OPENED:
        order = _pick(rng, _OPENINGS).replace("{}", order)
    if rng.random() < _CLOSED:
        order = _pick(rng, _CLOSINGS).replace("{}", order)
    return order


# ---------------------------------------------------------------- words


def _amount(rng: np.random.Generator, count: int) -> str:
    """So many candies, in digits or words, and as a sum where there is one."""
    if count == 1:
        return f"{_pick(rng, ('1', NUMBERS[1]))} candy"
    if rng.random() < 0.3:
        return f"{_pick(rng, (str(count), NUMBERS[count]))} candies"
    first, second = _summands(rng, count)
    return f"{first} {_pick(rng, ('+',) if first.isdigit() else ('plus', 'and'))} {second} candies"


def _summands(rng: np.random.Generator, count: int) -> tuple[str, str]:
    """Two numbers that make ``count``, both in digits or both in words."""
    first = int(rng.integers(1, count))
    if rng.random() < 0.5:
        return str(first), str(count - first)
    return NUMBERS[first], NUMBERS[count - first]


_WORD = re.compile(r"(?<![{\w])[a-z]+(?![}\w])")
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstw", "aeiou", ("", "", "l", "m", "n", "r", "s", "t")
_KEPT = frozenset(("plus", "and", "candies", "side"))


def _garbled(rng: np.random.Generator, template: str, share: float) -> str:
    """The template with that share of its words, none that matters among them, replaced by invented ones."""
    if not share:
        return template
    return _WORD.sub(lambda m: m[0] if m[0] in _KEPT or rng.random() >= share else _invented(rng), template)


def _invented(rng: np.random.Generator) -> str:
    return "".join(
        _pick(rng, _ONSETS) + _pick(rng, _VOWELS) + _pick(rng, _CODAS) for _ in range(int(rng.integers(2, 4)))
    )


_BEGIN = re.compile(r"(^|[.?!] )[a-z]")


def _sentence(rng: np.random.Generator, text: str) -> str:
    """With a capital letter and an end."""
    text = _BEGIN.sub(lambda m: m[0].upper(), text)
    return text + ("" if text[-1] in ".!?" else _pick(rng, (".", ".", ".", "!")))


def _pick(rng: np.random.Generator, choices: tuple[str, ...] | str) -> str:
    return choices[int(rng.integers(len(choices)))]
