"""The reader of the environment: typed, and a bad value names the variable and not itself."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensagents.settings.env import Env, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

BAD = "s3cr3t-bad-value"
KEY = base64.b64encode(b"k" * 32).decode()
READERS: dict[str, Callable[[Env], Any]] = {
    "choice": lambda env: env.choice("X", "a", among=("a", "b")),
    "flag": lambda env: env.flag("X", default=False),
    "number": lambda env: env.number("X", 1, low=1, high=9),
    "networks": lambda env: env.networks("X"),
    "path": lambda env: env.path("X", Path("/")),
    "mapping": lambda env: env.mapping("X"),
    "origin": lambda env: env.origin("X"),
    "secret_key": lambda env: env.secret_key("X"),
    "keys": lambda env: env.keys("X"),
    "database_url": lambda env: env.database_url("X"),
    "redis_url": lambda env: env.redis_url("X"),
    "smtp_url": lambda env: env.smtp_url("X"),
    "absent": lambda env: env.absent("X", "because"),
    "secret by file": lambda env: Env({"LENS_X_FILE": env.text("X")}).secret("X"),
}


@pytest.mark.parametrize("reader", READERS)
def test_bad_value_names_the_variable_and_not_itself(reader: str) -> None:
    with pytest.raises(SettingError) as caught:
        READERS[reader](Env({"LENS_X": BAD}))
    assert "LENS_X" in str(caught.value)
    assert BAD not in str(caught.value)
    # Neither does what a traceback would show of the errors behind it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("reader", ["origin", "secret_key", "keys", "database_url", "redis_url"])
def test_what_has_no_default_must_be_set(reader: str) -> None:
    for values in ({}, {"LENS_X": ""}):
        with pytest.raises(SettingError, match="LENS_X"):
            READERS[reader](Env(values))


@pytest.mark.parametrize(
    ("url", "port", "implicit_tls"),
    [
        ("smtp://u:p%40ss@mail.example", 587, False),
        ("smtps://u:p%40ss@mail.example", 465, True),
        ("smtps://u:p%40ss@mail.example:2465/", 2465, True),
    ],
)
def test_a_mail_server(url: str, port: int, implicit_tls: bool) -> None:  # noqa: FBT001  a table
    found = Env({"LENS_X": url}).smtp_url("X")
    assert found is not None
    assert (found.host, found.port, found.user, found.password) == (
        "mail.example",
        port,
        "u",
        "p@ss",
    )
    assert found.implicit_tls is implicit_tls
    assert "p@ss" not in repr(found)
    assert Env({}).smtp_url("X") is None


@pytest.mark.parametrize("url", ["http://mail.example", "smtp://", "smtp://h:0", "smtp://h/x"])
def test_what_is_no_mail_server(url: str) -> None:
    with pytest.raises(SettingError, match="LENS_X must look like smtp"):
        Env({"LENS_X": url}).smtp_url("X")


def test_good_values() -> None:
    values = {
        "WORD": "b",
        "YES": "true",
        "COUNT": "7",
        "LIST": " a, b ,,c",
        "NETS": "10.1.0.0/16, fd12::/64",
        "DIR": "/srv/lens",
        "MAP": '{"a": ["127.0.0.1", 1]}',
        "URL": "https://lens.example.com:8443/",
        "KEYS": f"{KEY},{KEY}",
    }
    env = Env({f"LENS_{name}": value for name, value in values.items()})
    assert env.choice("WORD", "a", among=("a", "b")) == "b"
    assert env.flag("YES", default=False) is True
    assert env.number("COUNT", 1, low=1, high=9) == 7
    assert env.listing("LIST", []) == ["a", "b", "c"]
    assert env.networks("NETS") == ["10.1.0.0/16", "fd12::/64"]
    assert env.path("DIR", Path("/")) == Path("/srv/lens")
    assert env.mapping("MAP") == {"a": ["127.0.0.1", 1]}
    assert env.origin("URL") == "https://lens.example.com:8443"
    assert env.keys("KEYS") == [b"k" * 32] * 2


def test_database_url_is_taken_apart_and_hides_its_password() -> None:
    url = Env({"LENS_X": "postgresql://len%40s:p%2Fw@db.internal:6432/lens"}).database_url("X")
    assert (url.user, url.password, url.host, url.port, url.name) == (
        "len@s",
        "p/w",
        "db.internal",
        6432,
        "lens",
    )
    assert "p/w" not in repr(url)


@pytest.mark.parametrize(
    "value", ["0", "10", "1_0", " 5", "+5", "5.0", "\u0665", "-1", "", "1" * 99]
)
def test_number_takes_plain_digits_in_range_only(value: str) -> None:
    env = Env({"LENS_X": value or "x"})
    with pytest.raises(SettingError):
        env.number("X", 1, low=1, high=9)


@pytest.mark.parametrize(
    "value",
    [
        "lens.example.com",
        "ftp://lens.example.com",
        "https://",
        "https://u@lens.example.com",
        "https://lens.example.com/path",
        "https://lens.example.com?x",
        "https://lens.example.com:0",
        "https://lens.example.com:99999",
        "https://LENS.example.com",
        "https://[::1",
    ],
)
def test_origin_is_only_an_origin(value: str) -> None:
    with pytest.raises(SettingError):
        Env({"LENS_X": value}).origin("X")


@given(st.text())
def test_any_text_is_a_value_or_a_setting_error(text: str) -> None:
    for name, reader in READERS.items():
        if name != "secret by file":
            with contextlib.suppress(SettingError):
                reader(Env({"LENS_X": text}))


def test_secret_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  the value\n")
    assert Env({"LENS_X_FILE": str(file)}).secret("X") == "the value"
    with pytest.raises(SettingError, match="not both"):
        Env({"LENS_X_FILE": str(file), "LENS_X": "y"}).secret("X")
    file.write_text("\n")
    with pytest.raises(SettingError, match="empty"):
        Env({"LENS_X_FILE": str(file)}).secret("X")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="not text"):
        Env({"LENS_X_FILE": str(file)}).secret("X")
