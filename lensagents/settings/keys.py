"""The embedded default's own secrets: made at the first start, kept as files that only we read.

`keys/secret_key` signs sessions and links; `keys/encryption_keys` holds the AES-256 key ring, one
base64 key a line, the first of which seals. Losing the second file loses every stored credential:
back it up apart from the database.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from lensagents.settings.env import KEY_BYTES, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_data_dir(data_dir: Path) -> None:
    """Create the data folder and what it must contain, with the modes that they need.

    The folder itself can be crossed by the sandbox host's other users (they reach two sockets and
    their own spool in it) and listed by nobody else; `keys` belongs to us alone.
    """
    folders = ((data_dir, 0o711), (data_dir / "run", 0o711), (data_dir / "keys", 0o700))
    try:
        for path, mode in folders:
            if not path.is_dir():
                path.mkdir(parents=True)
                path.chmod(mode)
    except OSError as error:
        raise SettingError(f"the data folder {data_dir} cannot be made: {error.strerror}") from None


def load_secret_key(data_dir: Path) -> str:
    """The signing secret, made when absent."""
    return _load(data_dir / "keys" / "secret_key", lambda: secrets.token_urlsafe(64))


def load_encryption_keys(data_dir: Path) -> list[bytes]:
    """The AES-256 keys, made when absent; SettingError when the file holds anything else."""
    path = data_dir / "keys" / "encryption_keys"
    text = _load(path, lambda: base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())
    try:
        keys = [base64.b64decode(line, validate=True) for line in text.split()]
    except ValueError:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise SettingError(f"{path} must hold base64 of {KEY_BYTES}-byte keys, one a line")
    return keys


def _load(path: Path, make: Callable[[], str]) -> str:
    """The text of a key file; a hard link decides between two processes that start at once."""
    if path.exists():
        return _read(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Exclusive, so that nothing that lies there already, a link for example, is written to.
        with open(draft, "x", opener=_private) as file:
            file.write(make() + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return _read(path)


def _read(path: Path) -> str:
    try:
        with open(path, opener=_private) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SettingError(
                    f"{path} can be read by others (mode {mode:o}): chmod 600 {path}"
                )
            return file.read().strip()
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
