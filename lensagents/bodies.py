"""How much of a request's body is read at all, whoever sends it.

Django writes a body to a file before any view or middleware is asked, as long as it comes: nobody
had to be signed in to fill the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.common.api_problems import problem

if TYPE_CHECKING:
    from lensagents.routing import Message, Receive, Send

MOST_BYTES = 4 * 1024 * 1024  # the longest form, a policy, is a good half of it


def bounded(application: Any) -> Any:
    """The ASGI application, which reads no more than that; a longer body is answered with 413."""

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        left, begun = MOST_BYTES, False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        if _declared(scope) <= MOST_BYTES:
            await application(scope, counted, sending)
            if left >= 0 or begun:
                return
        await _refuse(send)

    return serve


def _declared(scope: Message) -> int:
    """The length that the request says of itself; what is no number is for the application."""
    found = dict(scope["headers"]).get(b"content-length", b"")
    return int(found) if found.isdigit() and len(found) < 20 else 0


async def _refuse(send: Send) -> None:
    answer = problem(413, "too_large", f"The body is larger than {MOST_BYTES} bytes.")
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.items()]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})
