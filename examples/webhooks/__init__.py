"""A webhook delivery service on Dramatiq and `RetryQueue`. Run it with `python -m examples.webhooks`."""
