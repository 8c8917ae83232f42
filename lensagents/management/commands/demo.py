"""`manage.py demo`: one governed agent session, end to end, and the admin to look at it in."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from lensagents.demo.play import IsolationMissingError
from lensagents.demo.session import (
    EXIT_DIFFERS,
    EXIT_ISOLATION,
    DemoError,
    Session,
    free_port,
    session,
)

if TYPE_CHECKING:
    import argparse


class Command(BaseCommand):
    """Play the session; stay up until Ctrl-C, or end with its verdict under `--once`."""

    help = "Play one governed agent session and leave the admin up to look at it."
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--once` for scripts: any free port, and an exit code."""
        parser.add_argument("--once", action="store_true", help="end after the session")
        parser.add_argument("--port", type=int, help="port to listen on (default 8000)")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Exit code 0: as described; 1: a step differed; 3: no isolation on this machine."""
        if not settings.DEV_IDP_ALLOWED:
            raise CommandError("the demo runs on the embedded default only")
        once = options["once"]
        port = options["port"] or (free_port() if once else settings.PORT)
        os.umask(0o077)  # the database and the token are for us alone
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with session(port, self.say) as played:
                self.say(self.closing(played, once=once))
                if not once:
                    signal.pause()
        except KeyboardInterrupt:
            return
        except DemoError as error:
            raise CommandError(str(error)) from None
        except IsolationMissingError as missing:
            self.say(f"\nThis machine cannot isolate a sandbox. {missing}")
            sys.exit(EXIT_ISOLATION)
        sys.exit(0 if played.ok else EXIT_DIFFERS)

    def closing(self, played: Session, *, once: bool) -> str:
        """What to open, where something stays open."""
        if not played.ok:
            return "\nSomething differed from the description: see the lines marked FAIL."
        if once:
            return "\nEverything went as described."
        return (
            f"\nOpen {played.url}/ and sign in as Ana Admin; the session is at"
            f" {played.url}/audit/auditevent/\nCtrl-C ends the demo."
        )

    def say(self, text: str) -> None:
        """One line for the person at the terminal, now."""
        self.stdout.write(text)
        self.stdout.flush()
