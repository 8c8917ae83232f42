"""A name server whose answers an attacker wrote: any address, aliases, another one each time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Answer = tuple[str, ...]


class DnsTwin:
    """Answers on UDP. `names` maps a name to its answers, one a look-up, the last one for ever.

    An answer is a list of addresses (v4 and v6 mixed) or of one alias, written `@other.name`.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 53) -> None:
        self.names: dict[str, list[Answer]] = {}
        self._looks: Counter[tuple[str, dns.rdatatype.RdataType]] = Counter()
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((address, port))

    def asked(self, name: str) -> int:
        """How often a name was looked up: an A query with its AAAA query is one."""
        return self._looks[name, dns.rdatatype.A]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._sock.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            with contextlib.suppress(Exception):  # nonsense is not answered
                self._sock.sendto(self._answer(dns.message.from_wire(data)).to_wire(), peer)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        question = query.question[0]
        self._add(answer, question.name, question.rdtype)
        self._looks[question.name.to_text(omit_final_dot=True), question.rdtype] += 1
        return answer

    def _add(
        self, answer: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        text = name.to_text(omit_final_dot=True)
        answers = self.names.get(text)
        if answers is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            return
        values = answers[min(self._looks[text, kind], len(answers) - 1)]
        if values[0].startswith("@"):
            target = values[0][1:] + "."
            answer.answer.append(dns.rrset.from_text(name, 0, "IN", "CNAME", target))
            self._add(answer, dns.name.from_text(target), kind)
            return
        fitting = [one for one in values if (":" in one) == (kind == dns.rdatatype.AAAA)]
        if fitting and kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            answer.answer.append(dns.rrset.from_text(name, 0, "IN", kind, *fitting))
