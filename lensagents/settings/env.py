"""The only reader of the environment (with the harness's `config.py`): typed, once, loudly.

Every variable is `LENS_…`. A secret may come as `LENS_X_FILE`, a path whose content is the value. A bad
value stops the start with the variable's name and what would be right, and never with the value.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PREFIX: Final = "LENS_"


class SettingError(Exception):
    """A setting is missing or wrong; the text names it."""


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
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise SettingError(f"{PREFIX}{name} must be a whole number from {low} to {high}")
        return number

    def listing(self, name: str, default: list[str]) -> list[str]:
        """Comma-separated words."""
        value = self._raw(name)
        if value is None:
            return default
        return [word.strip() for word in value.split(",") if word.strip()]

    def path(self, name: str, default: Path) -> Path:
        """An absolute path."""
        value = self._raw(name)
        if value is None:
            return default
        path = Path(value)
        if not path.is_absolute():
            raise SettingError(f"{PREFIX}{name} must be an absolute path")
        return path

    def secret(self, name: str, default: str | None = None) -> str:
        """A secret from `LENS_<name>` or from the file that `LENS_<name>_FILE` names."""
        file = self._raw(f"{name}_FILE")
        if file is None:
            return self.text(name, default)
        if self._raw(name) is not None:
            raise SettingError(f"set {PREFIX}{name} or {PREFIX}{name}_FILE, not both")
        try:
            value = Path(file).read_text().strip()
        except OSError as error:
            raise SettingError(f"{PREFIX}{name}_FILE cannot be read: {error.strerror}") from error
        if not value:
            raise SettingError(f"{PREFIX}{name}_FILE is empty")
        return value

    def _raw(self, name: str) -> str | None:
        value = self._values.get(PREFIX + name, "")
        return value or None
