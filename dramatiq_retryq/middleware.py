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

import functools
import logging
import os
import random
import socket
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple

from dramatiq import Actor, ActorNotFound, Broker, Message, MessageProxy, Retry, Worker, get_logger
from dramatiq.middleware import AgeLimit, Interrupt, Middleware, Retries, Shutdown

from ._dramatiq import exception_of, plain_message, silence_attempt_errors
from .clock import Clock, SystemClock, milliseconds
from .dead_letters import LETTER_OPTION, compose
from .errors import ClaimLost, ConfigError, Snooze
from .history import Redact, append, describe, last_number, short_traceback
from .policy import (
    JITTERS,
    Backoff,
    BackoffOption,
    Jitter,
    Policy,
    Settings,
    adjusted,
    decide,
    parse_policy,
)
from .records import Attempt, CurrentAttempt, DeadLetter, Decision, Reason, RetryIn, read_attempts

__all__ = ["RetryQueue", "current_attempt"]

#: The options that may be given to an actor, and all that JSON can carry also to a message.
ACTOR_OPTIONS = frozenset(
    {
        "max_retries",
        "min_backoff",
        "max_backoff",
        "retry_when",
        "throws",
        "on_retry_exhausted",
        "backoff",
        "jitter",
        "dead_letter_actor",
        "max_age",
    }
)

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
    middleware. All of the parameters but the last six are options of actors too, and the ones that JSON can carry
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
        store_timeout: how long a retry that cannot be stored is tried again, in ms or as a timedelta.
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
        _check_options(
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
        self.dead_letter_actor = _actor_name(dead_letter_actor)
        self.redact = redact
        self.log_every_attempt = log_every_attempt
        self.store_timeout = milliseconds(store_timeout, "RetryQueue: store_timeout")
        self.clock = clock
        self.rng = rng if rng is not None else _dice
        silence_attempt_errors(_is_handled_quietly)

    @property
    def actor_options(self) -> set[str]:
        return set(ACTOR_OPTIONS)

    # -- Declaration ---------------------------------------------------------------------------------------------

    def before_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:
        self.take_place(broker)
        _check_options(actor.options, f"actor {actor.actor_name!r}")
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
            wanted[f"actor {actor.actor_name!r}"] = _actor_name(actor.options.get("dead_letter_actor"))
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
        _check_options(options, what)
        actor = broker.actors.get(message.actor_name)
        self._settings(broker, actor.options if actor is not None else {}, options, what)

    # -- Processing ----------------------------------------------------------------------------------------------

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        _running.set(_Running(self, broker, message, self._clock(broker).now()))

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
        running = _running.get()
        _running.set(None)
        if message.failed:  # by the actor itself, or by a middleware: it wants no retry
            return
        message.fail()
        failure = _Failure(self, broker, message, exception, running.started_at if running is not None else None)
        try:
            failure.handle()
        except Interrupt:
            # A shutdown or time limit that was on its way when the actor failed reached this thread only now. It comes
            # once, and says nothing about the retry.
            failure.handle_again()
        except Exception as raised:
            failure.reason = failure.reason or "unschedulable"
            self._log("error", "Handling a failure of %s failed: %s.", _who(message), type(raised).__name__)
        finally:
            if message.failed:
                message.__dict__["retryq_reason"] = failure.reason or "unschedulable"

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        # Once: after a lost connection Dramatiq emits this again and again until the nack succeeds.
        if "dead_letter" in message.__dict__:
            return
        letter = self.compose(broker, message)
        message.__dict__["dead_letter"] = letter
        self.deliver(broker, letter, message.options)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        letter = message.__dict__.get("dead_letter")
        if letter is not None:
            exception = exception_of(message)
            actor = broker.actors.get(message.actor_name)
            throws = _throws(message.options, actor.options if actor is not None else {})
            if throws and isinstance(exception, throws):
                self._log("info", "Aborting message %r.", message.message_id)
                self.report(letter, exception, expected=True)
            else:
                self.report(letter, exception)

    # -- Death ---------------------------------------------------------------------------------------------------

    def compose(self, broker: Broker, message: MessageProxy) -> DeadLetter:
        """The dead letter of a message that is about to be rejected."""
        now = self._clock(broker).now()
        reason: Reason | None = message.__dict__.get("retryq_reason")
        if reason is None:
            actor = broker.actors.get(message.actor_name)
            max_age = _max_age(broker, actor.options if actor is not None else {}, message.options)
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

    def deliver(self, broker: Broker, letter: DeadLetter, options: Mapping[str, Any]) -> None:
        """Send a letter to the dead-letter actor that is responsible for it, if there is one. Never raises."""
        if LETTER_OPTION in options:
            return
        actor = broker.actors.get(letter.actor_name or "")
        target = options.get("dead_letter_actor")
        if target is None and actor is not None:
            target = actor.options.get("dead_letter_actor")
        target = _actor_name(target) or self.dead_letter_actor
        if target is None or target == letter.actor_name:
            return
        try:
            options = {LETTER_OPTION: letter.id}
            message = broker.get_actor(target).message(letter.asdict()).copy(options=options)
            self._persist(broker, lambda: broker.enqueue(message))
        except Exception as raised:
            self._log(
                "error",
                "The dead letter of %s could not be sent to the dead-letter actor %r: %s.",
                f"{letter.actor_name}({letter.message_id})",
                target,
                type(raised).__name__,
            )

    def report(self, letter: DeadLetter, exception: BaseException | None = None, *, expected: bool = False) -> None:
        """Log a death: one ERROR with the traceback. Never raises.

        An actor's ``throws`` are ``expected`` and an INFO, and a ``dramatiq.Retry`` that has no attempt left is a
        WARNING, both without a traceback: neither is ever logged as an error, here as in Dramatiq.
        """
        attempts = letter.attempts
        fields = {
            "actor": letter.actor_name,
            "message_id": letter.message_id,
            "reason": letter.reason,
            "attempt": attempts[-1].n if attempts else None,
            "error": str(letter.error) if letter.error is not None else None,
        }
        text = "Message %s of actor %s is dead (%s)"
        args: list[object] = [letter.message_id, letter.actor_name, letter.reason]
        if letter.error is not None:
            text += " after %d failed attempts: %s"
            args += [attempts[-1].n if attempts else 0, letter.error]
        level = "error"
        if expected:
            level = "info"
        elif isinstance(exception, Retry):
            level = "warning"
        if level != "error":
            self._log(level, text + ".", *args, extra=fields)
        elif self.redact is None:
            self._log(level, text + ".", *args, extra=fields, exc_info=exception)
        else:
            # exc_info would print the traceback as it is, secrets and all.
            self._log(level, text + ".\n%s", *args, letter.traceback or "", extra=fields)

    # -- Parts ---------------------------------------------------------------------------------------------------

    def _clock(self, broker: Broker) -> Clock:
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
            policy = _nearer_policy(policy, options, what)
        max_retries = message_options.get("max_retries", actor_options.get("max_retries", self.max_retries))
        return Settings(
            policy=policy,
            max_retries=max_retries,
            retry_when=actor_options.get("retry_when", self.retry_when),
            throws=_throws(message_options, actor_options),
            max_age=_max_age(broker, actor_options, message_options),
        )

    def _settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]:
        """The settings of a message that is there already, and what of them had to be left out."""
        actor = broker.actors.get(message.actor_name)
        options = actor.options if actor is not None else {}
        try:
            _check_options(message.options, "message")
            return self._settings(broker, options, message.options), None
        except ConfigError as raised:
            return self._settings(broker, options, {}), f"{raised}; the message's options were not heard"

    def _current_attempt(self, running: _Running) -> CurrentAttempt:
        settings, _ = self._settings_of(running.broker, running.message)
        previous = read_attempts(running.message.options)
        return CurrentAttempt(
            number=_retries(running.message.options) + 1,
            limit=settings.limit,
            previous=previous,
            first_started_at=previous[0].started_at if previous else running.started_at,
        )

    def _persist(self, broker: Broker, store: Callable[[], object]) -> None:
        """Call ``store`` until it succeeds, for ``store_timeout`` at the longest; then raise what it raised."""
        clock, waited, pause = self._clock(broker), 0, 50
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

    def _log(self, level: str, text: str, *args: object, **kwargs: Any) -> None:
        # A log handler is other people's code and raises when its disk is full. The message must not pay for that.
        try:
            getattr(self.logger, level)(text, *args, **kwargs)
        except Exception:
            pass


