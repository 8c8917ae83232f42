"""`/agents` and `/tokens`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers
from rest_framework.decorators import action

from apps.agents import services
from apps.agents.models import Agent, AgentKind, AgentToken
from apps.agents.selectors import agents_visible, tokens_visible
from apps.common.api_fields import Choice, Key, Moment, QueryFlag, Slug, Strict, Text
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.selectors import teams_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request
    from rest_framework.response import Response


class AgentOut(serializers.ModelSerializer[Agent]):
    """An agent."""

    class Meta:
        model = Agent
        fields = (
            "id",
            "slug",
            "name",
            "description",
            "team",
            "kind",
            "disabled_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields


class NewAgent(Strict):
    """An agent to be."""

    slug = Slug()
    name = Text(max_length=200)
    team = Key()
    description = Text(max_length=10_000, required=False, allow_blank=True)


class AgentChange(Strict):
    """What of an agent can change."""

    name = Text(max_length=200, required=False)
    team = Key(required=False)
    description = Text(max_length=10_000, required=False, allow_blank=True)


class AgentFilters(Strict):
    """Which agents."""

    team = Key(required=False)
    kind = Choice(choices=AgentKind.choices, required=False)
    disabled = QueryFlag(required=False)


class AgentsApi(Listed, Shown, Created, Changed, Deleted):
    """Agents act with their tokens, under the policy of their team.

    Disabling one stops its tokens at once and cuts what it has open.
    """

    resource = "agents"
    noun, one, many = "agent", "an agent", "agents"
    say = {"disable": "Disable {one}", "enable": "Enable {one}"}
    queryset = Agent.objects.none()
    serializer_class = AgentOut
    inputs = {"create": NewAgent, "partial_update": AgentChange}
    filters = AgentFilters

    def visible(self) -> QuerySet[Agent]:
        return agents_visible(self.actor)

    def filtered(self, found: QuerySet[Agent], query: dict[str, Any]) -> QuerySet[Agent]:
        """`disabled` asks whether there is a time."""
        if "disabled" in query:
            query["disabled_at__isnull"] = not query.pop("disabled")
        return found.filter(**query)

    def perform_create(self, values: dict[str, Any]) -> Agent:
        team = self.named(teams_visible(self.actor), values.pop("team"), "team")
        return services.agent_create(self.org, team=team, **values, actor=self.actor)

    def perform_update(self, row: Agent, values: dict[str, Any]) -> Agent:
        team = self.named(teams_visible(self.actor), values.pop("team", None), "team")
        return services.agent_update(row, team=team, **values, actor=self.actor)

    def perform_destroy(self, instance: Agent) -> None:
        services.agent_delete(instance, actor=self.actor)

    @action(detail=True, methods=["post"])
    def disable(self, _request: Request, **_: Any) -> Response:
        """The kill switch: its tokens stop at once, and what it has open is cut."""
        return self.one_of(services.agent_disable(self.get_object(), actor=self.actor))

    @action(detail=True, methods=["post"])
    def enable(self, _request: Request, **_: Any) -> Response:
        """Undo a disabling. What was cut stays cut; its tokens hold again."""
        return self.one_of(services.agent_enable(self.get_object(), actor=self.actor))


class TokenOut(serializers.ModelSerializer[AgentToken]):
    """A token, without its value."""

    class Meta:
        model = AgentToken
        fields = (
            "id",
            "agent",
            "name",
            "hint",
            "expires_at",
            "last_used_at",
            "revoked_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields


class MintedOut(TokenOut):
    """A token with its value, which is shown this once."""

    value = serializers.CharField(read_only=True, help_text="Shown this once, and kept nowhere.")

    class Meta:
        model = AgentToken
        fields = (*TokenOut.Meta.fields, "value")
        read_only_fields = fields


class NewToken(Strict):
    """A token to be."""

    agent = Key()
    name = Text(max_length=200)
    expires_at = Moment(
        required=False, allow_null=True, help_text="Without it the token holds until it is revoked."
    )


class TokenFilters(Strict):
    """Which tokens."""

    agent = Key(required=False)
    revoked = QueryFlag(required=False)


class TokensApi(Listed, Shown, Created, Deleted):
    """Tokens of agents. The value is in the answer to the creation and nowhere else.

    Deleting one revokes it: it stops at once and for ever, and stays in the list. A creation that
    is repeated under its idempotency key is refused, since the value cannot be shown again.
    """

    resource = "tokens"
    noun, one, many = "token", "a token", "tokens"
    say = {"destroy": "Revoke {one}"}
    queryset = AgentToken.objects.none()
    serializer_class = TokenOut
    inputs = {"create": NewToken}
    outputs = {"create": MintedOut}
    filters = TokenFilters
    volatile = frozenset({"last_used_at"})
    secret_once = frozenset({"create"})

    def visible(self) -> QuerySet[AgentToken]:
        return tokens_visible(self.actor)

    def filtered(self, found: QuerySet[AgentToken], query: dict[str, Any]) -> QuerySet[AgentToken]:
        """`revoked` asks whether there is a time."""
        if "revoked" in query:
            query["revoked_at__isnull"] = not query.pop("revoked")
        return found.filter(**query)

    def perform_create(self, values: dict[str, Any]) -> AgentToken:
        agent = self.named(agents_visible(self.actor), values.pop("agent"), "agent")
        minted = services.token_create(agent, **values, actor=self.actor)
        minted.token.value = minted.value  # type: ignore[attr-defined]  # for this answer only
        return minted.token

    def perform_destroy(self, instance: AgentToken) -> None:
        services.token_revoke(instance, actor=self.actor)
