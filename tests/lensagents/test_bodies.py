"""What reaches Django of a body that does not end: a bounded part, whoever sends it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from lensagents.asgi import application
from lensagents.bodies import MOST_BYTES

if TYPE_CHECKING:
    from lensagents.routing import Message

PIECE = b"x" * 256 * 1024
PIECES = 1_000
ADDRESSES = ("/api/v1/teams", "/login/", "/no/such/page")


def send(path: str, **headers: str) -> tuple[int, list[Message]]:
    """Post without an end; how many pieces were taken, and the answer."""
    taken, answered = 0, list[Any]()

    async def receive() -> Message:
        nonlocal taken
        await asyncio.sleep(0)
        taken += 1
        return {"type": "http.request", "body": PIECE, "more_body": taken < PIECES}

    async def sent(message: Message) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
    }
    asyncio.run(application(scope, receive, sent))
    return taken, answered


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_body_without_an_end_is_not_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    real = tempfile.SpooledTemporaryFile.write

    def counting(self: Any, text: bytes) -> int:
        nonlocal written
        written += len(text)
        return real(self, text)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", counting)
    taken, answered = send(path)
    assert taken == MOST_BYTES // len(PIECE) + 1
    assert 0 < written <= MOST_BYTES
    assert answered[0]["status"] == 413
    assert json.loads(answered[1]["body"])["code"] == "too_large"


@pytest.mark.parametrize("length", [str(MOST_BYTES + 1), "9" * 19])
def test_a_body_that_says_it_is_too_long_is_not_read(length: str) -> None:
    taken, answered = send("/login/", **{"content-length": length})
    assert taken == 0
    assert answered[0]["status"] == 413
