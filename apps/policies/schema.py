"""The JSON Schema of a policy document, as files and the API carry it (draft 2020-12).

`docs/policy.schema.json` is this, published: `python -m apps.policies.schema` writes it. What the
schema cannot say (patterns, hidden rules, who may use a credential) is checked when it is saved.
"""

from __future__ import annotations

import json
from typing import Any

from apps.policies.types import AgentCredentials, Injection

FORMAT = 1
MAX_RULES = 500
MAX_TESTS = 200
MAX_HTTP = 2_000  # in all domain rules together: each is compared with those before it
TIERS = ["interactive", "subagent", "background", "api"]

_ID = {"type": "string", "format": "uuid", "description": "Keeps a rule's identity over an edit."}
_SLUG = {"type": "string", "minLength": 1, "maxLength": 63}
_METHOD = {"type": "string", "maxLength": 16, "description": "Capitals, WEBSOCKET, or * for any."}
_PATH = {"type": "string", "maxLength": 500, "description": "A glob; left out = any path."}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], description: str, most: int = MAX_RULES) -> dict[str, Any]:
    return {"type": "array", "maxItems": most, "description": description, "items": items}


def _choice(*values: str, default: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"enum": list(values)}
    return {**found, "default": default} if default else found


_HTTP_RULE = _object(
    ["action"],
    id=_ID,
    method={**_METHOD, "default": "*"},
    path=_PATH,
    action=_choice("allow", "ask", "deny"),
)
_DOMAIN_RULE = _object(
    ["pattern", "action"],
    id=_ID,
    pattern={"type": "string", "maxLength": 255, "description": "Host, *.suffix, *, or CIDR."},
    action=_choice("allow", "direct", "ask", "deny"),
    agent_credentials=_choice(*AgentCredentials, default="default"),
    http=_list(_HTTP_RULE, "With any, a request that none matches is denied."),
)
_TOOL_RULE = _object(
    ["pattern", "action"],
    id=_ID,
    pattern={"type": "string", "maxLength": 64},
    action=_choice("allow", "deny"),
)
_BINDING = _object(
    ["credential", "pattern"],
    id=_ID,
    credential={**_SLUG, "description": "The slug of a credential. Never its value."},
    pattern={"type": "string", "maxLength": 255},
    injection=_choice(*Injection, default="bearer"),
    method={**_METHOD, "default": "*"},
    path=_PATH,
    header={"type": "string", "maxLength": 100},
    template={"type": "string", "maxLength": 200},
    parameter={"type": "string", "maxLength": 64},
    env_name={"type": "string", "maxLength": 64},
)
_TEST = {
    **_object(
        ["expect"],
        id=_ID,
        team={**_SLUG, "description": "In a ceiling only: for whom it is asked."},
        agent={**_SLUG, "description": "For this agent; left out = anybody of the team."},
        tier=_choice(*TIERS),
        tool={"type": "string", "minLength": 1, "maxLength": 64},
        method={**_METHOD, "description": "As in an HTTP rule, or CONNECT."},
        url={"type": "string", "minLength": 1, "maxLength": 2000},
        expect=_choice("allow", "direct", "ask", "approve", "deny"),
        note={"type": "string", "maxLength": 200},
    ),
    "oneOf": [{"required": ["tool"]}, {"required": ["method", "url"]}],
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Lens Agents policy",
    "description": "One layer: the organization's ceiling, a team's policy, or an agent's.",
    **_object(
        ["kind", "name"],
        format={"const": FORMAT, "description": "The format of this document."},
        kind=_choice("ceiling", "team", "agent"),
        team={**_SLUG, "description": "The team's slug, for kind team."},
        agent={**_SLUG, "description": "The agent's slug, for kind agent."},
        name={"type": "string", "minLength": 1, "maxLength": 200},
        description={"type": "string", "maxLength": 10_000},
        domains=_list(_DOMAIN_RULE, "Left out = it does not govern domains. First match wins."),
        tools=_list(_TOOL_RULE, "Left out = it does not govern tools. First match wins."),
        bindings=_list(_BINDING, "In a team policy only."),
        tests=_list(_TEST, "What it must decide; asked at every save.", MAX_TESTS),
    ),
}


def published() -> str:
    """The text of `docs/policy.schema.json`."""
    return json.dumps(SCHEMA, indent=2) + "\n"


if __name__ == "__main__":
    print(published(), end="")  # noqa: T201  a command's output
