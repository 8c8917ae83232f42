"""A shell command in the caller's sandbox."""

from __future__ import annotations

from typing import Any

from apps.mcp.core.output import stream
from apps.mcp.tool import Call, Outcome, Risk, tool
from apps.mcp.workplace import WORKSPACE

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 1_200_000
DEFAULT_OUTPUT_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 1024 * 1024
GRACE_SECONDS = 15.0


@tool(
    name="shell_exec",
    title="Run a shell command",
    description=(
        "Run a command with `sh -c` in your sandbox and wait for it. Files under /workspace stay "
        "between calls. The network is reached through a proxy that allows what your policy "
        "allows; credentials are added by the platform, so send none. Output beyond the limit is "
        "discarded and counted. At the timeout everything that the command started is killed."
    ),
    properties={
        "command": {
            "type": "string",
            "minLength": 1,
            "maxLength": 65_536,
            "description": "The command line, given to `sh -c`.",
        },
        "workdir": {
            "type": "string",
            "minLength": 1,
            "maxLength": 4096,
            "default": WORKSPACE,
            "description": "The folder to start in, under /workspace.",
        },
        "timeout": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TIMEOUT_MS,
            "default": DEFAULT_TIMEOUT_MS,
            "description": "Milliseconds after which the command is killed.",
        },
        "max_output_bytes": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_OUTPUT_BYTES,
            "default": DEFAULT_OUTPUT_BYTES,
            "description": "How much of stdout, and how much of stderr, to return.",
        },
    },
    required=("command",),
    risk=Risk.DESTRUCTIVE,
    open_world=True,
)
async def shell_exec(call: Call) -> Outcome:
    """Exit code, signal and both streams. A command that fails is a result; a timeout an error."""
    timeout = int(call.arguments["timeout"])
    reply = await call.workplace.do(
        "exec",
        {
            "command": call.arguments["command"],
            "workdir": call.arguments["workdir"],
            "timeout_ms": timeout,
            "max_output_bytes": int(call.arguments["max_output_bytes"]),
        },
        seconds=timeout / 1000 + GRACE_SECONDS,
    )
    out, out_text = stream("stdout", reply["stdout"], reply["stdout_bytes"])
    err, err_text = stream("stderr", reply["stderr"], reply["stderr_bytes"])
    ended = {
        "exit_code": reply["exit_code"],
        "signal": reply["signal"],
        "timed_out": reply["timed_out"],
        "duration_ms": round(reply["duration_ms"], 3),
    }
    text = "\n".join(filter(None, (out_text, _marked(err_text), _ending(ended, timeout))))
    sizes = {"stdout_bytes": reply["stdout_bytes"], "stderr_bytes": reply["stderr_bytes"]}
    data: dict[str, Any] = {**ended, **out, **err}
    if not ended["timed_out"]:
        return Outcome(text=text, data=data, audited={**ended, **sizes})
    failure = {
        "error": "command_timeout",
        "message": f"The command was killed after {timeout} ms.",
        "remedy": f"Raise `timeout` (at most {MAX_TIMEOUT_MS}), or do less in one command.",
    }
    return Outcome(
        text=text, data={**failure, **data}, error="command_timeout", audited={**ended, **sizes}
    )


def _marked(err_text: str) -> str:
    return f"[stderr]\n{err_text}" if err_text else ""


def _ending(ended: dict[str, Any], timeout: int) -> str:
    if ended["timed_out"]:
        return f"[killed after {timeout} ms]"
    if ended["signal"] is not None:
        return f"[killed by signal {ended['signal']}]"
    return f"[exit code {ended['exit_code']}]"
