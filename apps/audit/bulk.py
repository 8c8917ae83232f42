"""Insert many events with the write lock held for as short as possible.

`bulk_create` builds its statements inside the transaction, where on SQLite every other writer
waits. Here the values are made first, and the transaction holds one prepared statement run many
times: the same columns, ignoring ids that are already there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection, transaction

from apps.audit.models import AuditEvent

if TYPE_CHECKING:
    from collections.abc import Sequence


def insert_new(rows: Sequence[AuditEvent]) -> None:
    """Insert `rows` in one transaction; those whose id exists are left as they are."""
    if not rows:
        return
    fields = AuditEvent._meta.concrete_fields  # noqa: SLF001  Django's documented name
    values = [
        [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
        for row in rows
    ]
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields)
    places = ", ".join(["%s"] * len(fields))
    statement = (
        f"INSERT INTO {quote(AuditEvent._meta.db_table)} ({columns})"  # noqa: S608, SLF001  names of our own model
        f" VALUES ({places}) ON CONFLICT DO NOTHING"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(statement, values)
