"""The two small pattern languages of HTTP rules and tool rules, and when one covers another.

Path globs work on whole segments: `*` is exactly one, `**` any number, also none. Name globs
(tools) work on letters: `*` is any run of them. Matching takes at most (parts of the pattern) times
(parts of the input) steps: no backtracking beyond the last wildcard.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from apps.policies.core.paths import Ambiguous, canonical, segment_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATTERN = 1024
MAX_PATTERN_SEGMENTS = 64
# Inclusion of patterns needs sets of states; no pattern that a person writes comes near the limit.
_MAX_INCLUSION_STEPS = 20_000

ONE = 1
ANY = 2
Part = str | int
"""A literal segment, `ONE` (`*`) or `ANY` (`**`)."""


class GlobError(ValueError):
    """A glob that cannot be used; the message names the remedy and is fit for a form."""


@dataclass(frozen=True, slots=True)
class PathGlob:
    """A parsed path glob; `folded` is the wide reading that deny rules use.

    `head` counts the literals before the first wildcard, which decide most of the time.
    """

    text: str
    parts: tuple[Part, ...]
    folded: tuple[Part, ...]
    head: int

    def matches(self, segments: tuple[str, ...]) -> bool:
        """Exact reading: letter for letter."""
        return _match(self.parts, self.head, segments)

    def matches_folded(self, folded: tuple[str, ...]) -> bool:
        """Wide reading: `folded` are the segments of the path, each passed through `fold`."""
        return _match(self.folded, self.head, folded)


def fold(text: str) -> str:
    """The text without the differences that servers commonly ignore: case and NFKC forms."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=8192)
def parse_path_glob(text: str) -> PathGlob:
    """Parse a path glob. Raises GlobError whose message names the remedy."""
    if not text.startswith("/"):
        raise GlobError(f"A path starts with `/`: write `/{text[:40]}`, or `/**` for any path.")
    if len(text) > MAX_PATTERN or text.count("/") > MAX_PATTERN_SEGMENTS:
        raise GlobError(
            f"A path pattern has at most {MAX_PATTERN} characters and {MAX_PATTERN_SEGMENTS} "
            "segments."
        )
    if "?" in text or "#" in text:
        raise GlobError("A path pattern ends before the `?`: queries are not part of the path.")
    inner = [] if text == "/" else text[1:].removesuffix("/").split("/")
    parts = tuple(map(_part, inner))
    folded = tuple(fold(part) if isinstance(part, str) else part for part in parts)
    literal = [isinstance(part, str) for part in parts]
    head = literal.index(False) if False in literal else len(literal)
    return PathGlob(text, _squeeze(parts), _squeeze(folded), head)


@lru_cache(maxsize=8192)
def parse_name_glob(text: str) -> tuple[str, ...]:
    """The literal pieces between the `*`s of a name glob. Raises GlobError with a remedy."""
    if not text:
        raise GlobError("A tool pattern must not be empty: write `*` for any tool.")
    if len(text) > 128:
        raise GlobError("A tool pattern has at most 128 characters.")
    if not all(letter.isascii() and (letter.isalnum() or letter in "_-./*") for letter in text):
        raise GlobError("A tool pattern has letters, digits, `_`, `-`, `.`, `/` and `*` only.")
    return tuple(text.split("*"))


def match_name(pieces: tuple[str, ...], name: str) -> bool:
    """Whether the name glob matches; leftmost placement of each piece is enough for `*` globs."""
    if len(pieces) == 1:
        return name == pieces[0]
    first, last = pieces[0], pieces[-1]
    end = len(name) - len(last)
    if end < len(first) or not (name.startswith(first) and name.endswith(last)):
        return False
    at = len(first)
    for piece in pieces[1:-1]:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def covers_name(wide: str, narrow: str) -> bool:
    """Whether the name glob `wide` matches every name that `narrow` matches.

    A letter that no pattern may hold stands for the `*` of `narrow`: only a `*` can take it.
    """
    return match_name(parse_name_glob(wide), narrow.replace("*", "\0"))


