"""What a token is shown for. A narrow audience never opens a wider one.

| door | address | whose tokens |
|---|---|---|
| outside | `/mcp` | agents, subagents, users: all projects of their team |
| outside | `/mcp/p/<project>` | the same, in that project alone |
| inside | `platform.internal/mcp/p/<project>` | a sandbox's own, in its own project |

A sandbox's token opens nothing outside, whoever got hold of it: the inside door is a Unix socket
that only the sandboxes' proxies reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from django.conf import settings

from apps.common.errors import NotFound
from apps.orgs.authentication import aauthenticate
from apps.orgs.types import PrincipalKind
from apps.policies.core.builtin import INSIDE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from apps.orgs.types import Principal


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests come in: for whom, and under which host names."""

    kinds: frozenset[PrincipalKind]
    hosts: Callable[[], Collection[str]]


OUTSIDE = Door(
    frozenset({PrincipalKind.AGENT, PrincipalKind.SUBAGENT, PrincipalKind.USER}),
    lambda: settings.ALLOWED_HOSTS,
)
INSIDE = Door(frozenset({PrincipalKind.SANDBOX}), lambda: (INSIDE_NAME,))


@dataclass(frozen=True, slots=True)
class Audience:
    """A token and the project that it is shown for; "" stands for all of its team's."""

    bearer: str = field(repr=False)
    project: str = ""

    def narrowed(self, principal: Principal) -> Principal:
        """The principal with no other project; NotFound where it has no such one."""
        if not self.project:
            return principal
        grants = tuple(grant for grant in principal.grants if grant.slug == self.project)
        if not grants:
            raise NotFound("There is no such project.", code="project_not_found")
        return replace(principal, grants=grants)

    async def principal(self) -> Principal:
        """Whose token it is now, as far as this audience goes. Raises LensError."""
        return self.narrowed(await aauthenticate(self.bearer))