class _Failure:
    """One failed attempt, from the exception to the retry that is stored or the reason to die."""

    def __init__(
        self,
        middleware: RetryQueue,
        broker: Broker,
        message: MessageProxy,
        error: BaseException,
        started_at: int | None,
    ) -> None:
        self.middleware = middleware
        self.broker = broker
        self.message = message
        self.error = error
        self.clock = middleware._clock(broker)
        self.now = self.clock.now()
        self.started_at = self.now if started_at is None else started_at
        self.options = dict(message.options)
        #: Why the message dies, once that is decided.
        self.reason: Reason | None = None
        self._stored = False

    def handle(self) -> None:
        """Decide, and carry it out. The message is marked as failed unless a retry is really stored."""
        settings, problem = self.middleware._settings_of(self.broker, self.message)
        written = self.options.get("attempts")
        decision = decide(
            self.error,
            settings,
            retries=_retries(self.options),
            previous=_previous_delay(written),
            sent_at=self.message.message_timestamp,
            now=self.now,
            rng=self.middleware.rng,
        )
        self._write(decision)
        if isinstance(decision, RetryIn):
            self._retry(decision)
            self._log_retry(decision, settings)
        else:
            self.reason = decision.reason
            if decision.reason == "exhausted":
                self._tell_exhausted(settings)
        problem = problem or decision.problem
        if problem:
            self.middleware._log("error", "While handling a failure of %s: %s.", _who(self.message), problem)

    def handle_again(self) -> None:
        """After an interrupt somewhere in :meth:`handle`: do what is not done yet."""
        if self._stored:
            self.message.failed = False
        elif self.reason is None:
            self.message.options.clear()
            self.message.options.update(self.options)
            self.handle()

    def _write(self, decision: Decision) -> None:
        """Write the attempt into the message's options, as history and in the three fields that Dramatiq has."""
        options = self.message.options
        if isinstance(decision, RetryIn) and not decision.uses_attempt:
            if isinstance(self.error, Snooze):
                snoozes = options.get("snoozes", 0)
                options["snoozes"] = (snoozes if isinstance(snoozes, int) else 0) + 1
            return
        info = describe(self.error, self.middleware.redact)
        append(
            options,
            Attempt(
                n=last_number(options) + 1,
                started_at=self.started_at,
                duration=max(0, self.now - self.started_at),
                error=info.type,
                message=info.message,
                place=info.place,
                delay=decision.delay if isinstance(decision, RetryIn) else None,
                worker=_worker_name(),
            ),
        )
        if isinstance(decision, RetryIn) or decision.reason != "rejected":
            options["retries"] = _retries(options) + 1
            options["traceback"] = short_traceback(self.error, info)
            options["requeue_timestamp"] = self.now

    def _retry(self, decision: RetryIn) -> None:
        self.middleware._persist(self.broker, functools.partial(self._store, decision.delay))
        self.message.failed = False

    def _store(self, delay: int) -> None:
        reschedule = getattr(self.broker, "reschedule", None)
        if reschedule is not None and "claim" in self.message.__dict__:
            reschedule(self.message, delay=delay)
        else:
            # No delay rather than one of 0: that would go through the delay queue and a worker's memory.
            self.broker.enqueue(plain_message(self.message).copy(), delay=delay or None)
        self._stored = True

    def _log_retry(self, decision: RetryIn, settings: Settings) -> None:
        expected = isinstance(self.error, (Retry, Shutdown))
        info = describe(self.error, self.middleware.redact)
        attempt = _retries(self.options) + 1
        self.middleware._log(
            "info" if expected else "warning",
            "Attempt %d of %s of actor %s failed (message %s): %s. Next in %d ms.",
            attempt,
            settings.limit if settings.limit is not None else "any",
            self.message.actor_name,
            self.message.message_id,
            info,
            decision.delay,
            extra={
                "actor": self.message.actor_name,
                "message_id": self.message.message_id,
                "attempt": attempt,
                "limit": settings.limit,
                "delay": decision.delay,
                "error": str(info),
            },
        )

    def _tell_exhausted(self, settings: Settings) -> None:
        actor = self.broker.actors.get(self.message.actor_name)
        name = self.message.options.get("on_retry_exhausted")
        if name is None and actor is not None:
            name = actor.options.get("on_retry_exhausted")
        name = _actor_name(name)
        if name is None:
            return
        try:
            message = self.broker.get_actor(name).message(
                self.message.asdict(),
                {"retries": _retries(self.options), "max_retries": settings.max_retries},
            )
            self.middleware._persist(self.broker, lambda: self.broker.enqueue(message))
        except Exception as raised:
            self.middleware._log(
                "error",
                "%s is exhausted, and the actor %r could not be told: %s.",
                _who(self.message),
                name,
                f"{type(raised).__name__}: no such actor"
                if isinstance(raised, ActorNotFound)
                else type(raised).__name__,
            )


