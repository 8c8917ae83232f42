"""Refusals that precede every rule: no policy opens these (model providers by an override only)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from apps.common.addresses import vet
from apps.policies.core.globs import match_name
from apps.policies.core.providers import PROVIDER_HOSTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apps.common.addresses import Network
    from apps.common.hosts import Host, HostPattern

# What a sandbox's own proxy answers by itself, for its own project; no rule opens it further.
INSIDE_NAME = "platform.internal"

# Names under which clouds and container runtimes serve instance credentials.
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.google.com",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
        "rancher-metadata",
        "rancher-metadata.rancher.internal",
    }
)
LOOPBACK_NAMES = frozenset(
    {
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost6",
        "localhost4.localdomain4",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        "loopback",
        "broadcasthost",
        "host.docker.internal",
        "gateway.docker.internal",
        "host.containers.internal",
        "kubernetes.docker.internal",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which built-in rule refuses, and a sentence that says why."""

    rule: str
    reason: str


def name_refusal(host: Host) -> Refusal | None:
    """Refuse names of metadata services and of this machine, whatever they would resolve to."""
    name = host.name
    if name == INSIDE_NAME or name.endswith(f".{INSIDE_NAME}"):
        reason = f"{name} is the platform, which a sandbox reaches without a rule and only in part."
        return Refusal("platform-internal", reason)
    if name in METADATA_NAMES:
        return Refusal("metadata", f"{name} is a cloud metadata service, which no agent may reach.")
    if name in LOOPBACK_NAMES or name.endswith((".localhost", ".localdomain")):
        return Refusal("loopback", f"{name} names this machine itself, which no agent may reach.")
    return None


def platform_refusal(host: Host, platform: Iterable[HostPattern], port: int) -> Refusal | None:
    """Refuse the platform's own and its stores' addresses, on every port unless one is named."""
    if any(pattern.matches(host, port, every_port=True) for pattern in platform):
        return Refusal(
            "platform-host",
            f"{host.name} belongs to the platform itself, which agents do not reach by egress.",
        )
    return None


def address_refusal(
    subject: str, address: str, allow: Iterable[str], platform: Iterable[Network] = ()
) -> Refusal | None:
    """Refuse an address that `vet` refuses; `allow` are ranges that a connection lists.

    `platform` are the platform's own addresses, which no other name opens either.
    """
    verdict = vet(address, allow, platform)
    if verdict.ok:
        return None
    remedy = (
        "no connection of this project lists it" if verdict.private else "no policy can open it"
    )
    return Refusal("address", f"{subject} is {verdict.reason}, and {remedy}.")


def provider_refusal(host: Host, overrides: Iterable[HostPattern]) -> Refusal | None:
    """Refuse hosts of model providers, unless an override names the host."""
    if not is_provider(host.name) or any(entry.matches_host(host) for entry in overrides):
        return None
    return Refusal(
        "model-provider",
        f"{host.name} is a model provider: model calls go through the LLM proxy, where they are "
        "metered. An administrator can add an override for this host.",
    )


@lru_cache(maxsize=4096)
def is_provider(name: str) -> bool:
    """Whether the (normalised) host name is one of a model provider."""
    labels = tuple(name.split("."))
    return any(_match_labels(entry, labels) for entry in _ENTRIES)


def _match_labels(entry: tuple[tuple[str, ...], ...], labels: tuple[str, ...]) -> bool:
    """`entry` holds one name glob a label; an empty first one stands for one or more labels."""
    if not entry[0]:
        entry = entry[1:]
        if len(labels) <= len(entry):
            return False
        labels = labels[-len(entry) :]
    return len(entry) == len(labels) and all(map(match_name, entry, labels))


_ENTRIES = tuple(
    tuple(() if label == "**" else tuple(label.split("*")) for label in text.split("."))
    for text in PROVIDER_HOSTS
)
