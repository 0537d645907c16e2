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

import os
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker, Message, MessageProxy, Worker
from dramatiq.middleware import Interrupt, Retries
from dramatiq.worker import ConsumerThread

from ._dramatiq import silence_attempt_errors
from .clock import Clock, clock_of, milliseconds
from .deaths import Deaths
from .errors import ClaimLost, ConfigError
from .failure import Failure
from .foreign_messages import ForeignMessages
from .handler import who
from .history import Redact
from .hops import HOP_OPTION
from .limits import HealthLimits
from .logs import log
from .monitored import Monitored
from .options import ACTOR_OPTIONS, actor_name_of, check_age_limits, check_options, throws_of
from .policy import Backoff, BackoffOption, Jitter, Policy, Settings, parse_policy
from .running import RUNNING, Running, current_attempt, is_handled_quietly, started_at
from .settings import SettingsFinder
from .side import Side

__all__ = ["RetryQueue", "current_attempt"]

#: How long a retry that cannot be stored is tried again, in milliseconds, before the message dies.
DEFAULT_STORE_TIMEOUT = 5_000

#: Every broker can do a delay (ms) of this length at a stretch.
_SHORT = 20 * 60_000

_dice = random.Random()
if hasattr(os, "register_at_fork"):
    # Or the workers that a preloading server forks would all roll the same jitter.
    os.register_at_fork(after_in_child=_dice.seed)