def _nearer_policy(policy: Policy, options: Mapping[str, Any], what: str) -> Policy:
    """The policy once one more level of options has been heard."""
    backoff = options.get("backoff")
    lo, hi = options.get("min_backoff"), options.get("max_backoff")
    jitter = options.get("jitter")
    if lo is not None:
        lo = milliseconds(lo, f"{what}: min_backoff")
    if hi is not None:
        hi = milliseconds(hi, f"{what}: max_backoff")
    if lo is not None and hi is not None and hi < lo:
        raise ConfigError(f"{what}: max_backoff is {hi} ms, below min_backoff ({lo} ms): raise it or lower min_backoff")
    if backoff is None:
        return adjusted(policy, min_backoff=lo, max_backoff=hi, jitter=jitter)
    if isinstance(backoff, Mapping):
        default = adjusted(policy, min_backoff=lo, max_backoff=hi, jitter=jitter)
        return parse_policy(backoff, what=f"{what}: backoff", default=default)
    if not (lo is None and hi is None and jitter is None):
        raise ConfigError(
            f"{what}: backoff and min_backoff, max_backoff or jitter cannot be given together: "
            "say all of it with backoff=Backoff(min_backoff, max_backoff, jitter=…)"
        )
    return parse_policy(backoff, what=f"{what}: backoff", default=policy)


