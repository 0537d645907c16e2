"""Benchmarks: one broker against another, in interleaved runs, each run in a process of its own.

Reading order: `contestants` (who runs), the groups of work items (`throughput`, `retries`, `delays`, `idle`),
`run_one` (one item, one contestant, one JSON line), `harness` (rounds, ratios, the table), and `memory` (the
table of MemoryBroker). For SQLiteBroker: `app` (what worker processes import), `sqlite_items` and `sharing` (work
items of several processes and threads), `sqlite` (its tables), and `soak` (processes killed for minutes).
`testing` stands alone: the testing kit against StubBroker with a worker.
"""
