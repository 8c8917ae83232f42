"""`manage.py recover_sign_in`: a new identity provider for an organization that lost its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import LensError
from apps.common.tenancy import system
from apps.orgs.models import Organization
from apps.orgs.services.setup import recovery_link_create
from lensagents.embedded.single import running_url

if TYPE_CHECKING:
    import argparse


class Command(BaseCommand):
    """Print a set-up link for one organization; its pages show that for a week."""

    help = "Print a single-use link to connect one organization's identity provider anew."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The reason is for the organization to read."""
        parser.add_argument("--org", required=True, help="the organization's short name")
        parser.add_argument("--reason", required=True, help="why; the organization reads it")
        parser.add_argument(
            "--disable-providers",
            action="store_true",
            help="first take its providers out of use: for one that cannot be trusted any more",
        )
        parser.add_argument("--data-dir", help="folder for database, keys and spool")

    @system("a new sign-in of one organization")
    def handle(self, *_args: Any, **options: Any) -> None:
        """Make the link; the token is shown here and nowhere else."""
        org = Organization.objects.filter(slug=options["org"], closed_at=None).first()
        if org is None:
            raise CommandError(f"there is no organization “{options['org']}”")
        try:
            token = recovery_link_create(
                org, reason=options["reason"], disable=options["disable_providers"]
            )
        except LensError as error:
            raise CommandError(error.message) from None
        url = running_url(settings.RUN_DIR) or settings.PUBLIC_URL
        self.stdout.write(f"{url}/setup/#{token}")
        self.stderr.write(
            "It works once, for 15 minutes. One of the organization's admins must sign in through"
            " the new provider before it is used."
        )
