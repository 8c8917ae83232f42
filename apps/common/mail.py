"""Plain-text mail to a few people. A mail that cannot be sent stops nothing: the caller is told."""

from __future__ import annotations

import logging
import smtplib
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.mail import EmailMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


def send(to: Iterable[str], subject: str, body: str) -> bool:
    """Whether the mail server took it for everybody, each as a mail of its own."""
    people = list(to)
    if not settings.MAIL_ENABLED or not people:
        return False
    line = " ".join(subject.split())
    try:
        for person in people:
            EmailMessage(line, body, to=[person]).send()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        logger.warning("a mail could not be sent: %s", type(error).__name__)
        return False
    return True
