"""The registry of actions: a name exists once, and looks like one."""

from __future__ import annotations

from enum import StrEnum

import pytest

from apps.audit import actions
from apps.audit.actions import is_registered, registered


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_owners", {})


def declare(*names: str) -> None:
    members = {f"A{n}": name for n, name in enumerate(names)}
    actions.actions(StrEnum("Declared", members))  # type: ignore[type-var]  # mypy wants literals


def test_declared_actions_are_known() -> None:
    declare("team.created", "team.deleted")
    assert registered() == ["team.created", "team.deleted"]
    assert is_registered("team.created")
    assert not is_registered("team.renamed")


def test_two_apps_cannot_declare_the_same_action() -> None:
    declare("team.created")
    with pytest.raises(TypeError, match=r"team\.created"):
        declare("team.created")


@pytest.mark.parametrize("name", ["created", "Team.Created", "team.", ".x", "a b.c", "x." * 60])
def test_an_odd_name_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="no audit action"):
        declare(name)
