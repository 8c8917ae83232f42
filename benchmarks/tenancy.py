"""What keeping organizations apart costs, on a private PostgreSQL: with and without, interleaved.

- `rls_overhead_ratio`: one request's share of the control plane in one scope (who acts, `can`, a
  page of agents, their number, one of them), with row-level security on over the same with it off;
- `tenancy_overhead_ratio`: the same with both layers over neither: no guard, no organization in
  the statements' messages, no row-level security;
- `guard_us`: what the guard takes of a statement, without the database;
- `api_list_1000_agents_p50_ms`: `GET /api/v1/agents` until all 1,000 agents of a team are read, by
  the whole Django application with a bearer token, in process; `api_page_p50_ms` is one page.

Each round takes all variants in a new order, so that what disturbs the machine disturbs all alike;
a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.report import figures, p50, p95, table
from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.orgs.models import Organization, Team, User

ORGANIZATIONS = 20
AGENTS = 1_000
AGENTS_ELSEWHERE = 200
WARM = 10


def main() -> None:
    """Make the servers, fill them, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=40, help="in each round and variant")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = stack.enter_context(services.postgresql())
        redis = stack.enter_context(services.redis_server())
        roles = services.create_roles(url, apart=True)
        os.environ |= {  # noqa: TID251  set for the settings that are read next
            "DJANGO_SETTINGS_MODULE": "lensagents.settings.test",
            "LENS_TEST_DATABASE": "postgres",
            "LENS_REDIS_URL": redis,
            **roles,
        }
        import django  # noqa: PLC0415  the settings read the environment

        django.setup()
        run(url, options.rounds, options.requests)


def run(superuser: str, rounds: int, requests: int) -> None:
    """All variants, then the API."""
    org, user, token = fill()
    database = psycopg.connect(superuser, autocommit=True)
    variants: dict[str, Callable[[], Any]] = {
        "both layers": lambda: row_security(database, on=True),
        "no row-level security": lambda: row_security(database, on=False),
        "neither": lambda: neither(database),
    }
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in random.sample(list(variants), len(variants)):
            with variants[name]():
                timed(WARM, lambda: request(org, user))
                taken[name].append(timed(requests, lambda: request(org, user)))
    table(
        f"one request in a scope, {rounds} rounds of {requests}",
        ["variant", "p50 ms", "p95 ms"],
        [[name, f"{p50(ms):.3f}", f"{p95(ms):.3f}"] for name, ms in taken.items()],
    )
    all_ms, page_ms = api(token)
    figures(
        rls_overhead_ratio=ratio(taken["both layers"], taken["no row-level security"]),
        tenancy_overhead_ratio=ratio(taken["both layers"], taken["neither"]),
        request_p50_ms=p50(taken["both layers"]),
        guard_us=guard_us(),
        api_list_1000_agents_p50_ms=p50(all_ms),
        api_page_p50_ms=p50(page_ms),
    )
    database.close()


def ratio(ours: list[float], bare: list[float]) -> float:
    """The median of what each round says."""
    return p50([one / other for one, other in zip(ours, bare, strict=True)])


def timed(times: int, work: Callable[[], object]) -> float:
    """Milliseconds that `work` takes, the median of so many."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return p50(taken)


def fill() -> tuple[Organization, User, str]:
    """Organizations with agents; the first one's admin, and the token of one of its agents."""
    from django.core.management import call_command  # noqa: PLC0415  after django.setup
    from django.db import connection  # noqa: PLC0415

    from apps.agents.services import token_create  # noqa: PLC0415
    from apps.common.tenancy import system  # noqa: PLC0415
    from apps.orgs.services import organization_create, team_create, user_invite  # noqa: PLC0415
    from apps.orgs.types import SYSTEM  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    with system("a benchmark"):
        for number in range(ORGANIZATIONS):
            org = organization_create(slug=f"org-{number}", name=f"Org {number}", actor=SYSTEM)
            team = team_create(org, slug="team", name="Team", actor=SYSTEM)
            agents = make_agents(org, team, AGENTS_ELSEWHERE if number else AGENTS)
            if number == 0:
                first = org
                member = user_invite(org, email="a@x.example", role="admin", actor=SYSTEM)
                minted = token_create(agents[0], name="bench", actor=SYSTEM)
    connection.ensure_connection()  # its guard is put on now, and taken off for a variant
    with services_owner() as owner:
        owner.execute("ANALYZE")
    return first, member.user, minted.value


def make_agents(org: Organization, team: Team, count: int) -> list[Any]:
    """So many agents of a team."""
    from apps.agents.models import Agent  # noqa: PLC0415  after django.setup

    return Agent.objects.bulk_create(
        Agent(org=org, team=team, slug=f"agent-{number}", name=f"Agent {number}", kind="external")
        for number in range(count)
    )


