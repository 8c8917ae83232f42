"""Who is at the other end of a socket that proxies reach: asked of the kernel."""

from __future__ import annotations

import logging
import os
import socket
import struct

from django.conf import settings

_PEER = struct.Struct("3i")
logger = logging.getLogger(__name__)


def is_ours(peer: socket.socket) -> bool:
    """Whether it runs as us, as root, or as one of the proxies' users. If not, that is logged."""
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    ranges: list[tuple[int, int]] = getattr(settings, "SANDBOX_BROKER_UIDS", [])
    if uid in (0, os.geteuid()) or any(low <= uid <= high for low, high in ranges):
        return True
    logger.warning("uid %d is no proxy of ours and was turned away", uid)
    return False
