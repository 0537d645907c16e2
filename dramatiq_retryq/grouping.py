"""A consumer that commits its acks in groups, for a store where each commit costs."""

from __future__ import annotations

from collections import deque

from dramatiq import MessageProxy

from ._dramatiq import exception_of
from .consumer import ClaimedMessage, Home, StoreConsumer
from .errors import StoreUnavailable
from .line import Line
from .logs import log
from .records import Claim

__all__ = ["GroupingConsumer"]


class GroupingConsumer(StoreConsumer):
    """A consumer over a store where each commit costs: while there is more to do, acks are committed in groups.

    An ack waits for others no longer than 50 ms, and not at all while nothing else is due. If the process is killed
    meanwhile, its message is delivered again; an orderly stop commits what is left.
    """

    #: Commit when so many acks have come together.
    GROUP = 8
    #: How long (s) an ack may wait for others.
    PATIENCE = 0.05

    def __init__(self, broker: Home, queue_name: str, line: Line, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, line, prefetch, timeout)
        self.acked: deque[Claim] = deque()
        self.is_closed = False
        #: Whether the last acks could not be committed.
        self.is_stuck = False
        # In larger groups than where a claim costs nothing.
        self.low = self.prefetch - max(1, self.prefetch // 2)

    def ack(self, message: MessageProxy) -> None:
        claimed: ClaimedMessage = message  # type: ignore[assignment]
        consumer: GroupingConsumer = claimed.consumer  # type: ignore[assignment]
        if exception_of(message) is not None:
            self.broker.conclude(message)
            if message.failed:
                return self.nack(message)
        if not claimed.settled:
            claimed.settled = True
            consumer.acked.append(claimed.claim)
        consumer.done(claimed.claim)
        if consumer.is_resting or consumer.is_closed or len(consumer.acked) >= self.GROUP:
            consumer.commit_acks()

    def done(self, claim: Claim) -> None:
        self.store.end(claim)  # said here, since its ack is to come
        super().done(claim)

    def commit_acks(self) -> None:
        """Commit the acks that have come together; if that cannot be done now, they are kept."""
        claims: list[Claim] = []
        while self.acked:
            try:
                claims.append(self.acked.popleft())
            except IndexError:  # another thread was faster
                break
        if not claims:
            return
        try:
            lost = self.store.finish_many(claims, now=self.clock.now())
        except BaseException as error:
            self.acked.extendleft(reversed(claims))
            if not isinstance(error, StoreUnavailable):
                raise
            if not self.is_stuck:  # said once, and not every 50 ms for as long as the disk is full
                text = "%d messages are done and could not be acked yet: %s"
                log(self.broker.logger, "warning", text, len(claims), error)
            self.is_stuck = True
            return
        self.is_stuck = False
        for claim in lost:
            text = "Entry %d was done, but its claim was lost: it may run again."
            log(self.broker.logger, "warning", text, claim.id)
        self._tell_joiners()

    def _claim(self, low: int | None = None) -> bool:
        self.commit_acks()
        return super()._claim(low)

    def _wait(self, seconds: float) -> None:
        if self.outstanding:
            seconds = min(seconds, self.PATIENCE)
        super()._wait(seconds)
        self.commit_acks()

    def close(self) -> None:
        self.is_closed = True
        self.commit_acks()
        super().close()
