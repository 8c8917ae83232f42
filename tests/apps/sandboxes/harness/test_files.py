"""Files and fetches: inside the sandbox, as its user, never outside the workspace."""

from __future__ import annotations

import base64
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sandboxes.harness import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.apps.sandboxes.harness.conftest import Box

isolated = pytest.mark.isolation
OUTSIDE = "path_outside_workspace"


def read(box: Box, path: str, **values: Any) -> bytes:
    status, answer = box.post("files/read", path=path, **values)
    assert status == 200, answer
    return base64.b64decode(answer["content"])


def refusal(answer: tuple[int, dict[str, Any]]) -> str:
    status, body = answer
    assert 400 <= status < 500, body
    return str(body["error"])


@isolated
def test_write_and_read_binary_content(box: Box) -> None:
    blob = bytes(range(256)) * 1000
    status, answer = box.write("dir/deeper/blob", blob)
    assert (status, answer) == (200, {"size": len(blob), "written": len(blob)})
    assert read(box, "/workspace/dir/deeper/blob") == blob
    assert read(box, "dir/../dir/deeper/blob", offset=10, limit=5) == blob[10:15]
    _, answer = box.post("files/read", path="dir/deeper/blob", offset=255_990)
    assert answer["eof"] is True
    assert answer["size"] == len(blob)
    assert box.run("stat -c '%U %a' dir/deeper/blob").text == "agent 644"


@isolated
def test_modes_of_writing(box: Box) -> None:
    box.run("rm -rf modes; mkdir modes; chmod 700 modes")
    assert box.write("modes/a", b"one", mode="create")[0] == 200
    assert refusal(box.write("modes/a", b"two", mode="create")) == "already_exists"
    assert box.write("modes/a", b"two", mode="append")[1]["size"] == 6
    box.run("chmod 755 modes/a")
    assert box.write("modes/a", b"three")[1]["size"] == 5
    assert box.run("stat -c %a modes/a").text == "755"
    assert read(box, "modes/a") == b"three"
    assert box.run("ls -A modes").text == "a"
    assert refusal(box.write("modes/a", b"", mode="truncate")) == "invalid"
    assert refusal(box.write("modes/no/a", b"", parents=False)) == "not_found"


@isolated
def test_overwriting_replaces_a_link_and_never_follows_it(box: Box) -> None:
    box.run("rm -rf links; mkdir links; echo target > links/t; ln -s t links/l")
    assert box.write("links/l", b"new")[0] == 200
    assert box.run("cat links/t; test -L links/l || echo file").text == "target\nfile"


@isolated
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/", "/workspacex/a", "../etc/passwd", "/workspace/../etc/passwd",
        "a/../../etc/passwd", "/tmp/../etc/passwd",  # noqa: S108 the sandbox's own
        "out", "out/passwd", "loop", "up/etc/passwd",
        "/proc/self/environ", "/dev/null", "/usr/bin/true", "magic",
    ],
)  # fmt: skip
def test_paths_that_lead_out(box: Box, path: str) -> None:
    box.run(
        "mkdir -p a; ln -sfn /etc out; ln -sfn loop loop; ln -sfn ../ up; "
        "ln -sfn /proc/self/cwd magic"
    )
    assert refusal(box.post("files/read", path=path)) == OUTSIDE
    assert refusal(box.post("files/list", path=path)) in (OUTSIDE, "not_directory")
    wrote = box.write(path, b"x")
    if path not in ("out", "loop", "magic"):  # a link itself may be replaced by a file
        assert refusal(wrote) in (OUTSIDE, "is_directory")
    assert box.run("grep -c agent /etc/passwd").text == "1"


@isolated
def test_links_that_stay_inside_are_followed(box: Box) -> None:
    box.run("rm -rf inn; mkdir -p inn/d; echo x > inn/d/f; ln -s d inn/l; ln -s ../inn/d/f inn/f")
    assert read(box, "inn/l/f") == b"x\n"
    assert read(box, "inn/f") == b"x\n"


@isolated
def test_what_is_no_regular_file(box: Box) -> None:
    box.run("rm -rf odd; mkdir -p odd/dir; mkfifo odd/fifo")
    assert refusal(box.post("files/read", path="odd/dir")) == "is_directory"
    assert refusal(box.post("files/read", path="odd/fifo")) == "not_regular"
    assert refusal(box.write("odd/fifo", b"x", mode="append")) == "not_regular"
    assert refusal(box.write("odd/dir", b"x")) == "is_directory"
    assert refusal(box.post("files/read", path="odd/none")) == "not_found"
    assert refusal(box.post("files/read", path="odd/fifo/x")) == "not_directory"
    assert refusal(box.post("files/read", path="x" * 300)) == "invalid_path"
    assert refusal(box.post("files/read", path="")) == "invalid_path"
    box.run("touch odd/closed; chmod 0 odd/closed")
    assert refusal(box.post("files/read", path="odd/closed")) == "permission_denied"


