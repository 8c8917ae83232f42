"""Where the control plane and sandboxes meet: three Unix sockets in the data folder."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings


def sandboxd_socket() -> Path:
    """sandboxd listens here; we are its client."""
    return Path(settings.DATA_DIR) / "run" / "sandboxd.sock"


def broker_socket() -> Path:
    """We listen here; each sandbox's egress proxy asks for the credentials it injects."""
    return Path(settings.DATA_DIR) / "run" / "broker.sock"


def inside_socket() -> Path:
    """We listen here for what sandboxes ask of the platform, as `platform.internal`."""
    return Path(settings.DATA_DIR) / "run" / "inside.sock"
