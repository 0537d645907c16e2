"""The dashboard, the alert rules and the table of the docs name metrics and labels that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dramatiq_retryq import prometheus_files
from dramatiq_retryq.metrics import GAUGES
from dramatiq_retryq.prometheus_files import OUTCOMES, Counted
from dramatiq_retryq.records import REASONS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
DOCS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
COUNTED = [each for each in vars(prometheus_files).values() if isinstance(each, Counted)]

#: By the name in the table: its type and its labels.
TABLE = {gauge.name: ("gauge", gauge.labels) for gauge in GAUGES} | {
    each.name if each.bounds else f"{each.name}_total": ("histogram" if each.bounds else "counter", each.labels)
    for each in COUNTED
}
#: By the name of a series: its labels.
SERIES = (
    {name: labels for name, (kind, labels) in TABLE.items() if kind != "histogram"}
    | {f"{each.name}_bucket": (*each.labels, "le") for each in COUNTED if each.bounds}
    | {f"{each.name}_{end}": each.labels for each in COUNTED if each.bounds for end in ("sum", "count")}
    | {"up": ("job", "instance")}
)
#: What Prometheus itself adds.
TARGET_LABELS = {"job", "instance"}
VALUES = {
    "outcome": set(OUTCOMES),
    "reason": set(REASONS),
    "state": {"due", "later", "claimed", "dead"},
}
FUNCTIONS = {
    "sum", "max", "min", "by", "on", "rate", "increase", "unless", "and", "histogram_quantile", "label_values", "le",
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return found


EXPRESSIONS = {f"alert {rule['alert']}": rule["expr"] for rule in rules()} | {
    f"panel {panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
}
every_expression = pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())


@every_expression
def test_an_expression_names_series_that_there_are(expression: str) -> None:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on)\s*\([^)]*\)|\"[^\"]*\"", " ", expression)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - FUNCTIONS
    assert words
    assert words <= SERIES.keys()


@every_expression
def test_an_expression_asks_for_labels_and_values_that_there_are(expression: str) -> None:
    for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        for label, operator, text in re.findall(r"([a-z_]+)\s*(=~|!=|!~|=)\s*\"([^\"]*)\"", selector):
            assert label in {*SERIES[name], *TARGET_LABELS}, name
            if label in VALUES and not text.startswith("$"):
                assert set(text.split("|") if "~" in operator else [text]) <= VALUES[label]
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression))))
    available = {label for name, labels in SERIES.items() if name in expression for label in labels}
    assert named <= available | TARGET_LABELS


@every_expression
def test_the_brackets_of_an_expression_match(expression: str) -> None:
    opened = []
    for sign in re.sub(r"\"[^\"]*\"", "", expression):
        if sign in "([{":
            opened.append(sign)
        elif sign in ")]}":
            assert opened.pop() + sign in ("()", "[]", "{}")
    assert opened == []


@every_expression
def test_counters_are_read_as_rates_and_gauges_are_not(expression: str) -> None:
    for name, (kind, _) in TABLE.items():
        for use in re.finditer(rf"(\w+)\(\s*{name}(?:_bucket|_sum|_count)?\b", expression):
            assert (use[1] in ("rate", "increase")) is (kind != "gauge")


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert [name for name in TABLE if name not in shown] == []


def test_the_panels_have_titles_units_and_a_place_of_their_own() -> None:
    places = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & cells
        places |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_a_rule_says_who_is_woken_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    used = set(re.findall(r"\$labels\.([a-z_]+)", str(rule["annotations"])))
    kept = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", rule["expr"])
    if kept:
        assert used <= set(re.findall(r"[a-z_]+", kept[0]))
    assert f"| `{rule['alert']}` |" in DOCS


def test_the_rules_of_the_docs_are_the_rules() -> None:
    assert re.findall(r"^\| `(Retryq\w+)` \|", DOCS, re.M) == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_prometheus_itself_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not installed")
    done = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_configuration_is_of_the_job_that_the_rules_name() -> None:
    found = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in found["scrape_configs"]] == ["retryq"]
    assert found["rule_files"] == ["alerts.yml"]
    (down,) = [rule for rule in rules() if rule["alert"] == "RetryqDown"]
    assert 'job="retryq"' in down["expr"]


# The table of the docs.


def test_the_table_of_the_docs_is_the_table() -> None:
    rows = re.findall(r"^\| `(retryq_\w+)` \| (\w+) \| ([^|]*)\|", DOCS, re.M)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == TABLE
    assert len(rows) == len(TABLE)


def test_every_metric_that_a_document_names_exists() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")):
        named = set(
            re.findall(r"\bretryq_[a-z_]+_(?:seconds|total|bucket|sum|count)\b", page.read_text(encoding="utf-8"))
        )
        assert named <= TABLE.keys() | SERIES.keys(), page.name


def test_every_outcome_is_in_the_docs() -> None:
    assert [outcome for outcome in OUTCOMES if f"| `{outcome}` |" not in DOCS] == []


# Names, as Prometheus wants them.


@pytest.mark.parametrize("name", TABLE)
def test_a_name_follows_the_conventions(name: str) -> None:
    kind, labels = TABLE[name]
    assert re.fullmatch(r"retryq_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") is (kind == "counter")
    assert not re.search(r"_(ms|milliseconds|minutes|hours|count|sum|bucket|info)$", name)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in labels)
    assert not {"le", "quantile", "job", "instance"} & set(labels)
    if re.search(r"_(age|duration|delay)", name):
        assert name.endswith("_seconds")


def test_every_metric_has_a_help_of_one_sentence() -> None:
    for text in [gauge.help for gauge in GAUGES] + [each.help for each in COUNTED]:
        assert text.endswith(".")
        assert "\n" not in text


def test_the_buckets_of_a_histogram_rise_and_end_at_infinity() -> None:
    for each in COUNTED:
        if each.bounds:
            assert list(each.bounds) == sorted(set(each.bounds))
            assert each.bounds[-1] == float("inf")
