"""What of the platform a sandbox reaches, at the name `platform.internal`.

Rules.
1. `/mcp/p/<the sandbox's own project>`, and `/llm` with what is below it. Everything else is 403:
   other projects, other paths, and every path that could be read in two ways.
2. No policy opens or closes it, and nothing is reached while there is no policy.
3. The name is never resolved. There is one address, a Unix socket that the platform gave to
   sandboxd, and no connection to it is made in any other way.
4. The sandbox's own token is added here, at each request. It is in no environment, file or answer
   of the sandbox; what the agent sends as a credential of its own is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.policies.core.builtin import INSIDE_NAME
from apps.policies.core.paths import Ambiguous, canonical, segments
from apps.proxy.egress import scrub
from apps.proxy.egress.answers import Answer, RefusedError, denied
from apps.proxy.egress.inject import Injected

if TYPE_CHECKING:
    from apps.proxy.egress.config import EgressConfig
    from apps.proxy.egress.plane import Plane

HOST = INSIDE_NAME
RULE = "platform"
AWAY = Answer(502, "platform_unavailable", "the platform did not answer", RULE)
_PORTS = {"https": 443, "http": 80}


def check(plane: Plane, scheme: str, port: int) -> None:
    """Raise RefusedError where the platform is not to be reached at all."""
    if not plane.gate.ready:
        raise RefusedError(denied("There is no policy here yet, so all is denied.", RULE))
    if port != _PORTS[scheme]:
        reason = f"{HOST} is reached on the ports 443 (https) and 80 (http) only"
        raise RefusedError(denied(reason, RULE))
    if plane.config.platform_socket is None:
        raise RefusedError(denied(f"{HOST} is not available on this host", RULE))


def target_for(config: EgressConfig, target: str) -> str:
    """What to ask the platform for; raises RefusedError (403) for all that is not for sandboxes."""
    path = canonical(target)
    if isinstance(path, Ambiguous):
        reason = f"The path {path.reason}: it could be read in two ways, so it is denied."
        raise RefusedError(denied(reason, RULE))
    project = config.identity.get("project_slug")
    own = f"/mcp/p/{project}"
    if project and target.partition("?")[1:] == ("", "") and path == own:
        return own
    if segments(path)[:1] == ("llm",):
        return target
    reason = f"of the platform a sandbox reaches {own} and /llm only"
    raise RefusedError(denied(reason, RULE))


def injected(token: str) -> Injected:
    """The sandbox's own token, and the forms in which it must not come back."""
    return Injected("authorization", f"Authorization: Bearer {token}", scrub.forms(token))
