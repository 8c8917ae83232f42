"""What the jobs do: build a sandbox, clear one, keep policies and rows true to what runs."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, ids
from apps.common.errors import IsolationUnavailable, LensError
from apps.orgs.types import SYSTEM
from apps.policies.codec import to_obj
from apps.policies.compiler import compile_bundle
from apps.sandboxes import selectors
from apps.sandboxes.authentication import audit_columns
from apps.sandboxes.driver import Built, Spec, driver_for
from apps.sandboxes.events import SandboxAction
from apps.sandboxes.lifecycle import kill
from apps.sandboxes.models import Sandbox, SandboxState
from apps.sandboxes.services import end, sandbox_lost, sandbox_stop
from apps.sandboxes.sweeping import for_each, run_all, side_by_side
from apps.sandboxes.waiting import hint

if TYPE_CHECKING:
    import uuid

    from apps.policies.types import Bundle

# Both mean that nothing runs any more: sandboxes end with their service.
GONE, AWAY = "sandbox_not_found", "sandboxd_unavailable"
TOKEN_PREFIX = "lnsb"  # noqa: S105  the prefix, not a token
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    """A policy that a sandbox shall have; `mark` is its fingerprint."""

    row: Sandbox
    bundle: Bundle
    mark: str


def provision(sandbox_id: uuid.UUID) -> None:
    """Build the sandbox of a `creating` row; the outcome is on the row. May run again."""
    row = _row(sandbox_id)
    if row is None or row.state != SandboxState.CREATING:
        return
    token = ids.token(TOKEN_PREFIX)
    bundle = bundle_of(row)
    # Before the sandbox exists: its proxy may ask the broker at once.
    Sandbox.objects.filter(pk=row.pk).update(
        token_hash=ids.token_hash(token), bundle_version=bundle.version
    )
    identity: dict[str, Any] = {**audit_columns(row), "chain": [], "tier": "api"}
    spec = Spec(
        id=row.pk,
        token=token,
        bundle=to_obj(bundle),
        identity=identity,
        allow_degraded=row.org.allow_degraded,
    )
    try:
        built = _build(row, spec)
    except LensError as error:
        _failed(row, error)
    else:
        _ready(row, built)
        _catch_up(row, bundle)
    hint(row.pk)


def _build(row: Sandbox, spec: Spec) -> Built:
    """A service that ended in the middle is asked once more: it may have been started anew."""
    try:
        return driver_for(row.driver).create(spec)
    except LensError as error:
        if error.error_code != AWAY:
            raise
        return driver_for(row.driver).create(spec)


def clear(sandbox_id: uuid.UUID, driver: str) -> None:
    """End what runs of a sandbox that is over."""
    if not selectors.live().filter(pk=sandbox_id).exists():
        driver_for(driver).stop(sandbox_id)


def stop_disallowed() -> int:
    """Stop every sandbox whose right to exist has ended (revocation, kill switch); how many.

    What runs is ended here and now: a queue of jobs may be long, and only makes up for a failure.
    """
    over: dict[Sandbox, str] = {}
    for reason, rows in selectors.no_longer_allowed(clock.now()):
        over = dict.fromkeys(rows, reason) | over

    stopped: list[Sandbox] = []

    def stop(row: Sandbox) -> None:
        stopped.append(sandbox_stop(row, reason=over[row], actor=SYSTEM))

    run_all(lambda: for_each(over, stop), lambda: side_by_side(stopped, kill))
    return len(stopped)


def push_bundles(known: dict[uuid.UUID, str]) -> int:
    """Give each running sandbox the policy as it is now, where it differs; how many got one.

    `known` maps a sandbox to the fingerprint of the bundle it has, and is kept up to date. Those
    that were stopped since are ended here and now, as above. A sandbox that is slow delays no
    other, and what fails for one is raised when the others have theirs.
    """
    rows = list(selectors.running().select_related("org", "team", "project"))
    _end_others(known, rows)
    due: list[_Due] = []

    def prepare(row: Sandbox) -> None:
        bundle = _compiled(row)
        mark = fingerprint(bundle)
        if known.get(row.pk) != mark:
            due.append(_Due(row, bundle, mark))

    def settle(pushed: tuple[_Due, Exception | None]) -> None:
        item, error = pushed
        if _settled(item.row, item.bundle, error):
            known[item.row.pk] = item.mark

    def push() -> None:
        errors = side_by_side(due, lambda item: _applied(item.row, item.bundle))
        for_each(zip(due, errors, strict=True), settle)

    run_all(lambda: for_each(rows, prepare), push)
    return sum(known.get(item.row.pk) == item.mark for item in due)


def _end_others(known: dict[uuid.UUID, str], running: list[Sandbox]) -> None:
    """End what ran and is over, and forget it."""
    over = list(Sandbox.objects.filter(pk__in=known.keys() - {row.pk for row in running}))
    side_by_side(over, kill)
    for row in over:
        del known[row.pk]


def bundle_of(row: Sandbox) -> Bundle:
    """The policy that this sandbox's proxy decides by."""
    return compile_bundle(
        org_id=row.org_id, team_id=row.team_id, project_id=row.project_id, agent_id=row.agent_id
    )


