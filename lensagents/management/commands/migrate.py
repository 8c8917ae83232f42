"""`manage.py migrate`: as the owner of the tables, and with the rights of the other roles after it.

Row-level security is applied each time, whatever was migrated: a table without it would be open.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import DEFAULT_DB_ALIAS, connections

from apps.common import row_security
from apps.common.roles import OWNER_ALIAS, Roles
from apps.common.tenancy import system

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class Command(migrate.Command):
    """Django's, on the owner's connection where there is one."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, then apply grants, policies and look-ups."""
        if options["database"] == DEFAULT_DB_ALIAS and _has_owner():
            options["database"] = OWNER_ALIAS
        connection = connections[options["database"]]
        on_postgresql = connection.vendor == "postgresql"
        roles: Roles | None = getattr(settings, "LENS_DATABASE_ROLES", None)
        if on_postgresql and roles is None:
            raise CommandError(
                "migrations run as the owner of the tables: set LENS_DATABASE_OWNER_URL and"
                " LENS_DATABASE_SYSTEM_URL beside LENS_DATABASE_URL (docs/install.md)"
            )
        if on_postgresql:
            _check_owner(connection)
        with nullcontext() if on_postgresql else system("migrations"):
            super().handle(*args, **options)
        if roles is not None and not (options["plan"] or options["check_unapplied"]):
            row_security.apply(connection, roles)


def _check_owner(connection: BaseDatabaseWrapper) -> None:
    """Refuse before anything is changed; only the owner of a table may alter it.

    Asked of one table of ours: others in the database may be somebody else's.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT session_user, tableowner FROM pg_tables"
            " WHERE schemaname = current_schema() AND tablename = 'django_migrations'"
            " AND tableowner <> session_user"
        )
        found = cursor.fetchone()
    if found:
        raise CommandError(
            f"migrations run as the owner of the tables: {found[0]} is not, {found[1]} is; set"
            " LENS_DATABASE_OWNER_URL, or give it the tables first (docs/install.md, The database)"
        )


def _has_owner() -> bool:
    """Whether there is a connection of the owner to the very database."""
    owner = settings.DATABASES.get(OWNER_ALIAS)
    return bool(owner and owner["NAME"] == settings.DATABASES[DEFAULT_DB_ALIAS]["NAME"])
