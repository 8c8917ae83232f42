"""OAuth tables of our own from the first migration: django-oauth-toolkit's models cannot be swapped
once its first migration ran. Each row belongs to an organization; the flows come with the connect
page.
"""

from __future__ import annotations

from django.db import models
from oauth2_provider.models import (
    AbstractAccessToken,
    AbstractApplication,
    AbstractDeviceGrant,
    AbstractGrant,
    AbstractIDToken,
    AbstractRefreshToken,
)


class OrgBound(models.Model):
    """The organization of an OAuth row."""

    org = models.ForeignKey("orgs.Organization", on_delete=models.PROTECT, related_name="+")

    class Meta:
        abstract = True


class OAuthApplication(OrgBound, AbstractApplication):
    """A desktop tool or other OAuth client."""

    class Meta(AbstractApplication.Meta):
        swappable = "OAUTH2_PROVIDER_APPLICATION_MODEL"


class OAuthGrant(OrgBound, AbstractGrant):
    """An authorization code."""

    class Meta(AbstractGrant.Meta):
        swappable = "OAUTH2_PROVIDER_GRANT_MODEL"


class OAuthAccessToken(OrgBound, AbstractAccessToken):
    """An access token; bound to (user, team, resource) when the flows come."""

    class Meta(AbstractAccessToken.Meta):
        swappable = "OAUTH2_PROVIDER_ACCESS_TOKEN_MODEL"


class OAuthRefreshToken(OrgBound, AbstractRefreshToken):
    """A refresh token."""

    class Meta(AbstractRefreshToken.Meta):
        swappable = "OAUTH2_PROVIDER_REFRESH_TOKEN_MODEL"


class OAuthIDToken(OrgBound, AbstractIDToken):
    """An ID token."""

    class Meta(AbstractIDToken.Meta):
        swappable = "OAUTH2_PROVIDER_ID_TOKEN_MODEL"


class OAuthDeviceGrant(OrgBound, AbstractDeviceGrant):
    """A device authorization (RFC 8628)."""

    class Meta(AbstractDeviceGrant.Meta):
        swappable = "OAUTH2_PROVIDER_DEVICE_GRANT_MODEL"
