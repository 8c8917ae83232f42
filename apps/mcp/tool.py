"""What a tool is. Each lives in one module of `tools/`, and registering it is all that it takes.

    @tool(
        name="file_read",
        title="Read a file",
        description="…",
        properties={"path": {"type": "string", …}},
        required=("path",),
        risk=Risk.READ,
    )
    async def file_read(call: Call) -> Outcome: ...

A handler gets arguments that fit its schema and raises `apps.common.errors` for what the caller may
correct; whatever else it raises is our fault and is told without detail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apps.common.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.mcp.workplace import Workplace
    from apps.orgs.types import Grant, Principal


PATH: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 4096}


class Risk(StrEnum):
    """How much harm a call can do; autonomy levels and approvals go by it."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool: who, in which project, with what, and the sandbox it may work in."""

    principal: Principal
    grant: Grant
    arguments: Mapping[str, Any]
    workplace: Workplace


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave: `data` for programs, `text` for models.

    `error` is the code of a failure that still has something to show (a command that timed out).
    `audited` goes into the call's audit event; `denied` is the decision that refused it further on.
    """

    text: str
    data: dict[str, Any]
    error: str = ""
    denied: str = ""
    audited: dict[str, Any] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Tool:
    """A registered tool. `in_project` False: it does nothing in a project and takes none.

    `inside`: it is offered to what runs in a sandbox too. Tools that work on a sandbox are not, and
    neither are those that manage the platform.
    """

    name: str
    title: str
    description: str
    schema: dict[str, Any]
    risk: Risk
    handler: Handler
    in_project: bool = True
    open_world: bool = False
    inside: bool = False


tools: Registry[Tool] = Registry("tool", "apps.mcp.tools")


def tool(
    *,
    name: str,
    title: str,
    description: str,
    properties: dict[str, Any],
    required: tuple[str, ...] = (),
    risk: Risk,
    in_project: bool = True,
    open_world: bool = False,
    inside: bool = False,
) -> Callable[[Handler], Handler]:
    """Decorator: register an async function as the tool `name`. The schema admits nothing else."""

    def add(handler: Handler) -> Handler:
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        }
        made = Tool(name, title, description, schema, risk, handler, in_project, open_world, inside)
        tools.register(name)(made)
        return handler

    return add
