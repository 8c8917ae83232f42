"""Every credential kind keeps the promises of the protocol: one test over all of the folder."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from apps.connections import kinds as package
from apps.connections.registry import kinds
from apps.policies.types import Injection


@pytest.mark.parametrize("name", kinds.names())
class TestKind:
    """One kind."""

    def test_it_says_what_it_is(self, name: str) -> None:
        kind = kinds.get(name)
        assert kind is not None
        assert kind.label
        assert isinstance(kind.static, bool)

    def test_its_injections_exist(self, name: str) -> None:
        kind = kinds.get(name)
        assert kind is not None
        assert kind.injections
        assert set(kind.injections) <= set(Injection)

    def test_it_never_takes_a_value_that_ends_a_header(self, name: str) -> None:
        kind = kinds.get(name)
        assert kind is not None
        for value in ("", "a\r\nb", "a\x00b", "ä"):
            for username in ("", "user"):
                problems = list(kind.problems(username=username, value=value))
                assert any(problem.field == "value" for problem in problems)
                assert all(value not in problem.message for problem in problems if value)

    def test_a_stored_value_may_stay(self, name: str) -> None:
        kind = kinds.get(name)
        assert kind is not None
        found = [list(kind.problems(username=username, value=None)) for username in ("", "user")]
        assert [] in found


def test_each_file_registers_one_kind() -> None:
    files = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    assert files == kinds.names()


def test_a_second_registration_fails() -> None:
    module = importlib.import_module("apps.connections.kinds.static")
    with pytest.raises(TypeError, match="registered twice"):
        importlib.reload(module)
