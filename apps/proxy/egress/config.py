"""What one sandbox's egress proxy is told at its start; its policy comes later, as a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer may cost us; times in seconds.

    `idle` waits for the first byte of a request, `head` for the rest of its head, `handshake` for a
    TLS handshake, `connect` for an upstream connection, `answer` for the first byte of an
    upstream's answer, `stall` for each further read or write of a body.
    """

    connections: int = 256
    idle: float = 120.0
    head: float = 10.0
    handshake: float = 10.0
    connect: float = 10.0
    answer: float = 300.0
    stall: float = 120.0
    broker: float = 5.0
    leaves: int = 256
    pooled: int = 32
    pooled_idle: float = 30.0


@dataclass(frozen=True, slots=True)
class EgressConfig:
    """Who the sandbox is, where its broker and spool are, and how an answer explains itself.

    `identity` are the audit columns that say who acts, `notes` what each event says of the sandbox.
    The column `project_slug` is the project whose part of the platform it reaches, and only at
    `platform_socket`. `address_map` (`host` or `host:port` to `(ip, port)`) and `upstream_ca_file`
    exist for the demo and the tests: mapped hosts are trusted as they are, every other address is
    vetted. `explain_url` gets the decision id appended, or put in place of `{decision_id}`.
    """

    sandbox_id: str
    sandbox_token: str = field(repr=False)
    broker_socket: Path
    spool_dir: Path
    identity: Mapping[str, object]
    notes: Mapping[str, str] = field(default_factory=dict)
    platform_socket: Path | None = None
    address_map: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    upstream_ca_file: Path | None = None
    explain_url: str = ""
    limits: Limits = field(default_factory=Limits)
