"""Every attack as one case of a family, taken from the tests that state them.

A test function and its parameters are the case: what is sent, what must be answered, that nothing
reached the recording upstream. Nothing is written twice; a new parameter is a new case here.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.apps.proxy.egress import test_attacks as requests
from tests.apps.proxy.egress import test_attacks_connect as connects
from tests.apps.proxy.egress import test_credentials as credentials
from tests.apps.sandboxes.harness import test_attacks as inside
from tests.attacks import more

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.apps.proxy.egress.conftest import Rig
    from tests.apps.sandboxes.harness.conftest import Box


@dataclass(frozen=True)
class ProxyCase:
    """`control`: must be allowed. `reaches`: parts of it may reach the upstream, the rest not."""

    family: str
    name: str
    run: Callable[[Rig], None]
    control: bool = False
    reaches: bool = False


@dataclass(frozen=True)
class SandboxCase:
    """An attack from inside; each comes with a control of its own."""

    family: str
    name: str
    attack: inside.Case

    def run(self, box: Box) -> None:
        """The attack is refused, and what is allowed beside it works."""
        inside.test_attack_is_refused_and_its_control_works(box, self.attack)


_R, _C = requests, connects
# family, function, control, reaches
_PROXY: tuple[tuple[str, Callable[..., None], bool, bool], ...] = (
    ("path", _R.test_ambiguous_path_is_denied, False, False),
    ("path", _R.test_denied_path_in_every_spelling, False, False),
    ("path", more.a_broken_escape_is_named, False, False),
    ("path", _R.test_control_allowed_target_arrives_unchanged, True, True),
    ("method", _R.test_method, False, False),
    ("method", _R.test_fields_that_change_a_meaning_are_dropped, False, True),
    ("method", more.allowed_methods, True, True),
    ("head", _R.test_head_is_refused, False, False),
    ("head", more.odd_but_legal_heads, True, True),
    ("upgrade", _R.test_upgrade_is_refused_and_opens_nothing, False, False),
    ("upgrade", _R.test_a_connection_survives_a_denial, True, True),
    ("smuggling", _R.test_pipelined_requests_are_decided_one_by_one, False, True),
    ("smuggling", _R.test_a_body_is_never_read_as_a_request, False, True),
    ("smuggling", _R.test_malformed_first_chunk_never_leaves, False, False),
    ("smuggling", _R.test_malformed_later_chunk_leaves_the_request_unfinished, False, True),
    ("smuggling", _R.test_request_trailers_are_dropped, False, True),
    ("smuggling", more.chunked_upload, True, True),
    ("stall", _R.test_silent_tunnels_do_not_stall_others, False, True),
    ("stall", more.an_answer_while_others_are_silent, True, True),
    ("connect", _C.test_connect_is_refused_at_once, False, False),
    ("connect", _C.test_connect_head_is_refused, False, False),
    ("connect", _C.test_control_connect_is_answered, True, True),
    ("plain http", _C.test_plain_http_is_refused, False, False),
    ("plain http", more.plain_http_that_is_allowed, True, True),
    ("server name", _C.test_wrong_server_name_ends_the_handshake, False, False),
    ("server name", _C.test_missing_server_name_ends_the_handshake, False, False),
    ("server name", _C.test_http2_is_not_negotiated, True, True),
    ("address", more.an_address_that_is_refused_though_allowed, False, False),
    ("address", more.a_mapped_name, True, True),
    ("upstream", more.an_upstream_with_another_certificate, False, False),
    ("upstream", more.an_answer_that_is_none, False, True),
    ("upstream", more.an_upstream_that_verifies, True, True),
)  # fmt: skip
_ALLOWED_CREDENTIALS = "test_without_a_binding_the_agents_own_credentials_pass"
_SANDBOX = {
    "network": inside.NETWORK,
    "namespaces": inside.NAMESPACES,
    "kernel calls": inside.CALLS,
    "processes": inside.PROCESSES,
    "files": inside.FILES,
}


def proxy_cases() -> list[ProxyCase]:
    """All cases of what an agent says to its proxy."""
    return [
        ProxyCase(family, f"{function.__name__}[{name}]", run, control, reaches)
        for family, function, control, reaches in (*_PROXY, *_credentials())
        for name, run in _spread(function)
    ]


def _credentials() -> Iterator[tuple[str, Callable[..., None], bool, bool]]:
    """Every test about credentials that needs a rig and nothing else."""
    for name, function in vars(credentials).items():
        if name.startswith("test_") and set(inspect.signature(function).parameters) - {"rig"} <= {
            key for mark in getattr(function, "pytestmark", ()) for key in _names(mark)
        }:
            yield "credential", function, name == _ALLOWED_CREDENTIALS, True


def sandbox_cases() -> list[SandboxCase]:
    """All cases of what an agent does inside."""
    return [
        SandboxCase(family, case.name, case) for family, cases in _SANDBOX.items() for case in cases
    ]


def _spread(function: Callable[..., None]) -> Iterator[tuple[str, Callable[[Rig], None]]]:
    """One call for each combination of a test's parameters."""
    sets = [list(_parameters(mark)) for mark in getattr(function, "pytestmark", ())
            if mark.name == "parametrize"]  # fmt: skip
    for chosen in itertools.product(*sets):
        values: dict[str, Any] = {}
        for _, more_values in chosen:
            values |= more_values
        yield "-".join(name for name, _ in chosen), _Call(function, values)


@dataclass(frozen=True)
class _Call:
    function: Callable[..., None]
    values: dict[str, Any]

    def __call__(self, rig: Rig) -> None:
        self.function(rig, **self.values)


def _names(mark: Any) -> list[str]:
    """The names that a mark gives values to."""
    if mark.name != "parametrize":
        return []
    names = mark.args[0]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _parameters(mark: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    names, values = _names(mark), list(mark.args[1])
    ids = mark.kwargs.get("ids")
    ids = list(ids) if ids is not None and not inspect.isfunction(ids) else map(repr, values)
    for name, value in zip(ids, values, strict=True):
        row = (value,) if len(names) == 1 else value
        yield str(name)[:60], dict(zip(names, row, strict=True))
