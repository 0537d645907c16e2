"""What setup.cfg, tox.ini, .ci/run and the documents promise about one another."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dramatiq_retryq"
EXTRA_BY_SELF = re.compile(r"(?:dramatiq_retryq|\.)\[([a-z0-9_, -]+)\]")


def read_ini(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string((ROOT / name).read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    return read_ini("setup.cfg")


@pytest.fixture(scope="module")
def tox_ini() -> configparser.ConfigParser:
    return read_ini("tox.ini")


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    """The installed package; `pip install -e '.[dev]'` is enough."""
    # Not importlib.metadata.distribution(): it finds the egg-info that an earlier build left in the checkout.
    site_packages = [sysconfig.get_path("purelib")]
    found = list(importlib.metadata.distributions(name="dramatiq_retryq", path=site_packages))
    assert len(found) == 1, "dramatiq_retryq is not installed here: pip install -e '.[dev]'"
    return found[0]


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]


def requirements(setup_cfg: configparser.ConfigParser) -> list[Requirement]:
    """Every requirement in setup.cfg on something other than this package."""
    values = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    every = [Requirement(line) for value in values for line in lines(value)]
    return [requirement for requirement in every if requirement.name != "dramatiq_retryq"]


def documents() -> list[Path]:
    patterns = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", "dramatiq_retryq/**/*.py")
    return [path for pattern in patterns for path in ROOT.glob(pattern)]


# Versions.


def test_the_installed_version_is_the_one_in_setup_cfg(setup_cfg, distribution):
    assert distribution.version == setup_cfg["metadata"]["version"]


def test_the_changelog_has_a_section_for_the_version_in_setup_cfg(setup_cfg):
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert headings[1] == setup_cfg["metadata"]["version"]


def test_the_claimed_pythons_are_the_ones_that_tox_runs(setup_cfg, tox_ini):
    claimed = re.findall(r"Python :: (3\.\d+)", setup_cfg["metadata"]["classifiers"])
    label, _, environments = tox_ini["tox"]["labels"].strip().partition("=")
    assert label.strip() == "interpreters"
    assert [f"py{version.replace('.', '')}" for version in claimed] == [
        environment.strip() for environment in environments.split(",")
    ]
    assert setup_cfg["options"]["python_requires"] == f">={claimed[0]}"
    assert setup_cfg["mypy"]["python_version"] == claimed[0]


# Dependencies and extras.


def test_every_dependency_has_a_lower_bound(setup_cfg):
    unbounded = [
        str(requirement)
        for requirement in requirements(setup_cfg)
        if not any(specifier.operator == ">=" for specifier in requirement.specifier)
    ]
    assert unbounded == []


def test_every_dependency_stands_below_a_comment_with_its_reason():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    install_requires = re.search(r"^install_requires =\n((?: .*\n)+)", text, re.M)
    extras = re.search(r"^\[options\.extras_require\]\n((?:(?!\[).*\n)+)", text, re.M)
    assert install_requires is not None
    assert extras is not None
    listed = [*install_requires[1].splitlines(), *extras[1].splitlines()]
    without = [
        line.strip()
        for above, line in zip(["", *listed], listed, strict=False)
        if re.match(r"    [a-z]", line) and not above.startswith("    # ")
    ]
    assert sum(1 for line in listed if re.match(r"    [a-z]", line)) > 5
    assert without == []


def test_the_package_needs_dramatiq_and_nothing_else(distribution):
    needed = [Requirement(line) for line in distribution.requires or []]
    assert {requirement.name for requirement in needed if requirement.marker is None} == {"dramatiq"}


def test_the_oldest_environment_installs_every_lower_bound_that_the_tests_use(setup_cfg, tox_ini):
    extras = lines(tox_ini["testenv"]["extras"])
    values = [setup_cfg["options"]["install_requires"]]
    values += [setup_cfg["options.extras_require"][extra] for extra in extras]
    claimed = set()
    for requirement in (Requirement(line) for value in values for line in lines(value)):
        bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        claimed.update(f"{requirement.name}=={bound}" for bound in bounds)
    assert set(lines(tox_ini["testenv:oldest"]["deps"])) == claimed


def test_every_extra_that_the_documents_name_exists(distribution):
    known = {canonicalize_name(extra) for extra in distribution.metadata.get_all("Provides-Extra") or []}
    named = {
        (canonicalize_name(extra.strip()), path.relative_to(ROOT).as_posix())
        for path in documents()
        for extras in EXTRA_BY_SELF.findall(path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert ("dev", "CONTRIBUTING.md") in named
    assert {(extra, path) for extra, path in named if extra not in known} == set()


def test_the_all_extra_holds_those_that_an_application_uses(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    (own,) = [line for line in lines(extras["all"]) if not line.startswith("#")]
    assert Requirement(own).extras == set(extras) - {"all", "dev", "examples", "interop", "lint", "tests"}


def test_the_readme_has_a_row_for_each_extra_that_a_user_may_want(setup_cfg):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Extras") :].partition("\n## ")[0]
    rows = {name for row in re.findall(r"^\| (`.+?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert rows == set(setup_cfg["options.extras_require"]) - {"dev", "interop", "lint", "tests"}


def test_the_readme_leads_to_every_page_of_the_docs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    index = readme[readme.index("## Documentation") :].partition("\n## ")[0]
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in index] == []


def test_contributing_names_modules_that_are_there():
    code = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| tests |")[0]
    named = {name for row in re.findall(r"^\| (`.+?) \|", code, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    assert len(named) > 20
    modules = {path.name.removesuffix(".py") for path in (ROOT / "dramatiq_retryq").iterdir()}
    assert {name.rstrip("/") for name in named} - modules == set()


def test_contributing_says_what_each_folder_of_tests_holds():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert set(re.findall(r"`tests/(\w+)/`", text)) == folders


def test_the_dev_extra_holds_every_other_extra(setup_cfg):
    extras = dict(setup_cfg["options.extras_require"])
    (own,) = [line for line in lines(extras.pop("dev")) if line.startswith("dramatiq_retryq[")]
    assert Requirement(own).extras == set(extras)


def test_the_lint_environment_has_the_types_of_whatever_the_package_imports(setup_cfg, tox_ini):
    installed = {"markupsafe", "_typeshed"}  # come with jinja2 and mypy
    for extra in lines(tox_ini["testenv:lint"]["extras"]):
        installed |= {
            Requirement(line).name.replace("-", "_") for line in lines(setup_cfg["options.extras_require"][extra])
        }
    imported = {
        name.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    others = imported - sys.stdlib_module_names - {"dramatiq", "dramatiq_retryq"}
    assert "click" in others
    assert {name for name in others - installed if f"mypy-{name}.*" not in setup_cfg} == set()


# What is shipped.


def test_the_package_says_that_it_is_typed(setup_cfg):
    assert (PACKAGE / "py.typed").is_file()
    assert "py.typed" in lines(setup_cfg["options.package_data"]["dramatiq_retryq"])


def test_a_wheel_holds_every_file_of_the_package(distribution):
    direct_url = json.loads(distribution.read_text("direct_url.json") or "{}")
    if direct_url.get("dir_info", {}).get("editable"):
        pytest.skip("installed in editable mode, so there is no wheel to look into; tox installs one")
    shipped = {file.as_posix() for file in distribution.files or []}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - shipped == set()
    assert any(file.endswith("/LICENSE") for file in shipped)
    assert {file.partition("/")[0] for file in shipped if file.endswith(".py")} == {"dramatiq_retryq"}


BLOCK_AND_IMPORT = """
import importlib, importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"dramatiq", "dramatiq_retryq"}:
            raise ModuleNotFoundError(f"{name} is not in the standard library or in dramatiq")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_module_but_the_pytest_plugin_the_page_and_the_command_needs_an_extra_to_be_imported():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    }
    modules -= {"dramatiq_retryq.pytest_plugin"}
    whole = ("dramatiq_retryq.web.", "dramatiq_retryq.cli.")
    modules = {name for name in modules if not f"{name}.".startswith(whole)}
    assert "dramatiq_retryq.broker" in modules
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_AND_IMPORT, *sorted(modules)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# The README's test command and .ci/run.


