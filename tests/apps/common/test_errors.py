"""The error tree: drawn once, and true."""

from __future__ import annotations

import inspect

import pytest

from apps.common import errors

TREE = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.LensError)
]


@pytest.mark.parametrize("kind", TREE)
def test_each_is_drawn_with_its_status(kind: type[errors.LensError]) -> None:
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line]
    if kind not in (errors.LensError, errors.IsolationUnavailable):
        assert str(kind.status) in line


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in TREE}) == len(TREE)


def test_a_code_of_its_own_wins() -> None:
    error = errors.Unauthenticated("No.", code="token_revoked")
    assert (error.error_code, error.status) == ("token_revoked", 401)
    assert errors.Unauthenticated("No.").error_code == "unauthenticated"


def test_a_field_is_data_too() -> None:
    error = errors.Invalid("Wrong.", field="slug")
    assert (error.field, error.data) == ("slug", {"field": "slug"})
    assert str(error) == error.message == "Wrong."
