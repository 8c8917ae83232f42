"""Every driver does what the interface says; a new one is run through the same."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from apps.common.errors import Invalid, LensError
from apps.sandboxes.driver import Spec, Use, driver_for, drivers

if TYPE_CHECKING:
    from tests.twins.sandboxd import SandboxdTwin


def spec(sandbox_id: uuid.UUID) -> Spec:
    return Spec(id=sandbox_id, token="lnsb_x", bundle={"version": 1}, identity={})


@pytest.mark.parametrize("name", drivers.names())
def test_a_driver_keeps_the_interface(name: str, sandboxd: SandboxdTwin) -> None:
    driver, sandbox_id = driver_for(name), uuid.uuid4()
    assert driver.activity().sandboxes == {}
    built = driver.create(spec(sandbox_id))
    assert built.isolation
    assert all({"probe", "ok"} <= probe.keys() for probe in built.report)
    assert driver.activity().sandboxes == {sandbox_id: Use("ready")}
    driver.create(spec(sandbox_id))
    assert len(driver.activity().sandboxes) == 1
    driver.apply(sandbox_id, {"version": 2})
    driver.stop(sandbox_id)
    driver.stop(sandbox_id)
    assert driver.activity().sandboxes == {}
    assert not driver.away()
    with pytest.raises(LensError):
        driver.apply(sandbox_id, {"version": 3})


def test_a_token_is_not_shown_by_accident() -> None:
    assert "lnsb_" not in repr(spec(uuid.uuid4()))


def test_an_unknown_driver_is_named() -> None:
    with pytest.raises(Invalid, match="'moon'"):
        driver_for("moon")
