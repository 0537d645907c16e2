"""The package with nothing installed beside it but Dramatiq: import, send, fail once, retry, run, and test.

Run by `tox -e bare`, as a plain script: there is no pytest in that environment.
"""

import sys

before = set(sys.modules)

import dramatiq_retryq  # noqa: E402

# Split at the first dot, so that a submodule counts as the package it belongs to.
pulled_in = {name.partition(".")[0] for name in set(sys.modules) - before}
# multiprocessing calls the running script __mp_main__ too.
foreign = pulled_in - sys.stdlib_module_names - {"dramatiq", "dramatiq_retryq", "__mp_main__"}
if foreign:
    sys.exit(f"import dramatiq_retryq pulled in {sorted(foreign)}: import an extra where it is used")

import dramatiq  # noqa: E402

broker = dramatiq_retryq.MemoryBroker()
dramatiq.set_broker(broker)
runs: list[str] = []


@dramatiq.actor(max_retries=3, min_backoff=1)
def greet(name: str) -> None:
    runs.append(name)
    if len(runs) == 1:
        raise ConnectionError("the first run fails, so that there is a retry")


worker = dramatiq.Worker(broker, worker_threads=1)
worker.start()
try:
    greet.send("world")
    broker.join(greet.queue_name, timeout=30_000)
    worker.join()
finally:
    worker.stop()
    broker.close()

if runs != ["world", "world"]:
    sys.exit(f"greet should have failed once and then succeeded, but ran as {runs}")
dead = list(broker.dead_letters)
if dead:
    sys.exit(f"greet succeeded at the second run, but left dead letters: {dead}")

import dramatiq_retryq.testing  # noqa: E402

pulled_in = {name.partition(".")[0] for name in set(sys.modules) - before}
foreign = pulled_in - sys.stdlib_module_names - {"dramatiq", "dramatiq_retryq", "__mp_main__"}
if foreign:
    sys.exit(f"import dramatiq_retryq.testing pulled in {sorted(foreign)}: the kit works without pytest and freezegun")

with dramatiq_retryq.testing.swap_broker() as retryq:
    retryq.fail_next(greet, 2, ConnectionError)
    greet.send("kit")
    outcome = retryq.drain()
if (outcome.retried, outcome.succeeded, runs[-1]) != (2, 1, "kit"):
    sys.exit(f"the testing kit should have run greet at the third attempt: {outcome}")

print(f"bare: dramatiq {dramatiq.__version__} and the standard library are enough")
