"""Where the control plane and sandboxd meet: two Unix sockets in the data folder."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings


def sandboxd_socket() -> Path:
    """sandboxd listens here; we are its client."""
    return Path(settings.DATA_DIR) / "run" / "sandboxd.sock"


def broker_socket() -> Path:
    """We listen here; each sandbox's egress proxy asks for the credentials it injects."""
    return Path(settings.DATA_DIR) / "run" / "broker.sock"