def fingerprint(bundle: Bundle) -> str:
    """Equal for bundles that decide alike: everything but the stamp they were compiled at."""
    content = {**to_obj(bundle), "version": 0}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _row(sandbox_id: uuid.UUID) -> Sandbox | None:
    found = Sandbox.objects.filter(pk=sandbox_id)
    return found.select_related("org", "team", "project").first()


@transaction.atomic
def _ready(row: Sandbox, built: Built) -> None:
    """The row becomes ready, unless it was stopped meanwhile: then its clearing job comes after."""
    now = clock.now()
    still = Sandbox.objects.filter(pk=row.pk, state=SandboxState.CREATING).update(
        state=SandboxState.READY,
        isolation=built.isolation,
        report=built.report,
        ready_at=now,
        last_used_at=now,
        updated_at=now,
    )
    if not still:
        driver_for(row.driver).stop(row.pk)
        return
    row.isolation = built.isolation
    passed = [probe["probe"] for probe in built.report if probe.get("ok")]
    missing = [probe["probe"] for probe in built.report if probe.get("given") is False]
    told = {"isolation": built.isolation, "passed": passed, "not_given": missing}
    _record(row, SandboxAction.READY, **told)


def _catch_up(row: Sandbox, given: Bundle) -> None:
    """Push what changed while it was built: the watcher has passed by before it was ready."""
    bundle = bundle_of(row)
    if fingerprint(bundle) != fingerprint(given):
        _settled(row, bundle, _applied(row, bundle))


@transaction.atomic
def _failed(row: Sandbox, error: LensError) -> None:
    isolation = isinstance(error, IsolationUnavailable)
    reason = str(error.data.get("remedy")) if isolation else error.message
    logger.warning("sandbox %s could not be built: %s", row.pk, error.error_code)
    end(row, SandboxState.FAILED, reason=reason, actor=SYSTEM, failure=error.error_code)


def _compiled(row: Sandbox) -> Bundle:
    """The policy of a running sandbox, which ends if nobody can tell what it is."""
    try:
        return bundle_of(row)
    except (DatabaseError, LensError):
        raise  # the same for all: the database is away
    except Exception as error:
        _not_taken(row, f"it cannot be compiled ({type(error).__name__})")
        raise


def _applied(row: Sandbox, bundle: Bundle) -> Exception | None:
    """Have its proxy decide by the policy from now on; what went wrong. Asks no database."""
    try:
        driver_for(row.driver).apply(row.pk, to_obj(bundle))
    except Exception as error:  # noqa: BLE001  `_settled` tells what it means
        return error
    return None


def _settled(row: Sandbox, bundle: Bundle, error: Exception | None) -> bool:
    """Write down that it has the policy, or end what has not."""
    if isinstance(error, LensError):
        if error.error_code in (GONE, AWAY):
            sandbox_lost(row.pk, actor=SYSTEM)
        else:
            _not_taken(row, error.message)
        return False
    if error is not None:
        _not_taken(row, type(error).__name__)
        raise error
    with transaction.atomic():
        Sandbox.objects.filter(pk=row.pk).update(bundle_version=bundle.version)
        _record(row, SandboxAction.POLICY, version=bundle.version)
    return True


def _not_taken(row: Sandbox, why: str) -> None:
    """End what would go on by the old policy, which may allow more."""
    reason = f"It did not take a changed policy: {why}"
    with transaction.atomic():
        end(row, SandboxState.FAILED, reason=reason, actor=SYSTEM, failure="policy_not_taken")
    kill(row)


def _record(row: Sandbox, action: SandboxAction, **metadata: object) -> None:
    record(
        actor=SYSTEM,
        org_id=row.org_id,
        surface=Surface.SANDBOX_OPERATION,
        action=action,
        resource_type="sandbox",
        resource_id=row.pk,
        result=Result.SUCCESS,
        metadata={"principal": row.principal_name, **row.note, **metadata},
        team=row.team,
        project=row.project,
    )
