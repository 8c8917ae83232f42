"""`manage.py up`: the whole platform on this machine, in one process."""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from apps.common.tenancy import system
from apps.orgs.services import setup
from lensagents.embedded.platform import Platform
from lensagents.embedded.services import background_services, development_provider
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
        parser.add_argument(
            "--no-dev-idp",
            action="store_true",
            help="start without the development identity provider",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run; every reason not to start is one line."""
        if not settings.DEV_IDP_ALLOWED:
            raise CommandError("`up` is the embedded default; a server runs its own processes")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        # `kill -USR1`: where every thread is, by file and line, without values. For support.
        faulthandler.register(signal.SIGUSR1)
        platform = Platform(options["host"], options["port"], self.say)
        try:
            services = self.services(options)
            platform.prepare()
            platform.serve(services, self.ready)
        except (StartError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
        finally:
            platform.stop()
        leave()

    def services(self, options: dict[str, Any]) -> list[Service]:
        """What runs beside the web server, in the order of starting."""
        found = background_services()
        if not options["no_dev_idp"]:
            found.append(development_provider(options["host"], settings.DEV_IDP_PORT))
        return found

    def ready(self) -> None:
        """Say where we are and, at the first start, how to begin."""
        self.say(f"Lens Agents is running at {settings.PUBLIC_URL} (Ctrl-C stops it)")
        if not setup.has_sign_in():
            self.say("Nobody can sign in yet. To set it up, open this link within 15 minutes:")
            with system("the set-up link"):
                self.say(setup_url(setup.setup_link_create()))

    def say(self, text: str) -> None:
        """One line for the person at the terminal, now."""
        self.stdout.write(text)
        self.stdout.flush()


def leave() -> None:
    """End now: everything is stopped, and taking a large interpreter apart takes seconds."""
    atexit._run_exitfuncs()  # noqa: SLF001  they seal the audit spool
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def setup_url(token: str) -> str:
    """The link for a person: the token stands behind the #, where no server log sees it."""
    return f"{settings.PUBLIC_URL}/setup/#{token}"
