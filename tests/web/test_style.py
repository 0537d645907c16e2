"""The style sheet: text can be read by day and by night, and nothing is asked of elsewhere."""

from __future__ import annotations

import importlib.resources
import re

import pytest

CSS = importlib.resources.files("dramatiq_retryq.web").joinpath("static/retryq.css").read_text(encoding="utf-8")
JS = importlib.resources.files("dramatiq_retryq.web").joinpath("static/retryq.js").read_text(encoding="utf-8")

ON_ANYTHING = ["ink", "dim", "link"]
PAIRS = [(text, ground) for text in ON_ANYTHING for ground in ("page", "card", "sunk")] + [
    ("ok", "ok-soft"),
    ("warn", "warn-soft"),
    ("bad", "bad-soft"),
    ("bad", "card"),
    ("bad", "page"),
    ("warn", "card"),
    ("on-accent", "accent"),
]
#: Shapes that mean something: 3 is enough for them.
SHAPES = [(shape, "card") for shape in ("edge", "bar-ok", "bar-warn", "bar-bad")]


def palette(scheme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.S)
    assert len(blocks) == 2
    light = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[0]))
    dark = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[1]))
    assert light.keys() == dark.keys()
    return light if scheme == "light" else dark


def luminance(colour: str) -> float:
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_has_a_contrast_of_four_and_a_half(scheme: str, text: str, ground: str) -> None:
    colours = palette(scheme)
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_a_shape_that_means_something_has_a_contrast_of_three(scheme: str, shape: str, ground: str) -> None:
    colours = palette(scheme)
    assert contrast(colours[shape], colours[ground]) >= 3


def test_every_colour_is_one_of_the_palette() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.S)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{]*;)", rules) == []
    used = set(re.findall(r"var\(--([a-z-]+)\)", CSS))
    assert used == palette("light").keys()


def test_nothing_is_asked_of_another_server() -> None:
    for text in (CSS, JS):
        assert re.findall(r"https?://|url\(|@import", text) == []


def test_the_script_makes_no_markup_of_text() -> None:
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", JS) == []
