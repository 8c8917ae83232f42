"""Why somebody was not signed in: a code for the audit trail and a sentence to show."""

from __future__ import annotations


class SignInError(Exception):
    """Nobody was signed in. `message` is for the person, `detail` for the audit trail only."""

    def __init__(self, code: str, message: str, *, detail: str = "") -> None:
        super().__init__(f"{code}: {detail or message}")
        self.code = code
        self.message = message
        self.detail = detail or message


def bad_answer(detail: str, *, code: str = "provider_answer_invalid") -> SignInError:
    """The provider said something that we do not believe; the person can only try again."""
    return SignInError(
        code,
        "The identity provider's answer could not be verified, so nobody was signed in. Try again;"
        " if it happens again, tell your administrator.",
        detail=detail,
    )
