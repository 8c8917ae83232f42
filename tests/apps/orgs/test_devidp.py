"""The development identity provider: where it refuses to run, and what was taken away from it."""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured

from apps.orgs import devidp
from apps.orgs.devidp import DevIdp
from tests.apps.orgs.browser import DEV_IDP_MARKS

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_django.fixtures import Settings

pytestmark = DEV_IDP_MARKS
ASK = {
    "response_type": "code",
    "scope": "openid email profile",
    "client_id": "any",
    "redirect_uri": "http://127.0.0.1/callback",
    "state": "the-state",
    "nonce": "the-nonce",
}


@pytest.mark.parametrize("bind", ["0.0.0.0", "10.1.2.3", "::", "lens.example.com"])  # noqa: S104
def test_refuses_to_run_where_others_could_reach_it(tmp_path: Path, bind: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="--no-dev-idp"):
        DevIdp(tmp_path, bind=bind, loopback=False)


def test_refuses_to_run_on_a_server(tmp_path: Path, settings: Settings) -> None:
    settings.DEV_IDP_ALLOWED = False
    with pytest.raises(ImproperlyConfigured, match="embedded default only"):
        DevIdp(tmp_path, bind="127.0.0.1", loopback=True)


def test_listens_on_loopback_only(dev_idp: DevIdp) -> None:
    port = int(dev_idp.issuer.rpartition(":")[2])
    assert dev_idp.issuer == f"http://127.0.0.1:{port}"
    with socket.socket() as other:  # every other address of the port is still free
        other.bind(("127.0.0.2", port))


def test_port_and_people_are_kept(tmp_path: Path) -> None:
    first = DevIdp(tmp_path, bind="127.0.0.1", loopback=True)
    first.start()
    first.stop()
    saved = json.loads((tmp_path / "dev-idp.json").read_text())
    assert [person["sub"] for person in saved["people"]] == ["admin", "member"]
    again = DevIdp(tmp_path, bind="127.0.0.1", loopback=True)
    again.start()
    again.stop()
    assert again.issuer == first.issuer


def test_prepared_people_are_offered(tmp_path: Path) -> None:
    ana = {"sub": "ana", "email": "ana@acme.test", "name": "Ana <b>"}
    issuer = devidp.prepare(tmp_path, [ana])
    provider = DevIdp(tmp_path, bind="127.0.0.1", loopback=True)
    provider.start()
    try:
        assert provider.issuer == issuer == devidp.running_origin()
        page = httpx.get(f"{issuer}/oauth2/authorize", params=ASK).text
    finally:
        provider.stop()
    assert "Ana &lt;b&gt; &lt;ana@acme.test&gt;" in page
    assert devidp.running_origin() == ""


def test_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        provider = DevIdp(tmp_path, bind="127.0.0.1", loopback=True, port=port)
        with pytest.raises(ImproperlyConfigured, match=f"port {port}"):
            provider.start()


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev-idp.json").write_text("{")
    with pytest.raises(ImproperlyConfigured, match=r"dev-idp\.json"):
        DevIdp(tmp_path, bind="127.0.0.1", loopback=True)


def test_thread_ends(dev_idp: DevIdp) -> None:
    dev_idp.stop()
    assert "dev-idp" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(dev_idp.issuer)
    dev_idp.stop()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/users/admin"),
        ("POST", "/users/admin/revoke-tokens"),
        ("POST", "/oauth2/clients"),
        ("GET", "/"),
        ("GET", "/console"),
        ("GET", "/oauth2/authorize/../../users/admin"),
    ],
)
def test_everything_else_is_taken_away(dev_idp: DevIdp, method: str, path: str) -> None:
    assert httpx.request(method, dev_idp.issuer + path, json={}).status_code == 404


@pytest.mark.parametrize("host", ["evil.test", "localhost", "127.0.0.1", "127.0.0.1:1"])
def test_another_name_for_it_is_refused(dev_idp: DevIdp, host: str) -> None:
    """A page on the internet may have its name resolve to 127.0.0.1."""
    url = f"{dev_idp.issuer}/.well-known/openid-configuration"
    assert httpx.get(url).json()["issuer"] == dev_idp.issuer
    assert httpx.get(url, headers={"Host": host}).status_code == 404


def test_nothing_is_loaded_from_elsewhere_and_nothing_may_frame_it(dev_idp: DevIdp) -> None:
    page = httpx.get(f"{dev_idp.issuer}/oauth2/authorize", params=ASK)
    assert "https://" not in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


def test_an_error_shows_no_debugger(dev_idp: DevIdp) -> None:
    answer = httpx.get(f"{dev_idp.issuer}/userinfo", headers={"Authorization": "Bearer x"})
    assert 400 <= answer.status_code < 500
    assert "Traceback" not in answer.text
    assert "__debugger__" not in answer.text


def test_codes_and_states_are_not_logged(dev_idp: DevIdp, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        url = f"{dev_idp.issuer}/oauth2/authorize"
        answer = httpx.post(url, params=ASK, data={"sub": "ana@acme.test"})
    code = answer.headers["Location"].split("code=")[1].split("&")[0]
    logged = [record for record in caplog.records if not record.name.startswith("http")]
    assert code not in str([record.getMessage() for record in logged])
    assert "the-state" not in str([record.getMessage() for record in logged])
