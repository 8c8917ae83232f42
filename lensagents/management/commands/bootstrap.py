"""`manage.py bootstrap`: a link to set up the platform, for whoever has a shell on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import Conflict
from apps.common.tenancy import system
from apps.orgs.services.setup import setup_link_create
from lensagents.embedded.single import running_url
from lensagents.health import database_state

if TYPE_CHECKING:
    import argparse


class Command(BaseCommand):
    """Print a set-up link; an earlier one stops working."""

    help = "Print a single-use link, valid for 15 minutes, that opens the set-up."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--data-dir` is a setting as well: manage.py sets it first."""
        parser.add_argument("--data-dir", help="folder for database, keys and spool")

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Make the link; the token is shown here and nowhere else."""
        state = database_state()
        if state != "ok":
            raise CommandError(
                f"the database is not ready ({state}): start the platform with `manage.py up`, or"
                " run `manage.py migrate`"
            )
        try:
            with system("the set-up link"):
                token = setup_link_create()
        except Conflict as error:
            raise CommandError(error.message) from None
        url = running_url(settings.RUN_DIR) or settings.PUBLIC_URL
        self.stdout.write(f"{url}/setup/#{token}")
