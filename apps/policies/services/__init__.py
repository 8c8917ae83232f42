"""Every change of a policy. One call = one transaction = one audit event."""

from apps.policies.services.documents import (
    Saved,
    policy_apply,
    policy_delete,
    policy_rollback,
    policy_save,
)

__all__ = ["Saved", "policy_apply", "policy_delete", "policy_rollback", "policy_save"]
