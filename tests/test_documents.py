"""README and .env.example name every setting with its default, CONTRIBUTING every dependency."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from trio_bridge.config import ENVIRONMENT_NAMES, load_settings

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "trio_bridge"
README = (PROJECT / "README.md").read_text("utf-8")
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
EXAMPLE = (PROJECT / ".env.example").read_text("utf-8")


def section(title: str, document: str = README) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", document, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def rows(table: str) -> dict[str, str]:
    """Variable → default of each row; a row may hold several of both."""
    found: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", table, re.MULTILINE):
        values = [value.strip("` ") for value in re.split(r"(?<=`), |, (?=none)", defaults)]
        keys = re.findall(r"[A-Z_]{4,}", names)
        found |= dict(zip(keys, values, strict=len(keys) > 1))
    return found


@pytest.fixture
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ENVIRONMENT_NAMES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_is_every_setting_with_its_default(nothing_set: Path) -> None:
    defaults = load_settings().model_dump()
    (nothing_set / ".env").write_text(EXAMPLE, "utf-8")
    assert load_settings().model_dump() == defaults
    named = re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE)
    assert set(named) == set(ENVIRONMENT_NAMES.values())


def test_what_readme_gives_as_defaults_are_the_defaults(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = rows(section("Settings"))
    assert sorted(told) == sorted(ENVIRONMENT_NAMES.values())
    defaults: dict[str, Any] = load_settings().model_dump()
    for name, value in told.items():
        if value not in ("none", "empty") and not name.startswith("DB_"):
            monkeypatch.setenv(name, value)
    changed = load_settings().model_dump()
    changed["embedded_dir"] = None  # it depends on who asks
    assert changed == defaults


def test_every_dependency_has_its_reason_and_licence() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = {re.split(r"[\[>=;<]", one)[0].strip() for one in wanted}
    told = section("Dependencies", CONTRIBUTING)
    assert {name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", told)} == set()


def test_every_part_of_the_package_has_its_place() -> None:
    found = (PROJECT / "trio_bridge").iterdir()
    parts = {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()}
    names = {*re.findall(r"[a-z_]+", section("Where things live", CONTRIBUTING))}
    assert {part for part in parts if not part.startswith("__")} <= names


def test_every_command_of_the_command_line_is_shown() -> None:
    from trio_bridge.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert {name for name in names if f"./scripts/run {name}" not in README} == set()


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(name: str) -> None:
    text = (PROJECT / name).read_text("utf-8")
    named = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", text))
    missing = {
        one for one in named if not any((root / one).exists() for root in (PROJECT, PACKAGE))
    }
    assert named
    assert missing == set()
