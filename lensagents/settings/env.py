"""The only reader of the environment (with the harness's `config.py`): typed, once, loudly.

Every variable is `LENS_…`. A secret may come as `LENS_X_FILE`, a path whose content is the value.
A bad value stops the start with the variable's name and what would be right, never with the value.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX: Final = "LENS_"
MIN_SECRET_CHARS: Final = 50
MIN_SECRET_VARIETY: Final = 10
KEY_BYTES: Final = 32


class SettingError(Exception):
    """A setting is missing or wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class SmtpUrl:
    """The parts of `smtps://user:password@host:port`. `repr` hides the password."""

    host: str
    port: int
    user: str
    password: str
    implicit_tls: bool

    def __repr__(self) -> str:
        return f"SmtpUrl({self.user}@{self.host}:{self.port})"


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The parts of `postgresql://user:password@host:port/name`. `repr` hides the password."""

    host: str
    port: int
    name: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.user}@{self.host}:{self.port}/{self.name})"


def preset(name: str, value: str) -> None:
    """Set `LENS_<name>` before settings are read: how a command-line option becomes a setting."""
    os.environ[PREFIX + name] = value  # noqa: TID251  the reader


def choose_settings(module: str) -> None:
    """The settings module, unless the caller's environment names another."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)  # noqa: TID251  the reader


