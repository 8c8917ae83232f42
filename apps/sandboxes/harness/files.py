"""File operations inside the sandbox, as its user and under its Landlock domain.

Runs in a child of pid 1, never in sandboxd. A path is resolved by the kernel below one of the
places that the agent may write (openat2 with RESOLVE_BENEATH): no `..`, link or magic link leads
out, also when the agent swaps a directory for a link while we look.

Answers go to standard output as one frame, followed by raw content for `read`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any

from apps.common.frames import encode_frame
from apps.sandboxes.harness import env, places, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_MAX_ENTRIES = 10_000
_MAX_TEMPORARY = 8

_ERRORS = {
    errno.ENOENT: ("not_found", "there is no such file or directory"),
    errno.ENOTDIR: ("not_directory", "a part of the path is no directory"),
    errno.EISDIR: ("is_directory", "the path is a directory"),
    errno.EXDEV: ("path_outside_workspace", "the path leads out of the workspace"),
    errno.ELOOP: ("path_outside_workspace", "the path goes through a link that leads nowhere good"),
    errno.ENOSPC: ("no_space", "the workspace is full"),
    errno.EDQUOT: ("no_space", "the workspace is full"),
    errno.EFBIG: ("too_large", "the file is too large"),
    errno.EEXIST: ("already_exists", "the file exists already"),
    errno.ENAMETOOLONG: ("invalid_path", "the path is too long"),
    errno.EACCES: ("permission_denied", "the sandbox's user may not"),
    errno.EPERM: ("permission_denied", "the sandbox's user may not"),
    errno.ENXIO: ("not_regular", "the path is no regular file"),
}


class FileError(Exception):
    """A refusal with a code of the API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _answer(head: dict[str, Any], content: bytes = b"") -> None:
    for part in (encode_frame(head), content):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn refusals and errno into the answer."""
    try:
        yield
    except FileError as error:
        _answer({"error": error.code, "message": str(error)})
    except OSError as error:
        code, message = _ERRORS.get(error.errno or 0, ("io_error", error.strerror or "failed"))
        _answer({"error": code, "message": message})


def split(path: str) -> tuple[str, str]:
    """(root, relative path) of a path as the agent gave it; relative means: below /workspace.

    Only the beginning is judged here, lexically; `..` and links are the kernel's to judge.
    Raises FileError `path_outside_workspace` or `invalid_path`.
    """
    if not path or "\0" in path:
        raise FileError("invalid_path", "the path is empty or holds a NUL")
    if not path.startswith("/"):
        return places.here().workspace, path
    for prefix, root in places.here().roots:
        if path == prefix or path.startswith(prefix + "/"):
            return root, path[len(prefix) :].lstrip("/") or "."
    raise FileError("path_outside_workspace", "the path is outside the workspace")


@contextlib.contextmanager
def _opened(path: str, flags: int, mode: int = 0) -> Iterator[int]:
    root, relative = split(path)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_beneath(directory, relative, flags, mode)
    finally:
        os.close(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_beneath(directory: int, relative: str, flags: int, mode: int = 0) -> int:
    """openat2; where an outer filter hides it, step by step without following any link."""
    for _ in range(4):  # EAGAIN: something was renamed meanwhile
        try:
            return syscalls.open_beneath(directory, relative, flags, mode)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return walk_beneath(directory, relative, flags, mode)
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def walk_beneath(directory: int, relative: str, flags: int, mode: int = 0) -> int:
    """The fallback: refuses `..` and every symbolic link. Raises OSError like openat2."""
    parts = [p for p in relative.split("/") if p not in ("", ".")] or ["."]
    if ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    current = os.dup(directory)
    try:
        for part in parts[:-1]:
            step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            following = os.open(part, step, dir_fd=current)
            os.close(current)
            current = following
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=current)
    finally:
        os.close(current)


def _require_regular(descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise FileError("is_directory", "the path is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FileError("not_regular", "the path is no regular file")
    return status


def read(request: dict[str, Any]) -> None:
    """`path`, `offset`, `limit` in bytes → frame {size, offset, length} and the bytes."""
    with _answering(), _opened(request["path"], os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        status = _require_regular(descriptor)
        content = _read_at(descriptor, request["offset"], request["limit"])
        head = {"size": status.st_size, "offset": request["offset"], "length": len(content)}
        _answer(head, content)


def _read_at(descriptor: int, offset: int, limit: int) -> bytes:
    parts = bytearray()
    while len(parts) < limit:
        chunk = os.pread(descriptor, min(_CHUNK, limit - len(parts)), offset + len(parts))
        if not chunk:
            break
        parts += chunk
    return bytes(parts)


def write(request: dict[str, Any]) -> None:
    """Standard input into `path`; `mode` overwrite (atomic), append or create (must not exist).

    `parents` makes missing directories. Answers {size}, the file's size afterwards.
    """
    with _answering():
        content = _standard_input()
        parent, name = _parent(request["path"])
        with _directory(parent, make=request["parents"]) as directory:
            if request["mode"] == "append":
                size = _append(directory, name, content)
            else:
                size = _replace(directory, name, content, exclusive=request["mode"] == "create")
        _answer({"size": size})


def _standard_input() -> bytes:
    with open(0, "rb", closefd=False) as file:
        return file.read()


def _parent(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    if name in ("", ".", ".."):
        split(path)
        raise FileError("is_directory", "the path is a directory")
    if path.startswith("/") and not parent:
        raise FileError("path_outside_workspace", "the path is outside the workspace")
    return parent or env.WORKSPACE, name


@contextlib.contextmanager
def _directory(path: str, *, make: bool) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        manager = _opened(path, flags)
        descriptor = manager.__enter__()
    except FileNotFoundError:
        if not make:
            raise
        _make_directories(path)
        manager = _opened(path, flags)
        descriptor = manager.__enter__()
    try:
        yield descriptor
    finally:
        manager.__exit__(None, None, None)


def _make_directories(path: str) -> None:
    """mkdir -p, each step resolved by the kernel below the root."""
    root, relative = split(path)
    made = root
    for part in relative.split("/"):
        with (
            _opened(made, os.O_PATH | os.O_DIRECTORY) as directory,
            contextlib.suppress(FileExistsError),
        ):
            if part == "..":
                raise FileError("path_outside_workspace", "the path leads out of the workspace")
            os.mkdir(part or ".", 0o755, dir_fd=directory)
        made = f"{made}/{part}"


def _append(directory: int, name: str, content: bytes) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    descriptor = open_beneath(directory, name, flags, 0o644)
    try:
        _require_regular(descriptor)
        _write_all(descriptor, content)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _replace(directory: int, name: str, content: bytes, *, exclusive: bool) -> int:
    """Write beside, then rename (or link, which fails on an existing name): never a half file.

    A symbolic link under that name is replaced, not followed; the mode of a file is kept.
    """
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise FileError("is_directory", "the path is a directory")
        if exclusive:
            raise FileError("already_exists", "the file exists already")
        if stat.S_ISREG(status.st_mode):
            mode = stat.S_IMODE(status.st_mode) & 0o777
    temporary, descriptor = _temporary(directory)
    try:
        _write_all(descriptor, content)
        os.fchmod(descriptor, mode)
        if exclusive:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            temporary = ""
        return len(content)
    finally:
        os.close(descriptor)
        if temporary:
            os.unlink(temporary, dir_fd=directory)


def _temporary(directory: int) -> tuple[str, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_MAX_TEMPORARY):
        name = f".write-{secrets.token_hex(8)}"
        with contextlib.suppress(FileExistsError):
            return name, os.open(name, flags, 0o600, dir_fd=directory)
    raise FileError("io_error", "no free name for a temporary file")


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def listing(request: dict[str, Any]) -> None:
    """`path` → {entries: [{name, type, size, mode, modified}], truncated}; sorted by name.

    A name that is no UTF-8 is shown with escapes and carries its bytes as `name_b64`.
    """
    with _answering(), _opened(request["path"], os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        limit = min(request["limit"], _MAX_ENTRIES)
        names = sorted(os.listdir(descriptor))  # noqa: PTH208 a descriptor has no Path
        entries = [entry for n in names[:limit] if (entry := _entry(descriptor, n)) is not None]
        _answer({"entries": entries, "truncated": len(names) > limit})


def _entry(directory: int, name: str) -> dict[str, Any] | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    raw = os.fsencode(name)
    shown = raw.decode("utf-8", "backslashreplace")
    entry: dict[str, Any] = {
        "name": shown,
        "type": _TYPES.get(stat.S_IFMT(status.st_mode), "other"),
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "modified": status.st_mtime,
    }
    if shown.encode() != raw:
        entry["name_b64"] = base64.b64encode(raw).decode()
    return entry


_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
