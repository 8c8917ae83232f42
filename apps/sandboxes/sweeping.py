"""Many things to do, none in the way of another."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Item = TypeVar("Item")
Result = TypeVar("Result")
HANDS = 16
logger = logging.getLogger(__name__)


def side_by_side(items: Iterable[Item], act: Callable[[Item], Result]) -> list[Result]:
    """The results in order, each had in a thread of its own: for what waits, and asks no database.

    `act` does not raise.
    """
    waiting = list(items)
    if len(waiting) < 2:
        return [act(item) for item in waiting]
    with ThreadPoolExecutor(min(HANDS, len(waiting)), "lens-hand") as pool:
        return list(pool.map(act, waiting))


def run_all(*steps: Callable[[], object]) -> None:
    """Run each step; as `for_each`."""
    for_each(steps, lambda step: step())


def for_each(items: Iterable[Item], act: Callable[[Item], object]) -> int:
    """Act on each item; how many acts were truthy.

    When one raises, the others have their turn all the same. The first error is raised at the end,
    so that the caller knows that it is not done.
    """
    done, first = 0, None
    for item in items:
        try:
            done += bool(act(item))
        except Exception as error:  # noqa: BLE001  raised below
            if first is not None:
                logger.warning("another one failed, too: %s", type(error).__name__)
            first = first or error
    if first is not None:
        raise first
    return done