@isolated
def test_listing(box: Box) -> None:
    box.run(
        "rm -rf ls; mkdir -p ls/d; printf abc > ls/f; ln -s f ls/l; : > \"$(printf 'ls/\\377')\""
    )
    _, answer = box.post("files/list", path="ls")
    entries = {entry["name"]: entry for entry in answer["entries"]}
    assert {n: e["type"] for n, e in entries.items()} == {
        "d": "directory", "f": "file", "l": "link", "\\xff": "file",
    }  # fmt: skip
    assert entries["f"]["size"] == 3
    assert base64.b64decode(entries["\\xff"]["name_b64"]) == b"\xff"
    _, answer = box.post("files/list", path="ls", limit=2)
    assert (len(answer["entries"]), answer["truncated"]) == (2, True)


@isolated
def test_sizes_are_bounded(fresh: Box) -> None:
    fresh.run("head -c 20000000 /dev/zero > big")
    _, answer = fresh.post("files/read", path="big")
    assert len(base64.b64decode(answer["content"])) == 16 * 1024 * 1024
    assert answer["eof"] is False
    assert refusal(fresh.write("big", b"x" * (16 * 1024 * 1024 + 1))) == "too_large"


@isolated
def test_a_directory_that_turns_into_a_link_meanwhile(fresh: Box) -> None:
    """The race of the list: whatever the timing, nothing outside is ever read."""
    fresh.run(
        "mkdir real; echo inside > real/passwd; (while :; do ln -sfn /etc swap; "
        "ln -sfn real swap; done) >/dev/null 2>&1 &"
    )
    for _ in range(100):
        status, answer = fresh.post("files/read", path="swap/passwd")
        if status == 200:
            assert base64.b64decode(answer["content"]) == b"inside\n"
        else:
            assert answer["error"] in (OUTSIDE, "not_found")


@isolated
def test_fetch_is_decided_by_the_proxy(box: Box) -> None:
    for url in ("https://api.example.com/x", "http://api.example.com/x"):
        status, answer = box.post("fetch", url=url, method="POST", body="eA==")
        assert status == 200, answer
        assert answer["status"] == 403
        assert b"egress_denied" in base64.b64decode(answer["body"])
        assert ["Content-Type", "application/json"] in answer["headers"]


@isolated
def test_a_fetch_is_cut_at_its_limit(box: Box) -> None:
    _, answer = box.post("fetch", url="http://api.example.com/x", max_bytes=10)
    assert len(base64.b64decode(answer["body"])) == 10
    assert answer["truncated"] is True


@isolated
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"url": "ftp://x/"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://x:99999/"}, "url"),
        ({"url": "http://user:pw@x/"}, "url"),
        ({"url": "http://x/\r\nHost: y"}, "url"),
        ({"url": "http://x/ü"}, "url"),
        ({"url": "http://x/", "method": "get"}, "method"),
        ({"url": "http://x/", "method": "CONNECT"}, "method"),
        ({"url": "http://x/", "headers": [["A", "b\r\nC: d"]]}, "headers"),
        ({"url": "http://x/", "headers": [["A b", "c"]]}, "headers"),
        ({"url": "http://x/", "headers": ["A"]}, "headers"),
        ({"url": "http://x/", "timeout_ms": 0}, "timeout_ms"),
    ],
)
def test_wrong_fetches_are_named(box: Box, values: dict[str, Any], field: str) -> None:
    status, answer = box.post("fetch", **values)
    assert (status, answer["field"]) == (400, field)


@given(st.text(min_size=1).filter(lambda t: "\0" not in t))
def test_split_gives_a_relative_path_below_a_root(path: str) -> None:
    roots = ("/workspace/", "/tmp/")  # noqa: S108 the sandbox's own
    if path.startswith("/") and not f"{path}/".startswith(roots):
        with pytest.raises(files.FileError) as caught:
            files.split(path)
        assert caught.value.code == OUTSIDE
        return
    root, relative = files.split(path)
    assert root in ("/workspace", "/tmp")  # noqa: S108 the sandbox's own
    assert relative
    assert not relative.startswith("/")


@pytest.mark.parametrize("walk", [files.walk_beneath, files.open_beneath])
def test_both_ways_to_resolve_stay_below(tmp_path: Path, walk: Callable[..., int]) -> None:
    """The fallback refuses what openat2 refuses (and, harmlessly, every link)."""
    (tmp_path / "root/dir").mkdir(parents=True)
    (tmp_path / "root/dir/file").write_text("x")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "root/out").symlink_to("../secret")
    (tmp_path / "root/abs").symlink_to("/etc")
    (tmp_path / "root/self").symlink_to("self")
    directory = os.open(tmp_path / "root", os.O_PATH)
    try:
        opened = walk(directory, "dir//./file", os.O_RDONLY)
        assert os.read(opened, 9) == b"x"
        os.close(opened)
        for path in ("../secret", "out", "abs/passwd", "self", "dir/../../secret"):
            with pytest.raises(OSError) as caught:  # noqa: PT011 the errno is what is asked about
                walk(directory, path, os.O_RDONLY)
            assert caught.value.errno in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR)
    finally:
        os.close(directory)
