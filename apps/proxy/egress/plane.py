"""What all connections of one proxy share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.proxy.egress.audit import Auditor
from apps.proxy.egress.broker import Broker
from apps.proxy.egress.gate import Gate
from apps.proxy.egress.lines import Lines
from apps.proxy.egress.tls.ca import Authority as CertificateAuthority
from apps.proxy.egress.turn import Turn
from apps.proxy.egress.upstream import Dialer, system_resolve

if TYPE_CHECKING:
    from apps.proxy.egress.audit import Sink
    from apps.proxy.egress.config import EgressConfig
    from apps.proxy.egress.lines import Line
    from apps.proxy.egress.upstream import Resolve


@dataclass(frozen=True, slots=True)
class Plane:
    """The proxy's parts, made once before the first connection."""

    config: EgressConfig
    gate: Gate
    authority: CertificateAuthority
    broker: Broker
    dialer: Dialer
    auditor: Auditor
    lines: Lines
    turn: Turn

    @classmethod
    def of(cls, config: EgressConfig, sink: Sink, resolve: Resolve = system_resolve) -> Plane:
        """All parts for one sandbox; makes its certificate authority."""
        turn = Turn()
        return cls(
            config=config,
            gate=Gate(),
            authority=CertificateAuthority(leaves=config.limits.leaves),
            broker=Broker(config),
            dialer=Dialer(config, resolve, turn),
            auditor=Auditor(sink, config.sandbox_id, config.identity, config.notes),
            lines=Lines(config.limits.connections),
            turn=turn,
        )

    def load(self, bundle: object) -> int:
        """Take a bundle into force and end what it no longer allows; errors as `Gate.load`."""
        try:
            return self.gate.load(bundle)
        finally:
            self.broker.forget()
            self.dialer.clear()
            self.lines.cut(self._no_longer_allowed)

    def cut(self) -> None:
        """End every connection."""
        self.lines.cut()
        self.dialer.clear()

    def _no_longer_allowed(self, line: Line) -> bool:
        asked = line.asked
        return asked is not None and self.gate.decide(asked).action not in line.needs
