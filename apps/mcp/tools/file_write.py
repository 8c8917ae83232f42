"""Bytes into a file of the caller's sandbox."""

from __future__ import annotations

import base64
import binascii

from apps.common.errors import Invalid
from apps.mcp.tool import PATH, Call, Outcome, Risk, tool

MAX_CHARACTERS = 2_000_000
SECONDS = 35.0


@tool(
    name="file_write",
    title="Write a file",
    description=(
        "Write a file in your sandbox; missing folders are made. `overwrite` replaces the file at "
        "once or not at all, `append` adds to its end, `create` fails where it exists already."
    ),
    properties={
        "path": {**PATH, "description": "The file, under /workspace."},
        "content": {
            "type": "string",
            "maxLength": MAX_CHARACTERS,
            "description": "What to write, as text or as base64.",
        },
        "encoding": {
            "type": "string",
            "enum": ["utf-8", "base64"],
            "default": "utf-8",
            "description": "How `content` is to be read.",
        },
        "mode": {
            "type": "string",
            "enum": ["overwrite", "append", "create"],
            "default": "overwrite",
            "description": "What to do with a file that is there.",
        },
    },
    required=("path", "content"),
    risk=Risk.WRITE,
)
async def file_write(call: Call) -> Outcome:
    """The file's size afterwards and how much was written."""
    content = _bytes(call.arguments["content"], call.arguments["encoding"])
    reply = await call.workplace.do(
        "files/write",
        {
            "path": call.arguments["path"],
            "content": base64.b64encode(content).decode(),
            "mode": call.arguments["mode"],
        },
        seconds=SECONDS,
    )
    sizes = {"size": reply["size"], "written": reply["written"]}
    path = call.arguments["path"]
    text = f"Wrote {reply['written']} bytes to {path}; it has {reply['size']} bytes now."
    return Outcome(text=text, data={"path": path, **sizes}, audited=sizes)


def _bytes(content: str, encoding: str) -> bytes:
    try:
        if encoding == "base64":
            return base64.b64decode(content, validate=True)
        return content.encode()
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Invalid(
            f"`content` is not valid {encoding}.",
            field="content",
            code="invalid_arguments",
            remedy="Send text with `encoding` utf-8, or bytes as base64 with `encoding` base64.",
        ) from error
