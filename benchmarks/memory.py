"""MemoryBroker against Dramatiq's StubBroker: `python -m benchmarks.memory --rounds 7 --cpu 1`."""

from __future__ import annotations

from .harness import Row, Wanted, command_line

ROWS = (
    Row("enqueue", "per_second", "enqueue, messages/s", Wanted("ratio", "≥", 1.1)),
    Row("enqueue", "cpu_us", "– CPU time of each, µs"),
    Row("drain", "per_second", "drain 20,000, messages/s", Wanted("ratio", "≥", 1.3)),
    Row("drain", "cpu_us", "– CPU time of each, µs"),
    Row("latency", "p50_us", "send to start, one at a time, p50 µs", Wanted("ratio", "≤", 1)),
    Row("latency", "p99_us", "– p99 µs"),
    Row("latency", "rested_p50_us", "– each after 1 ms of idleness, p50 µs"),
    Row("storm", "per_second", "retry storm of 2000, attempts/s", Wanted("ratio", "≥", 3)),
    Row("storm", "cpu_us", "– CPU time of each, µs"),
    Row("small_storm", "seconds", "retry storm of 100, s", Wanted("median", "≤", 0.2)),
    Row("dying", "per_second", "dying messages, messages/s", Wanted("ratio", "≥", 2)),
    Row("dying", "cpu_us", "– CPU time of each, µs"),
    Row("lateness", "p50_ms", "lateness of 2000 delayed messages, p50 ms", Wanted("median", "≤", 2)),
    Row("lateness", "p99_ms", "– p99 ms", Wanted("median", "≤", 15)),
    Row("lateness", "earliest_ms", "– earliest, ms after its due instant", Wanted("every run", "≥", 0)),
    Row("lateness", "earliest_by_sender_ms", "– the same by the sender's clock", Wanted("every run", "≥", 0)),
    Row(
        "behind_far_off",
        "run",
        "20 due soon behind a million far-off, run",
        Wanted("every run", "≥", 20),
    ),
    Row("behind_far_off", "p99_ms", "– p99 ms late", Wanted("median", "≤", 15)),
    Row("weight", "bytes", "memory of a delayed message, bytes", Wanted("median", "≤", 400)),
    Row("many_queues", "cpu_percent", "200 idle queues, % of one CPU", Wanted("median", "≤", 0.5)),
    Row("many_queues", "threads", "– threads", Wanted("median", "≤", 210)),
)

if __name__ == "__main__":
    command_line(ROWS, description=__doc__, subject="memory", other="stub")
