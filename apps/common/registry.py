"""Add a thing = add a file: named classes or functions, registered by decorator, no duplicates."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """A name → thing table that is filled by importing every module of one package.

    `what` is the noun used in errors. A second registration of a name fails at import.
    """

    def __init__(self, what: str, package: str = "") -> None:
        self.what = what
        self._package = package
        self._items: dict[str, Item] = {}
        self._loaded = not package

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator: put the decorated thing under `name`."""

        def add(item: Item) -> Item:
            if name in self._items:
                raise TypeError(f"{self.what} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Item | None:
        """The thing called `name`, or None."""
        self._load()
        return self._items.get(name)

    def names(self) -> list[str]:
        """All names, sorted: lists made from a registry have a fixed order."""
        self._load()
        return sorted(self._items)

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        return iter([(name, self._items[name]) for name in self.names()])

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