def overlaps_name(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether some name is matched by both (parsed) name globs."""
    if len(first) == 1 or len(second) == 1:
        return match_name(second, first[0]) if len(first) == 1 else match_name(first, second[0])
    heads, tails = sorted((first[0], second[0]), key=len), sorted((first[-1], second[-1]), key=len)
    return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])


def covers_path(wide: PathGlob, narrow: PathGlob, *, folded: bool = False) -> bool:
    """Whether `wide` matches every path that the text of `narrow` names.

    `folded` reads `wide` as a deny rule does. Exact, except that it says False for patterns so
    intricate that the proof would take more than a bounded number of steps.
    """
    outer = wide.folded if folded else wide.parts
    inner = narrow.folded if folded else narrow.parts
    return all(_match_parts(outer, text) for text in _samples(inner)) and _includes(outer, inner)


def _samples(parts: tuple[Part, ...]) -> Iterator[tuple[str, ...]]:
    """Two paths that the glob matches: most pairs of globs are told apart by them, at no cost."""
    yield tuple(part if isinstance(part, str) else "\0" for part in parts if part != ANY)
    yield tuple(part if isinstance(part, str) else "\0" for part in parts)


def _part(segment: str) -> Part:
    if segment == "*":
        return ONE
    if segment == "**":
        return ANY
    if "*" in segment:
        raise GlobError("`*` stands for one whole segment and `**` for any number of them.")
    return _literal(segment)


def _literal(segment: str) -> str:
    """The segment as it looks in a canonical path; patterns may be written with escapes."""
    if not segment:
        raise GlobError("Remove the empty segment (`//`): no request with one is let through.")
    if segment.isascii():
        plain = canonical("/" + segment.replace(" ", "%20"))
        if isinstance(plain, Ambiguous):
            raise GlobError(f"No request could match: the path pattern {plain.reason}.")
        return plain[1:]
    # Letters beyond ASCII may be typed as they are; a request can send them only as escapes.
    if "%" in segment:
        raise GlobError("Write letters beyond ASCII either all as they are or all as escapes.")
    escaped = "".join(f"%{byte:02x}" for byte in segment.encode("utf-8", "surrogatepass"))
    plain = canonical("/" + escaped)
    problem = plain.reason if isinstance(plain, Ambiguous) else segment_problem(segment)
    if problem:
        raise GlobError(f"No request could match: the path pattern {problem}.")
    return segment


def _squeeze(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """`**/**` means `**`: one state less each."""
    kept: list[Part] = []
    for part in parts:
        if not (part == ANY and kept and kept[-1] == ANY):
            kept.append(part)
    return tuple(kept)


def _match(parts: tuple[Part, ...], head: int, segments: tuple[str, ...]) -> bool:
    return segments[:head] == parts[:head] and _match_parts(parts[head:], segments[head:])


def _match_parts(parts: tuple[Part, ...], segments: tuple[str, ...]) -> bool:
    """Greedy match with one restart point, the last `**`: at most parts times segments steps."""
    at = 0
    star, retry = -1, 0
    position = 0
    count, length = len(parts), len(segments)
    while position < length:
        part = parts[at] if at < count else None
        if part == ANY:
            star, retry = at, position
            at += 1
        elif part is not None and part in (ONE, segments[position]):
            at += 1
            position += 1
        elif star >= 0:
            retry += 1
            at, position = star + 1, retry
        else:
            return False
    return all(part == ANY for part in parts[at:])


def _includes(wide: tuple[Part, ...], narrow: tuple[Part, ...]) -> bool:
    """Language inclusion by walking `narrow` beside the set of states `wide` can be in.

    The alphabet is the literals of both patterns and one segment that neither knows.
    """
    alphabet = {part for part in (*wide, *narrow) if isinstance(part, str)} | {"\0"}
    start = (0, _closed(wide, 1))
    seen, queue = {start}, [start]
    while queue:
        if len(seen) > _MAX_INCLUSION_STEPS:
            return False
        state, inside = queue.pop()
        if _closed(narrow, 1 << state) >> len(narrow) & 1 and not inside >> len(wide) & 1:
            return False
        for following in _successors(narrow, wide, state, inside, alphabet):
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return True


def _successors(
    narrow: tuple[Part, ...], wide: tuple[Part, ...], state: int, inside: int, alphabet: set[str]
) -> list[tuple[int, int]]:
    """The pairs reached when both patterns read one more segment that `narrow` may read."""
    following = []
    for symbol in alphabet:
        step = _step(narrow, 1 << state, symbol)
        after = _step(wide, inside, symbol) if step else 0
        following += [(bit, after) for bit in range(len(narrow) + 1) if step >> bit & 1]
    return following


def _closed(parts: tuple[Part, ...], states: int) -> int:
    """The states (bit i: the first i parts are read) with those reached by an empty `**`."""
    for index, part in enumerate(parts):
        if part == ANY and states >> index & 1:
            states |= 1 << index + 1
    return states


def _step(parts: tuple[Part, ...], states: int, symbol: str) -> int:
    """The states after one more segment."""
    states = _closed(parts, states)
    after = 0
    for index, part in enumerate(parts):
        if states >> index & 1:
            if part == ANY:
                after |= 1 << index
            elif part in (ONE, symbol):
                after |= 1 << index + 1
    return _closed(parts, after)
