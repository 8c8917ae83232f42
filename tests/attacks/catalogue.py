"""Every attack as one case of a family, taken from the tests that state them.

A test function and its parameters are the case: what is sent, what must be answered, that nothing
reached the recording upstream. Nothing is written twice; a new parameter is a new case here.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.apps.proxy.egress import test_attacks as requests
from tests.apps.proxy.egress import test_attacks_connect as connects
from tests.apps.proxy.egress import test_control as changes
from tests.apps.proxy.egress import test_credentials as credentials
from tests.apps.proxy.egress import test_exchange as answers
from tests.apps.proxy.egress import test_limits as limits
from tests.apps.proxy.egress import test_platform as platforms
from tests.apps.proxy.egress import test_turn as turns
from tests.apps.proxy.egress import test_websocket as websockets
from tests.apps.sandboxes.harness import test_attacks as inside
from tests.apps.sandboxes.harness import test_exec as commands
from tests.apps.sandboxes.harness import test_files as files
from tests.apps.sandboxes.harness import test_lifecycle as lives
from tests.apps.sandboxes.harness.conftest import start
from tests.attacks import more, names
from tests.attacks.elsewhere import NOT_GIVEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.apps.proxy.egress.conftest import Rig
    from tests.attacks.rigs import Caged


# Kinds of isolation (`tests.apps.sandboxes.harness.kinds`) that the catalogue is run in.
KINDS = ("namespace", "rootless", "owner-rules", "degraded")


@dataclass(frozen=True)
class ProxyCase:
    """`control`: must be allowed. `reaches`: parts of it may reach the upstream, the rest not."""

    kinds: ClassVar = KINDS

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

    @property
    def kinds(self) -> tuple[str, ...]:
        """Where it means something."""
        return tuple(kind for kind in KINDS if self.name not in NOT_GIVEN.get(kind, ()))

    @property
    def control(self) -> bool:
        """Only a part of it is one."""
        return False

    def run(self, rig: Caged) -> None:
        """The attack is refused, and what is allowed beside it works."""
        here = rig.surroundings
        attack = rig.box.python(here.prelude() + here.attack(self.attack))
        assert attack.code == 0, attack.err.decode()[-600:]
        assert attack.text.startswith("refused")
        control = rig.box.python(here.prelude() + here.control(self.attack))
        assert control.code == 0, control.err.decode()[-600:]


@dataclass(frozen=True)
class LifeCase:
    """What ends a sandbox or its parts, or must not; its tests start what they need themselves."""

    kinds: ClassVar = KINDS[:1]
    family: str
    name: str
    function: Callable[..., None]
    values: dict[str, Any]
    control: bool

    def run(self, rig: Caged) -> None:
        """With a sandbox of its own where the test asks for one."""
        wanted = set(inspect.signature(self.function).parameters)
        given: dict[str, Any] = {"daemon": rig.daemon, "box": rig.box, **self.values}
        with contextlib.ExitStack() as stack:
            if "fresh" in wanted:
                given["fresh"] = own = rig.daemon.create()
                stack.callback(own.delete)
            if "own_daemon" in wanted:
                place = stack.enter_context(tempfile.TemporaryDirectory(prefix="lens-attacks-"))
                Path(place).chmod(0o711)
                given["own_daemon"] = daemon = start(Path(place))
                stack.callback(daemon.stop)
            self.function(**{name: given[name] for name in wanted})


_R, _C, _A = requests, connects, answers
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
    ("upstream", _A.test_an_unasked_101_is_502_and_opens_nothing, False, True),
    ("upstream", _A.test_response_fields_that_would_mislead_are_dropped, False, True),
    ("upstream", _A.test_a_malformed_chunk_of_a_server_ends_the_connection, False, True),
    ("upstream", _A.test_a_truncated_answer_is_not_completed, False, True),
    ("upstream", more.an_upstream_that_verifies, True, True),
    ("names", names.an_answer_that_is_not_public, False, False),
    ("names", names.an_alias_to_what_is_not_public, False, False),
    ("names", names.a_name_that_is_rebound, False, True),
    ("names", names.a_name_that_nobody_knows, False, False),
    ("names", names.a_public_name, True, True),
    ("names", names.a_public_alias, True, True),
    ("relay", more.an_upstream_used_as_a_proxy, False, False),
    ("relay", more.an_upstream_that_verifies, True, True),
    ("redirect", more.a_redirect_followed_to_another_host, False, True),
    ("redirect", more.a_redirect_followed_to_a_denied_path, False, True),
    ("redirect", more.a_redirect_followed_where_it_may, True, True),
    ("limits", limits.test_a_head_over_the_limit_is_431, False, False),
    ("limits", more.a_head_that_never_ends, False, False),
    ("limits", more.a_flood_of_hosts, False, True),
    ("limits", turns.test_agents_that_do_not_read_hold_nobody_up, False, True),
    ("limits", turns.test_an_upstream_that_does_not_answer_holds_nobody_up, False, True),
    ("limits", limits.test_a_head_just_under_the_limit_passes, True, True),
    ("websocket", websockets.test_what_is_no_handshake_opens_nothing, False, False),
    ("websocket", websockets.test_only_a_get_and_nothing_before_the_answer, False, False),
    ("websocket", websockets.test_a_server_that_did_not_understand_gets_no_bytes, False, True),
    ("websocket", websockets.test_a_server_that_answers_plainly, True, True),
    ("websocket", more.a_websocket_that_is_allowed, True, True),
    ("policy change", changes.test_a_policy_change_in_the_middle_of_keep_alive, False, True),
    ("policy change", changes.test_a_stream_that_is_no_longer_allowed_is_cut, False, True),
    ("policy change", changes.test_direct_is_cut_when_the_policy_no_longer_says_so, False, True),
    ("policy change", changes.test_a_stream_that_stays_allowed_goes_on, True, True),
    ("direct", changes.test_direct_with_another_server_name_goes_nowhere, False, False),
    ("direct", changes.test_direct_without_tls_goes_nowhere, False, False),
    ("direct", changes.test_plain_http_to_a_direct_host_is_denied, False, False),
    ("direct", changes.test_direct_is_not_intercepted, True, True),
    ("platform", platforms.test_everything_else_of_the_platform_is_refused, False, False),
    ("platform", platforms.test_no_other_port, False, False),
    ("platform", platforms.test_no_other_name_of_the_platform_opens, False, False),
    ("platform", platforms.test_the_token_never_comes_back, False, True),
    ("platform", platforms.test_no_rule_closes_or_widens_it, False, True),
    ("platform", platforms.test_it_has_no_websockets, False, False),
    ("platform", platforms.test_requests_on_one_connection_are_decided_one_by_one, False, True),
    ("platform", platforms.test_its_own_part_is_reached_with_its_own_token, True, True),
    ("shared hosts", more.a_host_that_strangers_can_have, False, False),
    ("shared hosts", more.a_host_of_one_owner, True, False),
)  # fmt: skip
_ALLOWED_CREDENTIALS = "test_without_a_binding_the_agents_own_credentials_pass"
_SANDBOX = {
    "network": inside.NETWORK,
    "namespaces": inside.NAMESPACES,
    "kernel calls": inside.CALLS,
    "processes": inside.PROCESSES,
    "files": inside.FILES,
}

# family, function, control
_LIVES: tuple[tuple[str, Callable[..., None], bool], ...] = (
    ("end of life", lives.test_a_killed_sandboxd_takes_everything_with_it, False),
    ("end of life", lives.test_a_sandbox_without_its_init_or_proxy_is_over, False),
    ("end of life", lives.test_a_proxy_that_hangs_ends_its_sandbox, False),
    ("end of life", lives.test_deleting_cuts_a_running_command, False),
    ("end of life", lives.test_stopping_ends_everything, False),
    ("end of life", lives.test_a_new_policy_reaches_a_running_sandbox, True),
    ("neighbours", inside.test_another_sandbox_is_out_of_reach, False),
    ("neighbours", inside.test_a_service_on_the_hosts_loopback_is_out_of_reach, False),
    ("neighbours", inside.test_an_abstract_socket_of_the_host_is_out_of_reach, False),
    ("neighbours", lives.test_creations_at_once_have_users_of_their_own, True),
    ("commands", commands.test_a_deadline_ends_the_whole_tree, False),
    ("commands", commands.test_a_fork_bomb_is_stopped_and_the_sandbox_stays_usable, False),
    ("commands", commands.test_too_much_memory_ends_the_process_not_the_sandbox, False),
    ("commands", commands.test_full_disks_are_told_and_can_be_emptied, False),
    ("commands", commands.test_an_agent_that_kills_all_of_its_user_keeps_its_sandbox, False),
    ("commands", commands.test_output_beyond_the_limit_is_counted_and_not_kept, False),
    ("commands", commands.test_a_background_server_lives_on_and_can_be_ended_later, True),
    ("file tools", files.test_overwriting_replaces_a_link_and_never_follows_it, False),
    ("file tools", files.test_paths_that_lead_out, False),
    ("file tools", files.test_what_is_no_regular_file, False),
    ("file tools", files.test_a_directory_that_turns_into_a_link_meanwhile, False),
    ("file tools", files.test_fetch_is_decided_by_the_proxy, False),
    ("file tools", files.test_write_and_read_binary_content, True),
)


def life_cases() -> list[LifeCase]:
    """All cases in which a sandbox, its parts or its tools are abused."""
    return [
        LifeCase(family, f"{function.__name__}[{call.name}]", function, call.values, control)
        for family, function, control in _LIVES
        for call in _calls(function)
    ]


def proxy_cases() -> list[ProxyCase]:
    """All cases of what an agent says to its proxy."""
    return [
        ProxyCase(family, f"{function.__name__}[{call.name}]", call, control, reaches)
        for family, function, control, reaches in (*_PROXY, *_credentials())
        for call in _calls(function)
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


def _calls(function: Callable[..., None]) -> Iterator[_Call]:
    """One call for each combination of a test's parameters."""
    sets = [list(_parameters(mark)) for mark in getattr(function, "pytestmark", ())
            if mark.name == "parametrize"]  # fmt: skip
    for chosen in itertools.product(*sets):
        values: dict[str, Any] = {}
        for _, more_values in chosen:
            values |= more_values
        yield _Call("-".join(name for name, _ in chosen), function, values)


@dataclass(frozen=True)
class _Call:
    name: str
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
