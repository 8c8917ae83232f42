"""Giving root up: to whom, whether they can work here, and what is given to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lensagents import privileges
from lensagents.embedded.single import Claim, StartError, is_loopback, running_url
from tests.platform import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
UID = privileges.SERVICE_UID


def test_owner_of_the_data_folder_is_who_we_become(tmp_path: Path) -> None:
    status = tmp_path.stat()
    wanted = (status.st_uid, status.st_gid) if status.st_uid else (UID, UID)
    assert privileges.service_user(tmp_path) == wanted


@needs_root
def test_first_path_out_of_reach_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    open_to_all = Path("/usr/lib")
    assert privileges.can_run_as(0, 0, [closed]) == ""
    refused = privileges.can_run_as(UID, UID, [open_to_all, closed])
    assert refused in (str(closed), sys.executable, os.__file__)


@needs_root
def test_what_root_made_is_given(tmp_path: Path) -> None:
    made = tmp_path / "db.sqlite3"
    made.touch()
    privileges.give(made, UID, UID)
    privileges.give(tmp_path, UID, UID)
    assert (made.stat().st_uid, tmp_path.stat().st_uid) == (UID, UID)


@needs_root
def test_links_planted_in_the_folder_give_nothing_away(tmp_path: Path) -> None:
    """The folder belongs to a user who may have been taken over since the last start."""
    precious = tmp_path / "shadow"
    precious.touch(mode=0o600)
    soft, hard, pipe = tmp_path / "soft", tmp_path / "hard", tmp_path / "pipe"
    soft.symlink_to(precious)
    os.link(precious, hard)
    os.mkfifo(pipe)
    for path in (soft, hard, pipe, tmp_path / "absent"):
        privileges.give(path, UID, UID)
    assert precious.stat().st_uid == 0
    assert pipe.stat().st_uid == 0


@needs_root
def test_no_way_back() -> None:
    script = (
        "import os; from lensagents import privileges; privileges.drop_to(60700, 60700)\n"
        "assert os.getresuid() == (60700,) * 3 and os.getgroups() == [], os.getresuid()\n"
        "try: os.setuid(0)\n"
        "except PermissionError: print('stays')\n"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "stays\n", done.stderr


def test_claim_is_held_by_one_and_published(tmp_path: Path) -> None:
    assert running_url(tmp_path) is None
    first = Claim(tmp_path)
    first.take()
    first.publish("http://127.0.0.1:1")
    assert running_url(tmp_path) == "http://127.0.0.1:1"
    with pytest.raises(StartError, match=f"process {os.getpid()}"):
        Claim(tmp_path).take()


def test_claim_of_a_dead_process_is_free(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_text('{"pid": 1, "url": "http://127.0.0.1:1"}')
    assert running_url(tmp_path) is None
    Claim(tmp_path).take()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.5.5.5", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  judged, not listened on
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:  # noqa: FBT001  a table of answers
    assert is_loopback(host) is loopback
