"""What audit needs to know of those who act: protocols, so that it imports nobody above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence


class ActorLike(Protocol):
    """Who writes in the control plane (`apps.orgs.types.Actor`)."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str | uuid.UUID: ...
    @property
    def name(self) -> str: ...


class PrincipalLike(ActorLike, Protocol):
    """Who calls a data-plane edge (`apps.orgs.types.Principal`)."""

    @property
    def org_id(self) -> uuid.UUID: ...
    @property
    def org_slug(self) -> str: ...
    @property
    def team_id(self) -> uuid.UUID: ...
    @property
    def team_slug(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def on_behalf_of(self) -> str: ...
    @property
    def chain(self) -> Sequence[str]: ...


class Scope(Protocol):
    """A team or a project, as far as an event copies it."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def slug(self) -> str: ...


class SecretChange:
    """Stands in `changes` for a field whose values must not be told: shown as "changed"."""

    def __repr__(self) -> str:
        return "SECRET"


SECRET: Final = SecretChange()
