"""What is in a folder of the caller's sandbox."""

from __future__ import annotations

import json
from typing import Any

from apps.mcp.tool import PATH, Call, Outcome, Risk, tool
from apps.mcp.workplace import WORKSPACE

DEFAULT_ENTRIES = 1_000
MAX_ENTRIES = 10_000
SECONDS = 35.0


@tool(
    name="file_list",
    title="List a folder",
    description="List a folder of your sandbox by name: each entry's type, size and time.",
    properties={
        "path": {**PATH, "default": WORKSPACE, "description": "The folder, under /workspace."},
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_ENTRIES,
            "default": DEFAULT_ENTRIES,
            "description": "How many entries to return at most.",
        },
    },
    risk=Risk.READ,
)
async def file_list(call: Call) -> Outcome:
    """The entries, and whether there are more."""
    reply = await call.workplace.do(
        "files/list",
        {"path": call.arguments["path"], "limit": int(call.arguments["limit"])},
        seconds=SECONDS,
    )
    entries, truncated = reply["entries"], reply["truncated"]
    lines = [f"{entry['type']:<9} {entry['size']:>10} {_name(entry)}" for entry in entries]
    if truncated:
        lines.append(f"[only the first {len(entries)} entries]")
    data = {"path": call.arguments["path"], "entries": entries, "truncated": truncated}
    text = "\n".join(lines) or "[empty]"
    return Outcome(text=text, data=data, audited={"entries": len(entries)})


def _name(entry: dict[str, Any]) -> str:
    """A file name on one line: a name with a line break would look like two files."""
    name = str(entry["name"])
    return name if name.isprintable() else json.dumps(name)
