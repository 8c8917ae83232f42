"""People. Nobody has a password: their organizations' identity providers say who they are."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower
from django.utils.crypto import get_random_string, salted_hmac

from apps.common.tenancy import Row


class UserManager(BaseUserManager["User"]):
    """Look-up by e-mail address, which is how the admin names people."""

    def get_by_natural_key(self, username: str | None) -> User:
        """The user with this address, in any letter case."""
        return self.get(email__iexact=username)


def new_session_salt() -> str:
    """What sessions are bound to instead of a password hash; changing it ends them all."""
    return get_random_string(32)


class User(Row, AbstractBaseUser):
    """A person, across organizations. `is_operator` runs the installation and sees no tenant rows.

    Organization data is reached through memberships only: there is no superuser.
    """

    password = None  # type: ignore[assignment]  # no local passwords, not even unusable ones
    email = models.EmailField("e-mail address")
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField("active", default=True)
    is_operator = models.BooleanField("operator", default=False)
    session_salt = models.CharField(max_length=32, default=new_session_salt, editable=False)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()

    class Meta:
        verbose_name = "person"
        verbose_name_plural = "people"
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_unique")]

    def __str__(self) -> str:
        return self.name or self.email

    def get_full_name(self) -> str:
        """How the person is addressed."""
        return str(self)

    def get_session_auth_hash(self) -> str:
        """Sessions end when `session_salt` changes."""
        return salted_hmac("lensagents.session", self.session_salt, algorithm="sha256").hexdigest()

    def get_session_auth_fallback_hash(self) -> Any:
        """No fallback secrets: the salt lives on the row."""
        return iter(())

    @property
    def is_staff(self) -> bool:
        """Whether the admin may be opened at all; what is in it is decided by `can`."""
        return self.is_active

    @property
    def is_superuser(self) -> bool:
        """Never: nothing is granted outside `apps.orgs.access.can`."""
        return False

    def has_perm(self, _perm: str, _obj: object = None) -> bool:
        """Django's own permissions are not used; every ModelAdmin asks `can`."""
        return False

    def has_module_perms(self, _app_label: str) -> bool:
        """See `has_perm`."""
        return False


class SetupLink(Row):
    """A single-use link that opens a set-up session; only the hash of its token is stored.

    With an organization it is a recovery: its sign-in is connected anew, for the given reason.
    """

    org = models.ForeignKey(
        "orgs.Organization", on_delete=models.PROTECT, related_name="+", null=True
    )
    reason = models.CharField(max_length=500, blank=True, default="")
    token_hash = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"set-up link of {self.created_at:%Y-%m-%d %H:%M}"
