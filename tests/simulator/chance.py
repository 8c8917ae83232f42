"""Policies and requests at random, from a seed: small worlds in which rules meet requests."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from apps.common.errors import LensError
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.models import Policy
from apps.policies.services import policy_delete, policy_save
from apps.policies.simulator import Question

if TYPE_CHECKING:
    from apps.connections.models import Credential
    from tests.factories import World

    T = TypeVar("T")

HOSTS = ("api.example.com", "a.wild.example.com", "b.wild.example.com", "other.test", "8.8.8.8")
CLOSED = (
    *("localhost", "169.254.169.254", "metadata.google.internal", "api.openai.com"),
    *("10.0.0.1", "127.1", "a..b"),
)
PATTERNS = (
    *("*", "*", "*.example.com", "*.wild.example.com", "api.example.com", "api.example.com"),
    *("a.wild.example.com", "other.test", "8.8.8.0/24", "0.0.0.0/0"),
)
GLOBS = ("", "", "/a", "/a/*", "/a/**", "/**", "/*/b", "/A", "/ws/**")
TARGETS = ("/", "/a", "/A", "/a/", "/a/b", "/a/b/c", "/b/b", "/a/../b", "//a", "/a%2fb", "/a%20b")
METHODS = ("GET", "GET", "POST", "DELETE", "TRACE")
PLACES = (("https", ""), ("https", ""), ("https", ":8443"), ("http", ""), ("http", ":8080"))
TOOLS = ("shell_exec", "file_read", "file_write", "file_list", "web_fetch", "whoami")
_SOCKET_TARGETS = ("/ws/a", "/ws/a/b", "/a")


class Chance:
    """One seed, one sequence."""

    def __init__(self, seed: int, world: World, credentials: list[Credential]) -> None:
        self.random = random.Random(seed)  # noqa: S311  no secret depends on it
        self._world = world
        self._credentials = credentials

    def one(self, *choices: T) -> T:
        """Any of them."""
        return self.random.choice(choices)

    def policies(self) -> None:
        """Other documents than before: a team policy always, the other layers sometimes."""
        world = self._world
        self._save("team", team=world.team)
        for kind, chance, subject in (("ceiling", 0.4, {}), ("agent", 0.3, {"agent": world.agent})):
            if self.random.random() < chance:
                self._save(kind, **subject)
            else:
                for policy in Policy.objects.filter(org=world.org, kind=kind):
                    policy_delete(policy, actor=world.admin)

    def questions(self, count: int) -> list[Question]:
        """Requests for the egress proxy."""
        return [self._question() for _ in range(count)]

    def _question(self) -> Question:
        scheme, port = self.one(*PLACES)
        host = self.one(*HOSTS) if self.random.random() < 0.9 else self.one(*CLOSED)
        if host == "8.8.8.8":
            scheme, port = "http", ""  # a client names no address in its TLS handshake
        chance = self.random.random()
        if chance < 0.08:
            return Question(method="CONNECT", url=f"{host}:{self.one(443, 8443, 22)}")
        if chance < 0.16:
            scheme = {"https": "wss", "http": "ws"}[scheme]
            target = self.one(*_SOCKET_TARGETS)
            return Question(method="WEBSOCKET", url=f"{scheme}://{host}{port}{target}")
        target = self.one(*TARGETS) + self.one("", "", "?q=/admin")
        return Question(method=self.one(*METHODS), url=f"{scheme}://{host}{port}{target}")

    def _save(self, kind: str, **subject: object) -> None:
        """A document that can be saved: most are; hidden rules and their like are drawn again."""
        world = self._world
        policy = Policy.objects.filter(org=world.org, kind=kind, **subject).first()
        for _ in itertools.count():
            drawn = self._document(kind, subject)
            try:
                version = policy.version if policy else None
                policy_save(
                    world.org,
                    document=replace(drawn, version=version),
                    policy=policy,
                    actor=world.admin,
                )
            except LensError:
                continue
            return

    def _document(self, kind: str, subject: dict[str, object]) -> PolicyDocument:
        domains = tuple(self._domain() for _ in range(self.random.randint(0, 5)))
        last = self.one((), (DomainRuleDoc("*"),), (DomainRuleDoc("*"),))
        tools = tuple(self._tool() for _ in range(self.random.randint(0, 3)))
        bindings: tuple[BindingDoc, ...] = ()
        if kind == "team":
            bindings = tuple(self._binding() for _ in range(self.random.randint(0, 2)))
        governed = kind == "team" or self.random.random() < 0.8
        return PolicyDocument(
            name=f"The {kind}",
            kind=kind,
            has_domains=governed,
            domains=(*domains, *last) if governed else (),
            tools=(*tools, *self.one((), (ToolRuleDoc("*"),))),
            bindings=bindings,
            **subject,  # type: ignore[arg-type]  # team or agent
        )

    def _domain(self) -> DomainRuleDoc:
        action = self.one(*["allow"] * 6, "ask", "deny", "direct")
        if action == "direct":
            host = self.one("api.example.com", "a.wild.example.com", "other.test")
            return DomainRuleDoc(host + self.one(":443", ":8443"), "direct")
        pattern = self.one(*PATTERNS) + self.one("", "", "", ":8443", ":8080")
        if action == "deny":
            return DomainRuleDoc(pattern, "deny")
        rules = tuple(self._http() for _ in range(self.random.randint(0, 4)))
        keeps = self.one("default", "default", "keep", "strip")
        return DomainRuleDoc(pattern, action, keeps, self.one((), rules))

    def _http(self) -> HttpRuleDoc:
        method = self.one("*", "*", "GET", "POST", "WEBSOCKET")
        return HttpRuleDoc(method, self.one(*GLOBS), self.one("allow", "allow", "ask", "deny"))

    def _tool(self) -> ToolRuleDoc:
        pattern = self.one("file_*", "shell_*", "*_read", "whoami", "web_fetch", "*")
        return ToolRuleDoc(pattern, self.one("allow", "allow", "deny"))

    def _binding(self) -> BindingDoc:
        pattern = self.one("api.example.com", "*.example.com", "other.test", "api.example.com:8443")
        return BindingDoc(
            self.one(*self._credentials),
            pattern,
            method=self.one("*", "*", "GET"),
            path=self.one("", "", "/a/**"),
        )


def documents(world: World) -> list[str]:
    """The saved documents, to show what two sides disagreed about."""
    return [str(document_of(row)) for row in Policy.objects.filter(org=world.org)]
