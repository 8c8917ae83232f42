"""One thing after the other, none in the way of the next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


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
