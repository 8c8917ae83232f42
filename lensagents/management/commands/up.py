"""`manage.py up`: the whole platform on this machine, in one process."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from lensagents.embedded.platform import Options, Platform
from lensagents.embedded.single import StartError

if TYPE_CHECKING:
    import argparse

    from lensagents.embedded.platform import Service


class Command(BaseCommand):
    """Start everything and serve until Ctrl-C."""

    help = "Start the whole platform on this machine, in one process."
    requires_system_checks = ()  # they take a second, and `manage.py check` runs them

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--host`, `--port` and `--data-dir` are settings as well: manage.py sets them first."""
        parser.add_argument("--host", default=settings.HOST, help="address to listen on")
        parser.add_argument("--port", type=int, default=settings.PORT, help="port to listen on")
        parser.add_argument("--data-dir", help="folder for database, keys and spool")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run; every reason not to start is one line."""
        if not settings.DEV_IDP_ALLOWED:
            raise CommandError("`up` is the embedded default; a server runs its own processes")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        platform = Platform(Options(options["host"], options["port"]), self.say)
        try:
            platform.prepare()
            platform.serve(self.services(), self.ready)
        except StartError as error:
            raise CommandError(str(error)) from None
        finally:
            platform.stop()

    def services(self) -> list[Service]:
        """What runs beside the web server, in the order of starting."""
        return []

    def ready(self) -> None:
        """Say where we are."""
        self.say(f"Lens Agents is running at {settings.PUBLIC_URL}")

    def say(self, text: str) -> None:
        """One line for the person at the terminal, now."""
        self.stdout.write(text)
        self.stdout.flush()
