"""Runnable examples: `python -m examples.webhooks`, from a checkout. See README.md beside this file."""