@contextmanager
def services_owner() -> Iterator[psycopg.Connection[Any]]:
    """A connection of the tables' owner."""
    with psycopg.connect(
        os.environ["LENS_DATABASE_OWNER_URL"],  # noqa: TID251  set above
        autocommit=True,
    ) as owner:
        yield owner


def request(org: Organization, user: User) -> None:
    """What a page of the control plane asks: who acts here, may they, the rows."""
    from apps.agents.selectors import agents_visible  # noqa: PLC0415  after django.setup
    from apps.common.tenancy import scope  # noqa: PLC0415
    from apps.orgs.access import can, can_somewhere  # noqa: PLC0415
    from apps.orgs.selectors import actor_for  # noqa: PLC0415

    with scope(org.pk):
        actor = actor_for(user, org)
        assert can_somewhere(actor, "agent.view", org).allowed
        rows = agents_visible(actor).select_related("team").order_by("name")
        assert rows.count() == AGENTS
        page = list(rows[:50])
        assert all(can(actor, "agent.view", row).allowed for row in page)
        assert agents_visible(actor).get(pk=page[0].pk) == page[0]


@contextmanager
def row_security(database: psycopg.Connection[Any], *, on: bool) -> Iterator[None]:
    """Row-level security of every tenant table, on or off."""
    from apps.common.tenant_guard import tenant_models  # noqa: PLC0415  after django.setup

    for model in tenant_models():
        word = "ENABLE" if on else "DISABLE"
        statement = f'ALTER TABLE "{model._meta.db_table}" {word} ROW LEVEL SECURITY'  # noqa: SLF001  documented name
        database.execute(statement.encode())
    yield


@contextmanager
def neither(database: psycopg.Connection[Any]) -> Iterator[None]:
    """No row-level security and no guard."""
    from django.db import connection  # noqa: PLC0415  after django.setup

    with row_security(database, on=False):
        kept, connection.execute_wrappers[:] = list(connection.execute_wrappers), []
        try:
            yield
        finally:
            connection.execute_wrappers[:] = kept


def guard_us() -> float:
    """The guard around a statement that takes no time, in microseconds."""
    from django.db import connection  # noqa: PLC0415  after django.setup

    from apps.common.tenancy import scope  # noqa: PLC0415
    from apps.common.tenant_guard import guard  # noqa: PLC0415

    class Cursor:
        """A psycopg cursor, as far as the guard looks at it."""

        cursor: Any

        def nextset(self) -> bool:
            return True

    cursor = Cursor()
    cursor.cursor = cursor
    context = {"connection": connection, "cursor": cursor}
    statement = 'SELECT "agents_agent"."id" FROM "agents_agent" WHERE "agents_agent"."org_id" = %s'

    def nothing(*_: object) -> None:
        return None

    def ten_thousand(wrapped: bool) -> None:  # noqa: FBT001  one of two
        for _ in range(10_000):
            if wrapped:
                guard(nothing, statement, (), False, context)  # noqa: FBT003  Django's order
            else:
                nothing(statement, (), False, context)  # noqa: FBT003  same

    with scope(None):
        guarded = timed(15, lambda: ten_thousand(wrapped=True))
        bare = timed(15, lambda: ten_thousand(wrapped=False))
    return (guarded - bare) / 10


def read_all(client: Any) -> Iterator[tuple[int, float]]:
    """Every page of the list: how many agents were in it, and how long it took."""
    cursor: str | None = ""
    while cursor is not None:
        started = time.perf_counter()
        query = {"limit": "200", **({"cursor": cursor} if cursor else {})}
        answer = client.get("/api/v1/agents", query).json()
        yield len(answer["items"]), (time.perf_counter() - started) * 1000
        cursor = answer["next"]


def api(token: str) -> tuple[list[float], list[float]]:
    """Milliseconds for the whole list, and for each page."""
    from django.conf import settings  # noqa: PLC0415  after django.setup
    from django.test import Client  # noqa: PLC0415

    settings.API_CALLS_PER_MINUTE = 10**9
    settings.ALLOWED_HOSTS = ["testserver"]
    client = Client(headers={"authorization": f"Bearer {token}"})
    lists: list[float] = []
    pages: list[float] = []
    for _ in range(WARM + 20):
        started = time.perf_counter()
        taken = list(read_all(client))
        lists.append((time.perf_counter() - started) * 1000)
        assert sum(read for read, _ in taken) == AGENTS
        pages += [ms for _, ms in taken]
    return lists[WARM:], pages[WARM * len(pages) // len(lists) :]


if __name__ == "__main__":
    main()
