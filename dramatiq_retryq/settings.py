"""What holds for a message: its own options, then its actor's, then the middleware's, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dramatiq import Broker, MessageProxy

from .errors import ConfigError
from .options import ACTOR_OPTIONS, check_options, max_age_of, nearer_policy, throws_of
from .policy import Policy, Settings

__all__ = ["Defaults", "SettingsFinder"]


class Defaults(Protocol):
    """What holds where neither message nor actor says anything; it may be changed while messages are handled."""

    policy: Policy
    max_retries: int | None
    retry_when: Callable[[int, BaseException], bool] | None


class SettingsFinder:
    """Finds the settings of messages, and knows those of actors by heart."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._known: dict[str, tuple[tuple[Any, ...], Settings]] = {}

    def of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]:
        """The settings of a message that is there already, and what of them had to be left out."""
        actor = broker.actors.get(message.actor_name)
        options = actor.options if actor is not None else {}
        if ACTOR_OPTIONS.isdisjoint(message.options):
            return self._of_actor(broker, message.actor_name, options), None
        try:
            check_options(message.options, "message")
            return self.find(broker, options, message.options), None
        except ConfigError as raised:
            return self.find(broker, options, {}), f"{raised}; the message's options were not heard"

    def find(
        self,
        broker: Broker,
        actor_options: Mapping[str, Any],
        message_options: Mapping[str, Any],
        what: str = "options",
    ) -> Settings:
        """What these options lead to.

        Args:
            broker: its age limit holds where no option says otherwise.
            actor_options: those of the actor.
            message_options: those of the message.
            what: how an error calls them.

        Raises:
            ConfigError: an option makes no sense.
        """
        defaults = self._defaults
        policy = defaults.policy
        for options in (actor_options, message_options):
            policy = nearer_policy(policy, options, what)
        max_retries = message_options.get("max_retries", actor_options.get("max_retries", defaults.max_retries))
        return Settings(
            policy=policy,
            max_retries=max_retries,
            retry_when=actor_options.get("retry_when", defaults.retry_when),
            throws=throws_of(message_options, actor_options),
            max_age=max_age_of(broker, actor_options, message_options),
        )

    def _of_actor(self, broker: Broker, actor_name: str, options: Mapping[str, Any]) -> Settings:
        """What holds for an actor's messages that say nothing of their own.

        Worked out once, and again when anything that it was made of has changed: that was a fifth of what a retry
        costs.
        """
        defaults = self._defaults
        made_of = (broker.middleware, options, defaults.policy, defaults.max_retries, defaults.retry_when)
        known = self._known.get(actor_name)
        if known is not None and known[0] == made_of:
            return known[1]
        settings = self.find(broker, options, {})
        self._known[actor_name] = ([*broker.middleware], {**options}, *made_of[2:]), settings
        return settings