class RetryQueue(Monitored):
    """Retries with jittered exponential backoff, a history of every attempt, and dead letters, on any broker.

    It takes the place of Dramatiq's ``Retries``, also when it is simply added to a broker that has the default
    middleware. All of the parameters but the last ten are options of actors too, and the ones that JSON can carry
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
        max_crashes: how many worker deaths a message may be part of on Redis and RabbitMQ before it is a dead letter,
            reason ``crashed``; ``None`` for no limit. This package's own brokers have an option for it.
        max_letter_age: how long dead letters are kept on Redis and RabbitMQ, in ms or as a timedelta; as long as
            Dramatiq keeps its own (``dead_message_ttl``) if not given.
        health: where ``/healthz`` is served, and ``/metrics`` if ``prometheus_client`` is installed: ``"host:port"``,
            or a port, which then is on loopback. See ``docs/metrics.md``.
        health_limits: beyond which ``/healthz`` answers 503.
        metrics: count for Prometheus. If not given, that is done where ``prometheus_client`` is installed and something
            serves it: ``health``, or Dramatiq's own Prometheus middleware.
        clock: the broker's if not given, else the machine's.
        rng: the dice.

    Raises:
        MissingExtra: ``metrics=True`` without ``prometheus_client``.
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
        max_crashes: int | None = 3,
        max_letter_age: int | timedelta | None = None,
        health: str | int | None = None,
        health_limits: HealthLimits | None = None,
        metrics: bool | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(health=health, health_limits=health_limits, metrics=metrics)
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
        if max_crashes is not None and (
            isinstance(max_crashes, bool) or not isinstance(max_crashes, int) or max_crashes < 1
        ):
            raise ConfigError(
                f"RetryQueue: max_crashes is {max_crashes!r}: give a whole number of 1 or more, or None for no limit"
            )
        self.max_crashes = max_crashes
        self.max_letter_age = (
            milliseconds(max_letter_age, "RetryQueue: max_letter_age") if max_letter_age is not None else None
        )
        self.clock = clock
        self.rng = rng if rng is not None else _dice
        #: What is done when a message dies.
        self.deaths = Deaths(self)
        self._foreign = ForeignMessages(self)
        self._settings = SettingsFinder(self)
        silence_attempt_errors(is_handled_quietly)

    @property
    def actor_options(self) -> set[str]:
        return set(ACTOR_OPTIONS)

    # -- Declaration ---------------------------------------------------------------------------------------------

    def before_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:
        self.take_place(broker)
        if isinstance(actor.options.get("max_age"), timedelta):  # Dramatiq's AgeLimit counts in numbers
            actor.options["max_age"] = milliseconds(actor.options["max_age"], f"actor {actor.actor_name!r}: max_age")
        check_options(actor.options, f"actor {actor.actor_name!r}")
        self._settings.find(broker, actor.options, {}, f"actor {actor.actor_name!r}")

    # Called with each actor that is there already when the middleware is added; there it may raise.
    after_declare_actor = before_declare_actor

    def before_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self.take_place(broker)

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self.take_place(broker)
        self._check_targets(broker)
        check_age_limits(broker)
        super().before_worker_boot(broker, worker)
        side = self.side_of(broker)
        if side is not None:
            side.boot(worker)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        side = self.side_of(broker)
        if side is not None:
            side.shut_down(worker)

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        side = self.side_of(broker)
        if side is not None:
            side.attend(thread)

    def take_place(self, broker: Broker) -> None:
        """Put this middleware where the broker has ``Retries``. Does nothing where there is none.

        Raises:
            ConfigError: the broker has another ``RetryQueue`` already.
        """
        self.seen(broker)
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
        if delay is not None and delay > _SHORT:
            self._foreign.make_hop(broker, message, delay)
        # Nothing to check on the hot path, and a message that is on its way already is not stopped.
        if not options or "retries" in options or "attempts" in options or ACTOR_OPTIONS.isdisjoint(options):
            return
        what = f"message to actor {message.actor_name!r}"
        check_options(options, what)
        for name in ("dead_letter_actor", "on_retry_exhausted"):
            if isinstance(options.get(name), Actor):
                options[name] = options[name].actor_name
        actor = broker.actors.get(message.actor_name)
        self._settings.find(broker, actor.options if actor is not None else {}, options, what)

    # -- Processing ----------------------------------------------------------------------------------------------

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if "throws" in message.options and not throws_of(message.options, {}):
            # What JSON carried is no class: asked for one, Dramatiq's worker raises before any hook is called.
            del message.options["throws"]
        side: Side | None = broker.__dict__.get("_retryq_side")
        if side is not None:
            if HOP_OPTION in message.options:
                self._foreign.put_off(broker, side, message)
            if side.may_have_crashed(message):
                self._foreign.begin(broker, side, message)
        now = message.__dict__["started_at"] = self.clock_of(broker).now()
        RUNNING.set(Running(self, broker, message, now))

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        RUNNING.set(None)
        if "retryq_begun" in message.__dict__:
            self._foreign.end(message)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if "retryq_begun" in message.__dict__:
            self._foreign.end(message)
        if exception is None:
            if self.counting.is_on:
                self.counting.attempted(broker, message, self.clock_of(broker), started_at())
            RUNNING.set(None)
            return
        since = started_at()
        if message.failed:  # by the actor itself, or by a middleware: it wants no retry
            RUNNING.set(None)
            message.__dict__["retryq_heard"] = True
            self.counting.attempted(broker, message, self.clock_of(broker), since, error=exception)
            return
        message.fail()
        message.__dict__.update(retryq_heard=True, retryq_reason="unschedulable")
        failure = Failure(self, broker, message, exception)
        for _ in range(3):
            try:
                failure.handle(since)
                break
            except Interrupt:
                # A shutdown or time limit that was on its way when the actor failed reached this thread only now. Each
                # comes once, and says nothing about the retry: what is not done yet is done again.
                continue
            except Exception as raised:
                self.log("error", "Handling a failure of %s failed: %s.", who(message), type(raised).__name__)
                break
        RUNNING.set(None)
        self.counting.attempted(broker, message, self.clock_of(broker), since, failure.settled, exception)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        # Once: after a lost connection Dramatiq emits this again and again until the nack succeeds.
        if "dead_letter" in message.__dict__:
            self._foreign.lay_down_late(broker, message)
            return
        letter = self.deaths.compose(broker, message)
        if "claim" in message.__dict__:
            # Stored with the letter, in one move: the actor is told of no letter that is not there yet.
            notice = self.deaths.notice(broker, letter, message.options)
            message.__dict__.update(dead_letter=letter, notice=notice)
            return
        message.__dict__["dead_letter"] = letter
        self._foreign.lay_down(broker, message, letter)
        self.deaths.tell(broker, letter, message.options)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        letter = message.__dict__.get("dead_letter")
        if letter is not None:
            self.deaths.report_rejected(broker, message, letter)

    # -- For its parts -------------------------------------------------------------------------------------------

    def clock_of(self, broker: Broker) -> Clock:
        """The clock that messages of this broker go by."""
        return self.clock if self.clock is not None else clock_of(broker)

    def settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]:
        """The settings of a message that is there already, and what of them had to be left out."""
        return self._settings.of(broker, message)

    def side_of(self, broker: Broker) -> Side | None:
        """What is kept beside a broker of Dramatiq's; ``None`` for our own, and for those that nobody knows."""
        return self._foreign.side_of(broker)

    def persist(self, broker: Broker, store: Callable[[], object], timeout: int | None = None) -> None:
        """Call ``store`` until it succeeds, for ``store_timeout`` at the longest; then raise what it raised."""
        clock, waited, pause = self.clock_of(broker), 0, 50
        timeout = self.store_timeout if timeout is None else timeout
        while True:
            try:
                store()
                return
            except (TypeError, ValueError, ClaimLost):
                raise  # it would be no better the next time
            except Exception:
                if waited >= timeout:
                    raise
            clock.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 1_000)

    def log(self, level: str, text: str, *args: object, **kwargs: Any) -> None:
        log(self.logger, level, text, *args, **kwargs)