def _check_options(options: Mapping[str, Any], what: str) -> None:
    """Check what can be checked of each option by itself.

    Raises:
        ConfigError: with the actor or message, the option, its value and what was wanted.
    """
    retries = options.get("max_retries")
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ConfigError(
            f"{what}: max_retries is {retries!r}: give a whole number, 0 for no retry, or None for no limit"
        )
    jitter = options.get("jitter")
    if jitter is not None and jitter not in JITTERS:
        raise ConfigError(f"{what}: jitter is {jitter!r}: give one of {', '.join(JITTERS)}")
    retry_when = options.get("retry_when")
    if retry_when is not None and not callable(retry_when):
        raise ConfigError(f"{what}: retry_when is {retry_when!r}: give a function (retries, error) -> bool")
    throws = options.get("throws")
    for cls in throws if isinstance(throws, tuple) else (throws,):
        if cls is not None and not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise ConfigError(f"{what}: throws is {throws!r}: give an exception class or a tuple of them")
    for option in ("on_retry_exhausted", "dead_letter_actor"):
        target = options.get(option)
        if target is not None and not isinstance(target, (str, Actor)):
            raise ConfigError(f"{what}: {option} is {target!r}: give an actor or its name")
    max_age = options.get("max_age")
    if max_age is not None and (isinstance(max_age, bool) or not isinstance(max_age, (int, float)) or max_age < 0):
        raise ConfigError(f"{what}: max_age is {max_age!r}: give milliseconds, 0 or None for no limit")


def _max_age(broker: Broker, actor_options: Mapping[str, Any], message_options: Mapping[str, Any]) -> int | None:
    """The age limit, found as Dramatiq's AgeLimit finds it."""
    inherited = next((m.max_age for m in broker.middleware if isinstance(m, AgeLimit)), None)
    max_age = message_options.get("max_age") or actor_options.get("max_age", inherited)
    return max_age if isinstance(max_age, (int, float)) else None  # type: ignore[return-value]


def _throws(message_options: Mapping[str, Any], actor_options: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
    throws = message_options.get("throws") or actor_options.get("throws") or ()
    # A message that JSON carried has no classes to offer.
    return tuple(cls for cls in (throws if isinstance(throws, tuple) else (throws,)) if isinstance(cls, type))


def _actor_name(actor: str | Actor[..., Any] | None) -> str | None:
    return actor.actor_name if isinstance(actor, Actor) else actor


def _retries(options: Mapping[str, Any]) -> int:
    retries = options.get("retries", 0)
    return retries if isinstance(retries, int) else 0


def _previous_delay(attempts: Any) -> int | None:
    try:
        delay = attempts[-1]["delay"]
    except (TypeError, KeyError, IndexError):
        return None
    return delay if isinstance(delay, int) else None


def _who(message: MessageProxy) -> str:
    return f"message {message.message_id} of actor {message.actor_name}"


def _worker_name() -> str:
    return f"{_hostname()}:{os.getpid()}"


@functools.cache
def _hostname() -> str:
    return socket.gethostname()