def marked_commands(readme: str) -> list[str]:
    return re.findall(r"^<!-- test-command -->\n```\w*\n(.+?)\n```$", readme, re.M | re.S)


def test_the_readme_has_one_test_command_and_it_runs_all_of_tox():
    (command,) = marked_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert command.endswith("/tox")


def test_the_default_tox_run_is_lint_bare_oldest_and_newest(tox_ini):
    assert lines(tox_ini["tox"]["env_list"]) == ["lint", "bare", "oldest", "newest"]


@pytest.fixture
def checkout(tmp_path):
    """A git checkout that holds .ci/run and a README with the given test command."""
    if shutil.which("git") is None:
        pytest.skip("needs git, as .ci/run does")
    root = tmp_path / "check out"

    def build(readme: str) -> Path:
        (root / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", root / ".ci" / "run")
        (root / "README.md").write_text(readme, encoding="utf-8")
        (root / ".gitignore").write_text("ignored\n", encoding="utf-8")
        (root / "ignored").write_text("", encoding="utf-8")
        (root / "kept").write_text("", encoding="utf-8")
        subprocess.run(["git", "init", "--quiet", str(root)], check=True, capture_output=True)
        return root / ".ci" / "run"

    return build


def run_ci(script: Path, cwd: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    # Some browser is named, so that none is installed.
    environment = {**os.environ, "RETRYQ_BROWSER": "none"}
    return subprocess.run(
        [str(script)], cwd=cwd, env=environment, input=typed, capture_output=True, text=True, timeout=60
    )


README = """
```sh
echo another block
```

<!-- test-command -->
```sh
{command}
```

```sh
echo a later block
```
"""


def test_ci_runs_the_readmes_command_on_a_copy_without_ignored_files(checkout, tmp_path):
    script = checkout(README.format(command="ls && pwd && echo servers=$RETRYQ_REQUIRE_SERVERS"))
    done = run_ci(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    echoed, *listed, where, servers = done.stdout.splitlines()
    assert echoed == "+ ls && pwd && echo servers=$RETRYQ_REQUIRE_SERVERS"
    assert listed == ["README.md", "kept"]
    assert Path(where) != script.parents[1]
    assert not Path(where).exists()
    assert servers == "servers=1"


def test_ci_fails_as_the_readmes_command_fails(checkout, tmp_path):
    script = checkout(README.format(command="echo started\nfalse\necho not reached"))
    done = run_ci(script, cwd=tmp_path)
    assert done.returncode == 1
    assert "started" in done.stdout.splitlines()
    assert "not reached" not in done.stdout.splitlines()


def test_ci_gives_the_command_no_standard_input(checkout, tmp_path):
    script = checkout(README.format(command="cat && echo end of input"))
    done = run_ci(script, cwd=tmp_path, typed="typed")
    assert done.stdout.splitlines()[1:] == ["end of input"]


def test_ci_says_what_is_wrong_when_the_readme_has_no_test_command(checkout, tmp_path):
    script = checkout("# A README without a marker\n")
    done = run_ci(script, cwd=tmp_path)
    assert done.returncode == 2
    assert "<!-- test-command -->" in done.stderr
