"""Which globs match a text together, for every text that there is.

Two documents are compared by walking all their globs at once, letter by letter (tools) or segment
by segment (paths). From any point only the texts that some glob names next make a difference, and
one that none of them names: so the walk is finite, and exact.

A text is read in two spellings at once, as written and folded, because `deny` rules fold.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.policies.core.globs import ANY, ONE, Part, fold

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What no glob names: neither as written nor folded.
UNNAMED = "\0"
MAX_STEPS = 200_000

Symbol = tuple[str, str]
_State = tuple[tuple[int, int], ...]


class TooIntricateError(Exception):
    """The walk would take more than a bounded number of steps; nothing is known then."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A parsed glob; with `folded` its literals are compared with the folded spelling."""

    parts: tuple[Part, ...]
    folded: bool = False


def name_glob(text: str) -> Glob:
    """A tool pattern, letter by letter."""
    return Glob(tuple(ANY if letter == "*" else letter for letter in text))


def readings(globs: Sequence[Glob]) -> Iterator[tuple[frozenset[int], tuple[str, ...]]]:
    """Each set of globs (positions) that match some text together, with a shortest such text.

    A text is a tuple of letters or segments. Raises TooIntricateError.
    """
    start: _State = tuple((at, _closed(glob.parts, 1)) for at, glob in enumerate(globs))
    seen, told = {start}, set()
    queue = deque([(start, tuple[str, ...]())])
    steps = 0
    while queue:
        state, text = queue.popleft()
        found = frozenset(at for at, mask in state if mask >> len(globs[at].parts) & 1)
        if found not in told:
            told.add(found)
            yield found, text
        for symbol in _symbols(globs, state):
            steps += 1 + len(state)
            if steps > MAX_STEPS:
                raise TooIntricateError
            following = _after(globs, state, symbol)
            if following not in seen:
                seen.add(following)
                queue.append((following, (*text, _shown(symbol))))


def _symbols(globs: Sequence[Glob], state: _State) -> list[Symbol]:
    """What may come next and make a difference, in a fixed order."""
    found: dict[Symbol, None] = {(UNNAMED, UNNAMED): None}
    for at, mask in state:
        glob = globs[at]
        for index in _bits(mask):
            part = glob.parts[index] if index < len(glob.parts) else ANY
            if isinstance(part, str):
                found[(UNNAMED, part) if glob.folded else (part, fold(part))] = None
    return list(found)


def _after(globs: Sequence[Glob], state: _State, symbol: Symbol) -> _State:
    """The globs that may still match after one more letter or segment; the others are left out."""
    moved = ((at, _step(globs[at], mask, symbol)) for at, mask in state)
    return tuple((at, mask) for at, mask in moved if mask)


def _step(glob: Glob, mask: int, symbol: Symbol) -> int:
    after = 0
    for index in _bits(mask):
        part = glob.parts[index] if index < len(glob.parts) else None
        if part == ANY:
            after |= 1 << index
        elif part is not None and part in (ONE, symbol[glob.folded]):
            after |= 1 << index + 1
    return _closed(glob.parts, after)


def _closed(parts: tuple[Part, ...], mask: int) -> int:
    """The states (bit i: the first i parts are read) with those reached by an empty `**`."""
    for index in _bits(mask):
        while index < len(parts) and parts[index] == ANY:
            index += 1  # noqa: PLW2901  follows a row of them
            mask |= 1 << index
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _shown(symbol: Symbol) -> str:
    """How a sentence shows it."""
    written, folded = symbol
    return next((text for text in (written, folded) if text != UNNAMED), "…")
