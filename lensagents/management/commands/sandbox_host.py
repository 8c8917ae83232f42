"""`manage.py sandbox_host`: the control plane's part of a host with sandboxes, on a server.

sandboxd itself is another process, and the only one that may be root.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.sandboxes.broker import Broker
from apps.sandboxes.paths import broker_socket, inside_socket
from apps.sandboxes.watch import Watcher
from lensagents.embedded.sandbox_host import sandboxd_config
from lensagents.inside import InsideDoor

if TYPE_CHECKING:
    import argparse

    from lensagents.embedded.platform import Service

LOOK_SECONDS = 1.0


class Command(BaseCommand):
    """Answer the egress proxies and keep sandboxes up to date, until SIGTERM or SIGINT.

    Ends with an error when one of them has died: then the supervisor starts all anew.
    """

    help = "Run the broker, the policy watcher and the inside door of a host with sandboxes."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """sandboxd's configuration follows from ours; print it once when installing."""
        parser.add_argument(
            "--print-config",
            action="store_true",
            help="print the configuration of sandboxd for a control plane of this user, and end",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run them until told to end."""
        if options["print_config"]:
            config = sandboxd_config(os.geteuid(), os.getegid())
            self.stdout.write(json.dumps(config, indent=2))
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        settings.SPOOL_DIR.mkdir(mode=0o711, parents=True, exist_ok=True)
        settings.SPOOL_DIR.chmod(0o711)  # whatever the umask: proxies of other users pass it
        run([Broker(broker_socket()), InsideDoor(inside_socket()), Watcher()], stop)


def run(services: list[Service], stop: threading.Event) -> None:
    """Run all until `stop` is set; CommandError when one of them is not alive before that."""
    for service in services:
        service.start()
    dead: list[str] = []
    while not dead and not stop.wait(LOOK_SECONDS):
        dead = [type(service).__name__ for service in services if not service.alive()]
    for service in reversed(services):
        service.stop()
    if dead:
        raise CommandError(f"not running any more: {', '.join(dead)}")
