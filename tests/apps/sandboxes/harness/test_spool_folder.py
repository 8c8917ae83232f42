"""A sandbox's audit folder is made and given by root, below a folder that is not root's."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness.sandbox import hand_over_spool, spool_directory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
PROXY, CONTROL = 300_000, 60_700


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the host that a link leads to."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    (folder / "empty").touch()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "box").symlink_to(folder)
    return folder


def owner_and_mode(folder: Path) -> tuple[int, int, int]:
    found = folder.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_folder_is_the_proxys_then_the_control_planes(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    spool_directory(str(folder), PROXY, CONTROL)
    assert owner_and_mode(folder) == (PROXY, CONTROL, 0o2770)
    (folder / "empty").touch()
    (folder / "full").write_text("event")
    hand_over_spool(str(folder), CONTROL, CONTROL)
    assert owner_and_mode(folder) == (CONTROL, CONTROL, 0o2770)
    assert [path.name for path in folder.iterdir()] == ["full"]


def test_empty_folder_goes(tmp_path: Path) -> None:
    spool_directory(str(tmp_path / "box"), PROXY, CONTROL)
    hand_over_spool(str(tmp_path / "box"), CONTROL, CONTROL)
    hand_over_spool(str(tmp_path / "box"), CONTROL, CONTROL)
    assert not (tmp_path / "box").exists()


def test_link_in_its_place_gives_nothing_away(tmp_path: Path, precious: Path) -> None:
    before = owner_and_mode(precious)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        spool_directory(str(tmp_path / "spool" / "box"), PROXY, CONTROL)
    hand_over_spool(str(tmp_path / "spool" / "box"), CONTROL, CONTROL)
    assert owner_and_mode(precious) == before
    assert (precious / "empty").exists()
