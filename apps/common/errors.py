"""Every error that a caller is meant to see, as one tree.

    LensError                      code, HTTP status, retryable, data
    ├── Invalid          400       a field is wrong; `data["field"]` names it
    ├── Unauthenticated  401       no credential, or one that does not hold
    ├── Denied           403       a decision said no; `data["decision_id"]` explains it
    ├── NotFound         404       absent or not yours: the two look the same
    ├── Conflict         409       the world changed under the caller
    ├── Changed          412       the row is not the one that the caller saw
    ├── TooLarge         413       a bound was passed
    ├── Mismatch         422       well formed, but not what its key stands for
    ├── ConditionNeeded  428       the caller must say which version it saw
    ├── RateLimited      429       later
    ├── Upstream         502       something that we asked failed
    └── Unavailable      503       we cannot do it now; `data["remedy"]` says what would help
        └── IsolationUnavailable   this host cannot build a sandbox

One renderer an edge: problem+json (REST), JSON-RPC (MCP), 403 JSON (egress), a message (admin).
A denial by policy is a value (`Decision`); it becomes `Denied` only where an edge must raise.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LensError(Exception):
    """Base of the tree. `message` is safe to show: it never carries a secret or a traceback."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data
        self.error_code = code or self.code


class Invalid(LensError):
    """A value is wrong; `field` names it, the message says what would be right."""

    code = "invalid"
    status = 400

    def __init__(self, message: str, *, field: str = "", code: str = "", **data: Any) -> None:
        super().__init__(message, code=code, field=field, **data)
        self.field = field


class Unauthenticated(LensError):
    """No credential, or one that does not hold; codes: token_missing, token_unknown, …"""

    code = "unauthenticated"
    status = 401


class Denied(LensError):
    """A decision said no."""

    code = "denied"
    status = 403


class NotFound(LensError):
    """Absent or not yours: the two must look the same."""

    code = "not_found"
    status = 404


class Conflict(LensError):
    """The world changed under the caller, or the row is taken."""

    code = "conflict"
    status = 409


class Changed(LensError):
    """The row is not the one that the caller saw; nothing was changed."""

    code = "changed"
    status = 412


class TooLarge(LensError):
    """A bound on size was passed."""

    code = "too_large"
    status = 413


class Mismatch(LensError):
    """The request is well formed, but its key was used for another one."""

    code = "mismatch"
    status = 422


class ConditionNeeded(LensError):
    """The caller must say which version it saw, so that nobody's change is lost."""

    code = "condition_needed"
    status = 428


class RateLimited(LensError):
    """Too many; try later."""

    code = "rate_limited"
    status = 429
    retryable = True


class Upstream(LensError):
    """Something that we asked on the caller's behalf failed."""

    code = "upstream_failed"
    status = 502
    retryable = True


class Unavailable(LensError):
    """We cannot do it now."""

    code = "unavailable"
    status = 503
    retryable = True


class IsolationUnavailable(Unavailable):
    """This host cannot build a sandbox; `data["remedy"]` is the exact way to change that."""

    code = "isolation_unavailable"
    retryable = False
