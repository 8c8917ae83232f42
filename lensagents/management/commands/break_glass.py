"""`manage.py break_glass`: an operator's read-only look into one organization, in an emergency."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import LensError
from apps.common.tenancy import system
from apps.orgs.models import Organization
from apps.orgs.services.break_glass import break_glass_request, break_glass_tell
from apps.orgs.services.setup import OPERATOR
from lensagents.embedded.single import running_url

if TYPE_CHECKING:
    import argparse


class Command(BaseCommand):
    """Print a single-use link; the organization sees who asked, and why."""

    help = "Print a single-use link to read one organization's pages, audited and shown to it."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The reason is for the organization to read."""
        parser.add_argument("--org", required=True, help="the organization's short name")
        parser.add_argument("--reason", required=True, help="why; the organization reads it")
        parser.add_argument("--minutes", type=int, default=30, help="how long, 60 at most")
        parser.add_argument("--data-dir", help="folder for database, keys and spool")

    @system("an operator's request")
    def handle(self, *_args: Any, **options: Any) -> None:
        """Make the request, tell the organization, print the link."""
        org = Organization.objects.filter(slug=options["org"], closed_at=None).first()
        if org is None:
            raise CommandError(f"there is no organization “{options['org']}”")
        try:
            requested = break_glass_request(
                org,
                reason=options["reason"],
                minutes=options["minutes"],
                requested_by=who(),
                actor=OPERATOR,
            )
        except LensError as error:
            raise CommandError(error.message) from None
        told = break_glass_tell(requested.access)
        self.stdout.write(
            f"{running_url(settings.RUN_DIR) or settings.PUBLIC_URL}/operator/#{requested.token}"
        )
        if requested.access.needs_consent:
            self.stderr.write(
                "An admin of the organization must approve it first, within 24 hours."
            )
        mailed = "were told by e-mail" if told else "were not mailed; its pages show it"
        self.stderr.write(f"The admins of {org.name} {mailed}.")


def who() -> str:
    """Who asks, as the server knows it: a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
