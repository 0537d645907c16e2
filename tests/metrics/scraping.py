"""Scrapes as Prometheus makes them, through HTTP, read by prometheus_client's own parser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def get(url: str, method: str = "GET") -> tuple[int, bytes]:
    """The status and the body of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def health(url: str) -> tuple[int, dict[str, Any]]:
    status, body = get(f"{url}/healthz")
    return status, json.loads(body)


def read(text: str) -> Samples:
    """All samples of a scrape; fails if there is one twice."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def scrape(url: str) -> Samples:
    status, body = get(f"{url}/metrics")
    assert status == 200, body
    return read(body.decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def of(samples: Samples, name: str) -> dict[str, float]:
    """The samples of one name that are not zero, by the values of their labels."""
    found = {}
    for (sample, labels), number in samples.items():
        if sample == name and number:
            found[" ".join(text for _, text in sorted(labels))] = number
    return found


def counted(directory: str) -> Samples:
    """What the processes that count in a directory have counted together."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=directory)
    return read(generate_latest(registry).decode())