class Env:
    """A typed view of one environment mapping."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self._values = dict(os.environ) if values is None else values  # noqa: TID251  the reader

    def text(self, name: str, default: str | None = None) -> str:
        """A non-empty string; without default it must be set."""
        value = self._raw(name)
        if value is not None:
            return value
        if default is None:
            raise SettingError(f"{PREFIX}{name} must be set")
        return default

    def choice(self, name: str, default: str, *, among: Sequence[str]) -> str:
        """One of a few words."""
        value = self.text(name, default)
        if value not in among:
            raise SettingError(f"{PREFIX}{name} must be one of: {', '.join(among)}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """`true` or `false`, nothing else."""
        value = self._raw(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise SettingError(f"{PREFIX}{name} must be true or false")
        return value == "true"

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._raw(name)
        if value is None:
            return default
        # isdecimal, because int() also takes "1_0", " 1 " and "+1", which nobody means.
        if not (value.isascii() and value.isdecimal() and low <= int(value) <= high):
            raise SettingError(f"{PREFIX}{name} must be a whole number from {low} to {high}")
        return int(value)

    def listing(self, name: str, default: list[str]) -> list[str]:
        """Comma-separated words."""
        value = self._raw(name)
        if value is None:
            return default
        return [word.strip() for word in value.split(",") if word.strip()]

    def networks(self, name: str) -> list[str]:
        """Comma-separated networks in CIDR form, without host bits."""
        words = self.listing(name, [])
        try:
            return [str(ipaddress.ip_network(word)) for word in words]
        except ValueError:
            raise SettingError(
                f"{PREFIX}{name} must be networks such as 10.1.0.0/16, fd12::/64"
            ) from None

    def path(self, name: str, default: Path) -> Path:
        """An absolute path."""
        value = self._raw(name)
        if value is None:
            return default
        path = Path(value)
        if not path.is_absolute():
            raise SettingError(f"{PREFIX}{name} must be an absolute path")
        return path

    def mapping(self, name: str) -> dict[str, Any]:
        """A JSON object; empty when unset."""
        value = self._raw(name)
        try:
            found = json.loads(value or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SettingError(f"{PREFIX}{name} must be a JSON object")
        return found

    def origin(self, name: str, default: str | None = None) -> str:
        """`http(s)://host[:port]`, without path, query or user; returned without trailing slash."""
        value = self.text(name, default).rstrip("/")
        what = f"{PREFIX}{name} must look like https://lens.example.com or http://127.0.0.1:8000"
        try:
            parts = urlsplit(value)
            well_formed = parts.port != 0
        except ValueError:
            raise SettingError(what) from None
        beyond = (parts.path, parts.query, parts.fragment, parts.username)
        if parts.scheme not in ("http", "https") or not parts.hostname or not well_formed:
            raise SettingError(what)
        if any(beyond) or value != value.lower():
            raise SettingError(what)
        return value

    def secret(self, name: str, default: str | None = None) -> str:
        """A secret from `LENS_<name>` or from the file that `LENS_<name>_FILE` names."""
        file = self._raw(f"{name}_FILE")
        if file is None:
            value = self._raw(name)
            if value is None and default is None:
                raise SettingError(f"{PREFIX}{name} or {PREFIX}{name}_FILE must be set")
            return value if value is not None else default or ""
        if self._raw(name) is not None:
            raise SettingError(f"set {PREFIX}{name} or {PREFIX}{name}_FILE, not both")
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingError(f"{PREFIX}{name}_FILE cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingError(f"{PREFIX}{name}_FILE is not text") from None
        if not value:
            raise SettingError(f"{PREFIX}{name}_FILE is empty")
        return value

    def secret_key(self, name: str) -> str:
        """A signing secret of at least 50 random characters."""
        value = self.secret(name)
        if len(value) < MIN_SECRET_CHARS or len(set(value)) < MIN_SECRET_VARIETY:
            raise SettingError(f"{PREFIX}{name} must have {MIN_SECRET_CHARS} random characters")
        return value

    def keys(self, name: str) -> list[bytes]:
        """Comma- or line-separated base64 of 32-byte keys; the first one seals."""
        words = self.secret(name).replace(",", "\n").split()
        try:
            keys = [base64.b64decode(word, validate=True) for word in words]
        except ValueError:  # not base64, or not even ASCII
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise SettingError(f"{PREFIX}{name} must be base64 of {KEY_BYTES}-byte keys")
        return keys

    def database_url(self, name: str) -> DatabaseUrl:
        """`postgresql://user:password@host:port/name`, percent-encoded where needed."""
        what = f"{PREFIX}{name} must look like postgresql://user:password@host:5432/name"
        try:
            parts = urlsplit(self.secret(name))
            port = parts.port or 5432
        except ValueError:
            raise SettingError(what) from None
        database = parts.path.removeprefix("/")
        if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not database:
            raise SettingError(what)
        if parts.query or parts.fragment or "/" in database:
            raise SettingError(what)
        return DatabaseUrl(
            host=parts.hostname,
            port=port,
            name=unquote(database),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    def database_url_or_none(self, name: str) -> DatabaseUrl | None:
        """The same, None when it is not set."""
        given = self._raw(name) is not None or self._raw(f"{name}_FILE") is not None
        return self.database_url(name) if given else None

    def redis_url(self, name: str) -> str:
        """`redis://` or `rediss://` with a host and a database number."""
        value = self.secret(name)
        try:
            parts = urlsplit(value)
            well_formed = parts.port != 0
        except ValueError:
            well_formed = False
        if not well_formed or parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise SettingError(f"{PREFIX}{name} must look like redis://host:6379/0")
        return value

    def smtp_url(self, name: str) -> SmtpUrl | None:
        """`smtp://` (STARTTLS) or `smtps://` (TLS from the start); None when unset."""
        value = self.secret(name, "")
        if not value:
            return None
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        beyond = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or beyond or port == 0:
            raise SettingError(f"{PREFIX}{name} must look like smtp://user:password@host:587")
        implicit = parts.scheme == "smtps"
        return SmtpUrl(
            host=parts.hostname,
            port=port or (465 if implicit else 587),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            implicit_tls=implicit,
        )

    def absent(self, name: str, why: str) -> None:
        """Refuse a variable that must not be set here; `why` is shown."""
        if self._raw(name) is not None:
            raise SettingError(f"{PREFIX}{name} must not be set: {why}")

    def _raw(self, name: str) -> str | None:
        value = self._values.get(PREFIX + name, "")
        return value or None
