"""Who may stand behind a session: a person whom an identity provider named, and who is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.orgs.models import User

if TYPE_CHECKING:
    import uuid


class OrganizationBackend:
    """Django's door to users. It signs nobody in: `apps.orgs.oidc` does."""

    def authenticate(self, _request: object, **_credentials: Any) -> User | None:
        """Nobody: there are no credentials of our own."""
        return None

    def get_user(self, user_id: uuid.UUID | str) -> User | None:
        """The active person of a session, read anew in each request."""
        return User.objects.filter(pk=user_id, is_active=True).first()
