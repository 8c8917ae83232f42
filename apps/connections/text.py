"""What a secret may look like, so that it can stand in an HTTP header and nowhere else."""

from __future__ import annotations

import re

MAX_VALUE_BYTES = 16_384
# RFC 9110 section 5.5: a field value has visible ASCII; a control character could end the header.
_HEADER_TEXT = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_USER_NAME = re.compile(r"[!-9;-~](?:[ -9;-~]*[!-9;-~])?")


def value_problem(value: str) -> str:
    """Why this secret cannot be stored, as a sentence; "" when it can. Never quotes the secret."""
    if not value:
        return "The value is empty. Paste the secret."
    if len(value) > MAX_VALUE_BYTES:
        return f"The value has {len(value)} characters; the most is {MAX_VALUE_BYTES}."
    if value != value.strip():
        return "The value starts or ends with a space or a line break. Paste it without."
    if not _HEADER_TEXT.fullmatch(value):
        return (
            "The value has a control character, a line break or a letter outside ASCII. Such a "
            "secret cannot be sent in an HTTP header. Paste it again, as one line."
        )
    return ""


def user_name_problem(name: str) -> str:
    """Why this is no user name for basic authentication (RFC 7617 section 2); "" when it is one."""
    if not name:
        return "Basic authentication needs a user name."
    if not _USER_NAME.fullmatch(name):
        return "A user name has visible ASCII characters without a colon, as in “svc-agents”."
    return ""
