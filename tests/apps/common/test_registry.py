"""Registries: one name, one thing, a fixed order."""

from __future__ import annotations

import pytest

from apps.common.registry import Registry


def test_what_is_registered_is_found() -> None:
    registry: Registry[str] = Registry("fruit")
    assert registry.register("b")("banana") == "banana"
    registry.register("a")("apple")
    assert registry.get("b") == "banana"
    assert registry.get("c") is None
    assert registry.names() == ["a", "b"]
    assert list(registry) == [("a", "apple"), ("b", "banana")]


def test_a_name_is_given_once() -> None:
    registry: Registry[str] = Registry("fruit")
    registry.register("a")("apple")
    with pytest.raises(TypeError, match="fruit 'a' is registered twice"):
        registry.register("a")("avocado")
    assert registry.get("a") == "apple"


def test_a_package_is_loaded_at_the_first_question() -> None:
    kinds: Registry[object] = Registry("module", "apps.connections.kinds")
    assert kinds.names() == []  # its modules register elsewhere; the point is that they import
    with pytest.raises(ModuleNotFoundError):
        Registry("module", "apps.nowhere").names()
