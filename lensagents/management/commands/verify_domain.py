"""`manage.py verify_domain`: the operator answers for an e-mail domain, in place of DNS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import LensError
from apps.common.tenancy import system
from apps.orgs.models import EmailDomain
from apps.orgs.services.domains import domain_mark, domain_name
from apps.orgs.services.setup import OPERATOR

if TYPE_CHECKING:
    import argparse


class Command(BaseCommand):
    """Mark a domain that an organization has claimed as verified."""

    help = "Mark a claimed e-mail domain as verified, where DNS cannot prove it."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The reason stands in the organization's audit trail."""
        parser.add_argument("--org", required=True, help="the organization's short name")
        parser.add_argument("--domain", required=True, help="as the organization claimed it")
        parser.add_argument("--reason", required=True, help="how you know that it is theirs")
        parser.add_argument("--data-dir", help="folder for database, keys and spool")

    @system("a domain that the operator vouches for")
    def handle(self, *_args: Any, **options: Any) -> None:
        """One change, audited."""
        try:
            name = domain_name(options["domain"])
            row = EmailDomain.objects.filter(org__slug=options["org"], domain=name).first()
            if row is None:
                raise CommandError(f"“{options['org']}” has not claimed {name} in its admin")
            domain_mark(row, reason=options["reason"], actor=OPERATOR)
        except LensError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"{name} is verified.")
