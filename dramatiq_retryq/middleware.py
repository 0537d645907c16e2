"""The middleware: it sees every failure, decides by the policy, and stores the retry or lets the message die.

The story of a failing message:

1.  The worker runs the actor and it raises. ``after_process_message`` is called.
2.  The message is marked as failed, before anything else is done: Dramatiq swallows whatever a middleware raises and
    then acks, so a hook that breaks with the message unmarked has lost it. Unless step 5 succeeds, it dies.
3.  The options that hold for it are found: the message's own, then its actor's, then the middleware's.
4.  :func:`~dramatiq_retryq.policy.decide` makes a decision out of them, a value without an effect. The attempt is
    written into the message's history.
5.  A retry is stored: on this package's brokers the entry is moved, in one step, from claimed to waiting; on others
    a delayed copy is enqueued. Only now is the mark taken back, and the worker acks.
6.  Or it dies: the mark stays, the worker nacks. ``before_nack`` composes the dead letter and sends it to the
    dead-letter actor; this package's brokers keep it where the message was.

A message that another middleware fails, or whose actor nobody knows, joins at step 6.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple

from dramatiq import Actor, ActorNotFound, Broker, Message, MessageProxy, Retry, Worker, get_logger
from dramatiq.middleware import Interrupt, Middleware, Retries

from ._dramatiq import exception_of, silence_attempt_errors
from .clock import Clock, SystemClock, milliseconds
from .dead_letters import LETTER_OPTION, compose
from .errors import ClaimLost, ConfigError
from .failure import Failure, who
from .history import Redact, last_number
from .logs import log
from .options import (
    ACTOR_OPTIONS,
    actor_name_of,
    check_options,
    max_age_of,
    nearer_policy,
    retries_of,
    throws_of,
)
from .policy import Backoff, BackoffOption, Jitter, Policy, Settings, parse_policy
from .records import CurrentAttempt, DeadLetter, Reason, read_attempts

__all__ = ["RetryQueue", "current_attempt"]

#: How long a retry that cannot be stored is tried again, in milliseconds, before the message dies.
DEFAULT_STORE_TIMEOUT = 5_000

_SYSTEM_CLOCK = SystemClock()

_dice = random.Random()
if hasattr(os, "register_at_fork"):
    # Or the workers that a preloading server forks would all roll the same jitter.
    os.register_at_fork(after_in_child=_dice.seed)


class _Running(NamedTuple):
    """What is known of the message that the current thread or task is working on."""

    middleware: RetryQueue
    broker: Broker
    message: MessageProxy
    started_at: int


_running: ContextVar[_Running | None] = ContextVar("dramatiq_retryq_running", default=None)


def current_attempt() -> CurrentAttempt:
    """Which attempt this is; for use inside an actor, async ones too.

    Outside of a worker, as when a test calls the actor's function directly, it is a first attempt without a limit.
    """
    running = _running.get()
    if running is None:
        return CurrentAttempt(number=1, limit=None, previous=(), first_started_at=_SYSTEM_CLOCK.now())
    return running.middleware._current_attempt(running)


def _is_handled_quietly(message: MessageProxy) -> bool:
    running = _running.get()
    return running is not None and running.message is message and not running.middleware.log_every_attempt


class RetryQueue(Middleware):
    """Retries with jittered exponential backoff, a history of every attempt, and dead letters, on any broker.

    It takes the place of Dramatiq's ``Retries``, also when it is simply added to a broker that has the default
    middleware. All of the parameters but the last five are options of actors too, and the ones that JSON can carry
    of messages; the nearest to the message counts.

    Args:
        max_retries: how often a message is retried; 0 for never, ``None`` for no limit.
        min_backoff: the least delay before a retry, in ms or as a timedelta. 0 is allowed.
        max_backoff: the greatest, likewise.
        jitter: how the delays are spread; see :class:`~dramatiq_retryq.policy.Backoff`.
        backoff: a policy in place of the three above: a ``Backoff``, a list of delays (the last is repeated), a
            function ``(attempt, error) -> ms | None`` (attempt is 1 for the first that failed; ``None`` gives up),
            or a dict of these by exception class, where ``None`` gives up at once.
        retry_when: a predicate ``(retries, error) -> bool`` that decides in place of ``max_retries``.
        dead_letter_actor: the actor, or its name, that is sent each dead letter as one dict.
        redact: takes secrets out of an error's text and traceback before they are stored or logged.
        log_every_attempt: let Dramatiq's worker log each failed attempt as an error with its traceback, as it does
            without this middleware.
        store_timeout: how long to pause in all between tries to store a retry, in ms or as a timedelta, before the
            message dies as ``unschedulable``.
        clock: the broker's if not given, else the machine's.
        rng: the dice.

    Raises:
        ConfigError: a value that makes no sense; from ``@dramatiq.actor`` where an actor's option does.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = 20,
        min_backoff: int | timedelta | None = 100,
        max_backoff: int | timedelta | None = 30_000,
        jitter: Jitter = "additive",
        backoff: BackoffOption | None = None,
        retry_when: Callable[[int, BaseException], bool] | None = None,
        dead_letter_actor: str | Actor[..., Any] | None = None,
        redact: Redact | None = None,
        log_every_attempt: bool = False,
        store_timeout: int | timedelta = DEFAULT_STORE_TIMEOUT,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.logger: logging.Logger = get_logger("dramatiq_retryq", type(self))  # type: ignore[no-untyped-call]
        check_options(
            {
                "max_retries": max_retries,
                "jitter": jitter,
                "retry_when": retry_when,
                "dead_letter_actor": dead_letter_actor,
            },
            "RetryQueue",
        )
        if redact is not None and not callable(redact):
            raise ConfigError(f"RetryQueue: redact is {redact!r}: give a function that takes and returns a text")
        default = Backoff(
            milliseconds(100 if min_backoff is None else min_backoff, "RetryQueue: min_backoff"),
            milliseconds(30_000 if max_backoff is None else max_backoff, "RetryQueue: max_backoff"),
            jitter=jitter,
        )
        if backoff is not None and not isinstance(backoff, Mapping) and default != Backoff():
            raise ConfigError(
                "RetryQueue: backoff and min_backoff, max_backoff or jitter cannot be given together: "
                "say all of it with backoff=Backoff(min_backoff, max_backoff, jitter=…)"
            )
        self.max_retries = max_retries
        self.retry_when = retry_when
        self.policy: Policy = (
            default if backoff is None else parse_policy(backoff, what="RetryQueue: backoff", default=default)
        )
        self.dead_letter_actor = actor_name_of(dead_letter_actor)
        self.redact = redact
        self.log_every_attempt = log_every_attempt
        self.store_timeout = milliseconds(store_timeout, "RetryQueue: store_timeout")
        self.clock = clock
        self._known_settings: dict[str, tuple[tuple[Any, ...], Settings]] = {}
        self.rng = rng if rng is not None else _dice
        silence_attempt_errors(_is_handled_quietly)

    @property
    def actor_options(self) -> set[str]:
        return set(ACTOR_OPTIONS)

    # -- Declaration ---------------------------------------------------------------------------------------------

    def before_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:
        self.take_place(broker)
        if isinstance(actor.options.get("max_age"), timedelta):  # Dramatiq's AgeLimit counts in numbers
            actor.options["max_age"] = milliseconds(actor.options["max_age"], f"actor {actor.actor_name!r}: max_age")
        check_options(actor.options, f"actor {actor.actor_name!r}")
        self._settings(broker, actor.options, {}, f"actor {actor.actor_name!r}")

    # Called with each actor that is there already when the middleware is added; there it may raise.
    after_declare_actor = before_declare_actor

    def before_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.take_place(broker)

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self.take_place(broker)
        self._check_targets(broker)

    def take_place(self, broker: Broker) -> None:
        """Put this middleware where the broker has ``Retries``. Does nothing where there is none.

        Raises:
            ConfigError: the broker has another ``RetryQueue`` already.
        """
        ours = [middleware for middleware in broker.middleware if isinstance(middleware, RetryQueue)]
        if len(ours) > 1:
            raise ConfigError(
                f"{type(broker).__name__} has {len(ours)} RetryQueue middlewares, and each would retry every message: "
                "keep one; options that differ between actors are given to @dramatiq.actor"
            )
        retries = [middleware for middleware in broker.middleware if isinstance(middleware, Retries)]
        if not retries or not ours:
            return
        places = [middleware for middleware in broker.middleware if middleware is not self]
        places[places.index(retries[0])] = self
        # A new list: the old one may be in the middle of being gone through.
        broker.middleware = [middleware for middleware in places if middleware not in retries]
        self.logger.info("RetryQueue takes the place of %s on %s.", type(retries[0]).__name__, type(broker).__name__)

    def _check_targets(self, broker: Broker) -> None:
        wanted = {"RetryQueue": self.dead_letter_actor}
        for actor in broker.actors.values():
            wanted[f"actor {actor.actor_name!r}"] = actor_name_of(actor.options.get("dead_letter_actor"))
        for whose, target in wanted.items():
            if target is not None and target not in broker.actors:
                raise ConfigError(
                    f"{whose}: dead_letter_actor is {target!r}, and no such actor is declared on this broker: "
                    "declare it, or import the module that does, before the worker starts"
                )

    # -- Sending -------------------------------------------------------------------------------------------------

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        options = message.options
        # Nothing to check on the hot path, and a message that is on its way already is not stopped.
        if not options or "retries" in options or "attempts" in options or ACTOR_OPTIONS.isdisjoint(options):
            return
        what = f"message to actor {message.actor_name!r}"
        check_options(options, what)
        for name in ("dead_letter_actor", "on_retry_exhausted"):
            if isinstance(options.get(name), Actor):
                options[name] = options[name].actor_name
        actor = broker.actors.get(message.actor_name)
        self._settings(broker, actor.options if actor is not None else {}, options, what)

    # -- Processing ----------------------------------------------------------------------------------------------

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if "throws" in message.options and not throws_of(message.options, {}):
            # What JSON carried is no class: asked for one, Dramatiq's worker raises before any hook is called.
            del message.options["throws"]
        _running.set(_Running(self, broker, message, self.clock_of(broker).now()))

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        _running.set(None)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if exception is None:
            _running.set(None)
            return
        if message.failed:  # by the actor itself, or by a middleware: it wants no retry
            _running.set(None)
            message.__dict__["retryq_heard"] = True
            return
        message.fail()
        message.__dict__.update(retryq_heard=True, retryq_reason="unschedulable")
        failure = Failure(self, broker, message, exception)
        for _ in range(3):
            try:
                running = _running.get()
                failure.handle(running.started_at if running is not None else None)
                break
            except Interrupt:
                # A shutdown or time limit that was on its way when the actor failed reached this thread only now. Each
                # comes once, and says nothing about the retry: what is not done yet is done again.
                continue
            except Exception as raised:
                self.log("error", "Handling a failure of %s failed: %s.", who(message), type(raised).__name__)
                break
        _running.set(None)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        # Once: after a lost connection Dramatiq emits this again and again until the nack succeeds.
        if "dead_letter" in message.__dict__:
            return
        letter = self.compose(broker, message)
        message.__dict__["dead_letter"] = letter
        if "claim" in message.__dict__:
            # Stored with the letter, in one move: the actor is told of no letter that is not there yet.
            message.__dict__["notice"] = self.notice(broker, letter, message.options)
        else:
            self.deliver(broker, letter, message.options)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        letter = message.__dict__.get("dead_letter")
        if letter is not None:
            exception = exception_of(message)
            actor = broker.actors.get(message.actor_name)
            throws = throws_of(message.options, actor.options if actor is not None else {})
            if throws and issubclass(type(exception), throws):
                self.log("info", "Aborting message %r.", message.message_id)
                self.report(letter, exception, expected=True)
            else:
                self.report(letter, exception)

    # -- Death ---------------------------------------------------------------------------------------------------

    def compose(self, broker: Broker, message: MessageProxy) -> DeadLetter:
        """The dead letter of a message that is about to be rejected."""
        now = self.clock_of(broker).now()
        reason: Reason | None = message.__dict__.get("retryq_reason")
        if reason is None:
            actor = broker.actors.get(message.actor_name)
            max_age = max_age_of(broker, actor.options if actor is not None else {}, message.options)
            if max_age and now - message.message_timestamp >= max_age:
                reason = "expired"
        claim = message.__dict__.get("claim")
        return compose(
            message,
            now=now,
            reason=reason,
            letter_id=str(claim.id) if claim is not None else None,
            data=claim.data if claim is not None else None,
            redact=self.redact,
        )

    def notice(self, broker: Broker, letter: DeadLetter, options: Mapping[str, Any]) -> Message[Any] | None:
        """The message that tells the dead-letter actor of a letter; ``None`` if there is nobody to tell. Never raises.

        Args:
            broker: where the actor is declared.
            letter: what it is told.
            options: those of the dead message.
        """
        if LETTER_OPTION in options:
            return None
        actor = broker.actors.get(letter.actor_name or "")
        target = options.get("dead_letter_actor")
        if target is None and actor is not None:
            target = actor.options.get("dead_letter_actor")
        target = actor_name_of(target) or self.dead_letter_actor
        if target is None or target == letter.actor_name:
            return None
        try:
            message: Message[Any] = broker.get_actor(target).message(letter.asdict())
            return message.copy(options={LETTER_OPTION: letter.id})
        except Exception as raised:
            self.report_untold(letter, target, raised)
            return None

    def deliver(self, broker: Broker, letter: DeadLetter, options: Mapping[str, Any]) -> None:
        """Send the notice of a letter, if there is somebody to tell. Never raises."""
        message = self.notice(broker, letter, options)
        if message is None:
            return
        try:
            self.persist(broker, lambda: broker.enqueue(message))
        except Exception as raised:
            self.report_untold(letter, message.actor_name, raised)

    def report_untold(self, letter: DeadLetter, actor_name: str, error: Exception) -> None:
        """Log that a dead-letter actor could not be told. Never raises."""
        self.log(
            "error",
            "The dead letter of message %s of actor %s could not be sent to the dead-letter actor %r: %s.",
            letter.message_id,
            letter.actor_name,
            actor_name,
            "no such actor is declared" if isinstance(error, ActorNotFound) else type(error).__name__,
        )

    def report(self, letter: DeadLetter, exception: BaseException | None = None, *, expected: bool = False) -> None:
        """Log a death: one ERROR with the traceback. Never raises.

        An actor's ``throws`` are ``expected`` and an INFO, and a ``dramatiq.Retry`` that has no attempt left is a
        WARNING, both without a traceback: neither is ever logged as an error, here as in Dramatiq.
        """
        dead = letter.message  # once: each look decodes it
        message_id = dead.message_id if dead is not None else None
        last = last_number(dead.options) if dead is not None else 0
        fields = {
            "actor": letter.actor_name,
            "message_id": message_id,
            "reason": letter.reason,
            "attempt": last or None,
            "error": str(letter.error) if letter.error is not None else None,
        }
        text = "Message %s of actor %s is dead (%s)"
        args: list[object] = [message_id, letter.actor_name, letter.reason]
        if letter.error is not None:
            text += " after %d attempt(s): %s"
            args += [last, letter.error]
        level = "error"
        if expected:
            level = "info"
        elif issubclass(type(exception), Retry):
            level = "warning"
        if level != "error":
            self.log(level, text + ".", *args, extra=fields)
        elif self.redact is None:
            self.log(level, text + ".", *args, extra=fields, exc_info=exception)
        else:
            # exc_info would print the traceback as it is, secrets and all.
            self.log(level, text + ".\n%s", *args, letter.traceback or "", extra=fields)

    # -- Parts ---------------------------------------------------------------------------------------------------

    def clock_of(self, broker: Broker) -> Clock:
        if self.clock is not None:
            return self.clock
        try:
            return broker.clock  # type: ignore[attr-defined, no-any-return]
        except AttributeError:
            return _SYSTEM_CLOCK

    def _settings(
        self,
        broker: Broker,
        actor_options: Mapping[str, Any],
        message_options: Mapping[str, Any],
        what: str = "options",
    ) -> Settings:
        """What holds for a message, nearest word first.

        Raises:
            ConfigError: an option makes no sense.
        """
        policy = self.policy
        for options in (actor_options, message_options):
            policy = nearer_policy(policy, options, what)
        max_retries = message_options.get("max_retries", actor_options.get("max_retries", self.max_retries))
        return Settings(
            policy=policy,
            max_retries=max_retries,
            retry_when=actor_options.get("retry_when", self.retry_when),
            throws=throws_of(message_options, actor_options),
            max_age=max_age_of(broker, actor_options, message_options),
        )

    def _settings_of_actor(self, broker: Broker, actor_name: str, options: Mapping[str, Any]) -> Settings:
        """What holds for an actor's messages that say nothing of their own.

        Worked out once, and again when anything that it was made of has changed: that was a fifth of what a retry
        costs.
        """
        made_of = (broker.middleware, options, self.policy, self.max_retries, self.retry_when)
        known = self._known_settings.get(actor_name)
        if known is not None and known[0] == made_of:
            return known[1]
        settings = self._settings(broker, options, {})
        made_of = ([*broker.middleware], {**options}, self.policy, self.max_retries, self.retry_when)
        self._known_settings[actor_name] = made_of, settings
        return settings

    def settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]:
        """The settings of a message that is there already, and what of them had to be left out."""
        actor = broker.actors.get(message.actor_name)
        options = actor.options if actor is not None else {}
        if ACTOR_OPTIONS.isdisjoint(message.options):
            return self._settings_of_actor(broker, message.actor_name, options), None
        try:
            check_options(message.options, "message")
            return self._settings(broker, options, message.options), None
        except ConfigError as raised:
            return self._settings(broker, options, {}), f"{raised}; the message's options were not heard"

    def _current_attempt(self, running: _Running) -> CurrentAttempt:
        settings, _ = self.settings_of(running.broker, running.message)
        previous = read_attempts(running.message.options)
        return CurrentAttempt(
            number=retries_of(running.message.options) + 1,
            limit=settings.limit,
            previous=previous,
            first_started_at=previous[0].started_at if previous else running.started_at,
        )

    def persist(self, broker: Broker, store: Callable[[], object]) -> None:
        """Call ``store`` until it succeeds, for ``store_timeout`` at the longest; then raise what it raised."""
        clock, waited, pause = self.clock_of(broker), 0, 50
        while True:
            try:
                store()
                return
            except (TypeError, ValueError, ClaimLost):
                raise  # it would be no better the next time
            except Exception:
                if waited >= self.store_timeout:
                    raise
            clock.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 1_000)

    def log(self, level: str, text: str, *args: object, **kwargs: Any) -> None:
        log(self.logger, level, text, *args, **kwargs)
