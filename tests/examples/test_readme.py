"""Every code block of the README and of docs/ runs, and prints what stands below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The first line of a block that is a file, which later blocks of the page import. Tests are run by pytest.
FILE = re.compile(r"# (\w+\.py)\n")

# What other tests run: the example, the packaging, the command line.
SHELL_COMMANDS = (
    "pip install .",
    "pip install 'dramatiq_retryq[",
    "-m examples.webhooks",
    ".venv/bin/tox",
    "dramatiq examples.webhooks.app",
    "sqlite3 jobs.db",
    "python -m benchmarks",
    # tests/cli/test_docs.py
    "pip install 'dramatiq_retryq[cli]'",
    "retryq ",
)


def blocks() -> list[tuple[str, str, str | None, dict[str, str]]]:
    """The Python blocks: where they stand, their code, the output shown for them, if any, and the page's files."""
    found = []
    for page in PAGES:
        parts = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
        files = {name[1]: part[2] for part in parts if part[1] == "python" and (name := FILE.match(part[2]))}
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            if part[1] == "python":
                shown = following[2] if following is not None and following[1] == "text" else None
                line = page.read_text(encoding="utf-8").count("\n", 0, part.start()) + 1
                shown = None if FILE.match(part[2]) else shown
                found.append((f"{page.name}:{line}", part[2], shown, files))
    return found


@pytest.mark.parametrize(
    ("code", "shown", "files"), [block[1:] for block in blocks()], ids=[block[0] for block in blocks()]
)
def test_a_python_block_runs_and_prints_what_is_shown(
    code: str, shown: str | None, files: dict[str, str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    named = FILE.match(code)
    script = tmp_path / (named[1] if named else "first_minute.py")
    script.write_text(code, encoding="utf-8")
    pytest_too = ["-m", "pytest", "-q", "-W", "error::UserWarning"] if script.name.startswith("test_") else []
    run = subprocess.run(
        [sys.executable, *pytest_too, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    if shown is not None:
        # Sorted: what happens at once may be printed in any order.
        assert sorted(run.stdout.splitlines()) == sorted(shown.splitlines()), run.stderr


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_shell_block_is_a_command_that_is_tested(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert language in {"python", "sh", "text", "ini"}, f"a block of {language}: who runs it?"
        if language == "sh":
            for line in code.splitlines():
                assert any(command in line for command in SHELL_COMMANDS), line


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"
