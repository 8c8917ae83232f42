"""The embedded default's own secrets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lensagents.settings import keys
from lensagents.settings.env import SettingError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_first_start_makes_them_private_and_keeps_them(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    keys.make_data_dir(data)
    first = keys.load_secret_key(data), keys.load_encryption_keys(data)
    assert (mode(data), mode(data / "run"), mode(data / "keys")) == (0o711, 0o711, 0o700)
    assert {mode(path) for path in (data / "keys").iterdir()} == {0o600}
    assert len(first[0]) >= 50
    assert [len(key) for key in first[1]] == [32]

    keys.make_data_dir(data)
    assert (keys.load_secret_key(data), keys.load_encryption_keys(data)) == first


def test_two_first_starts_agree(tmp_path: Path) -> None:
    keys.make_data_dir(tmp_path)
    script = (
        "import pathlib, sys; from lensagents.settings import keys;"
        "print(keys.load_secret_key(pathlib.Path(sys.argv[1])))"
    )
    runs = [
        subprocess.Popen(  # noqa: S603  our own interpreter
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    assert len({run.communicate(timeout=60)[0] for run in runs}) == 1


@pytest.mark.parametrize("content", ["", "short", "AAAA", "A" * 44, "!" * 44])
def test_damaged_key_ring_stops_the_start(tmp_path: Path, content: str) -> None:
    keys.make_data_dir(tmp_path)
    file = tmp_path / "keys" / "encryption_keys"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(SettingError, match="encryption_keys") as caught:
        keys.load_encryption_keys(tmp_path)
    assert not content or content not in str(caught.value)


def test_key_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    keys.make_data_dir(tmp_path)
    keys.load_secret_key(tmp_path)
    (tmp_path / "keys" / "secret_key").chmod(0o644)
    with pytest.raises(SettingError, match="chmod 600"):
        keys.load_secret_key(tmp_path)


@pytest.mark.parametrize("name", ["secret_key", "encryption_keys"])
def test_links_are_neither_read_nor_written(tmp_path: Path, name: str) -> None:
    """The start may be root's, in a folder that is not."""
    keys.make_data_dir(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("precious")
    outside.chmod(0o600)
    load = {"secret_key": keys.load_secret_key, "encryption_keys": keys.load_encryption_keys}[name]
    (tmp_path / "keys" / name).symlink_to(outside)
    with pytest.raises(SettingError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "keys" / name).unlink()
    (tmp_path / "keys" / f".{name}.{os.getpid()}").symlink_to(outside)
    with pytest.raises(SettingError, match="cannot be written"):
        load(tmp_path)
    assert outside.read_text() == "precious"


def test_several_keys_make_a_ring(tmp_path: Path) -> None:
    keys.make_data_dir(tmp_path)
    keys.load_encryption_keys(tmp_path)
    file = tmp_path / "keys" / "encryption_keys"
    file.write_text(file.read_text() * 2)
    assert len(keys.load_encryption_keys(tmp_path)) == 2
