"""A file of the caller's sandbox, or a part of it."""

from __future__ import annotations

import base64
from typing import Any

from apps.mcp.core.output import as_text
from apps.mcp.tool import PATH, Call, Outcome, Risk, tool

DEFAULT_BYTES = 64 * 1024
MAX_BYTES = 1024 * 1024
SECONDS = 35.0


@tool(
    name="file_read",
    title="Read a file",
    description=(
        "Read a file of your sandbox, whole or in part. Text comes as `content`; what is not UTF-8 "
        "text comes as `content_base64`. `eof` says whether the end was reached; otherwise go on "
        "with `offset`."
    ),
    properties={
        "path": {**PATH, "description": "The file, under /workspace."},
        "offset": {
            "type": "integer",
            "minimum": 0,
            "maximum": 1 << 53,
            "default": 0,
            "description": "The byte to start at.",
        },
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_BYTES,
            "default": DEFAULT_BYTES,
            "description": "How many bytes to return at most.",
        },
    },
    required=("path",),
    risk=Risk.READ,
)
async def file_read(call: Call) -> Outcome:
    """The bytes from `offset`, at most `limit` of them."""
    reply = await call.workplace.do(
        "files/read",
        {
            "path": call.arguments["path"],
            "offset": int(call.arguments["offset"]),
            "limit": int(call.arguments["limit"]),
        },
        seconds=SECONDS,
    )
    content = base64.b64decode(reply["content"])
    sizes = {"size": reply["size"], "offset": reply["offset"], "bytes": len(content)}
    data: dict[str, Any] = {"path": call.arguments["path"], **sizes, "eof": reply["eof"]}
    text = as_text(content, cut=not reply["eof"])
    if text is None:
        data["content_base64"] = reply["content"]
        shown = f"[binary file: {len(content)} bytes as base64 in `content_base64`]"
    else:
        data["content"] = shown = text
    if not reply["eof"]:
        end = reply["offset"] + len(content)
        shown += f"\n[not the end: bytes {reply['offset']} to {end} of {reply['size']}]"
    return Outcome(text=shown, data=data, audited=sizes)
