"""`scripts/_venv` on a machine without a Python that fits: uv brings one, or one line says what to
do. What uv would download is packed from the Python that runs this."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.postgres import reachable_directory

PROJECT = Path(__file__).parent.parent
SCRIPTS = PROJECT / "scripts"
TOOLS = ("bash", "basename", "dirname", "sed", "tail", "mkdir", "ln", "cat")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
UV = Path(sys.executable).with_name("uv")
ELSEWHERE = [
    *Path("/usr/local/bin").glob("python3.1[1-4]"),
    *Path("/opt/homebrew/bin").glob("python3.1[1-4]"),
]

CHOOSE = """#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "$0")/_venv"
choose_python
echo "$python"
"""

PYTHON_THAT_DOES_NOT_FIT = f"""#!/bin/sh
case "$*" in
    "-m pip --version") ;;
    "-m pip install "*"--require-hashes --target "*"/.python/uv -r "*"/scripts/requirements/uv.txt")
        while [ "$1" != --target ]; do shift; done
        mkdir -p "$2/bin" && ln -s {UV} "$2/bin/uv" ;;
    *) exit 1 ;;
esac
"""

pytestmark = pytest.mark.skipif(bool(ELSEWHERE), reason=f"is found by its path: {ELSEWHERE}")


@dataclass
class Machine:
    """A clone and a PATH with next to nothing."""

    clone: Path
    path: Path
    environment: dict[str, str]

    def choose(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.clone / "scripts" / "choose"],
            env={"PATH": str(self.path), "HOME": str(self.path), **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def has(self, name: str, script: str) -> None:
        (self.path / name).write_text(script)
        (self.path / name).chmod(0o755)

    def has_uv(self) -> None:
        (self.path / "uv").symlink_to(UV)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    clone, path = tmp_path / "clone", tmp_path / "bin"
    path.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (path / tool).symlink_to(found)
    (clone / "scripts").mkdir(parents=True)
    shutil.copytree(SCRIPTS / "requirements", clone / "scripts" / "requirements")
    text = (SCRIPTS / "_venv").read_text("utf-8")
    assert text.count("\nfirst_choice=3.13\n") == 1
    text = text.replace("\nfirst_choice=3.13\n", f"\nfirst_choice={VERSION}\n")
    (clone / "scripts" / "_venv").write_text(text, "utf-8")
    choose = clone / "scripts" / "choose"
    choose.write_text(CHOOSE)
    choose.chmod(0o755)
    return Machine(clone, path, {})


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of builds as uv reads it, with one, in the shape of python-build-standalone."""
    home = tmp_path_factory.mktemp("builds")
    archive = home / "build.tar.gz"
    standard = Path(sysconfig.get_path("stdlib"))

    def needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        unneeded = ("test", "site-packages", "dist-packages", "__pycache__", "idlelib", "config-")
        return None if Path(entry.name).name.startswith(unneeded) else entry

    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
        program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
        tar.add(program, f"python/bin/python{VERSION}")
        tar.add(standard, f"python/lib/python{VERSION}", filter=needed)
    libc, _ = platform.libc_ver()
    system, machine = platform.system().lower(), platform.machine()
    build = {
        "name": "cpython",
        "arch": {"family": "aarch64" if machine == "arm64" else machine, "variant": None},
        "os": system,
        "libc": "none" if system == "darwin" else "gnu" if libc == "glibc" else "musl",
        "major": sys.version_info.major,
        "minor": sys.version_info.minor,
        "patch": sys.version_info.micro,
        "prerelease": "",
        "url": archive.as_uri(),
        "sha256": None,
        "variant": None,
        "build": "20260101",
    }
    listing = home / "builds.json"
    listing.write_text(json.dumps({"cpython": build}))
    return listing


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("no fitting")]
    assert line.startswith("choose: needs Python 3.11 to 3.14 with its venv module (on Debian: apt")
    return line.rpartition("none was found, and ")[2]


def test_uv_brings_a_python_where_there_is_none(machine: Machine, builds: Path) -> None:
    machine.has_uv()
    machine.environment["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(builds)
    brought = machine.choose()
    assert brought.stderr == "no fitting Python is here: uv downloads one into .python\n"
    python = Path(brought.stdout.strip())
    assert python.is_relative_to(machine.clone / ".python")
    question = "import sys; print(sys.base_prefix, *sys.version_info[:3])"
    prefix, *version = subprocess.check_output([python, "-c", question], text=True).split()
    assert Path(prefix).is_relative_to(machine.clone / ".python")
    assert version == [str(number) for number in sys.version_info[:3]]
    # It is there now, and nothing is downloaded again.
    machine.environment["UV_OFFLINE"] = "1"
    assert machine.choose().stdout == brought.stdout


def test_pip_of_another_python_brings_uv(machine: Machine, builds: Path) -> None:
    machine.has("python3", PYTHON_THAT_DOES_NOT_FIT)
    machine.environment["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(builds)
    brought = machine.choose()
    assert brought.stderr.splitlines() == [
        "no fitting Python is here: installing uv into .python, to get one",
        "no fitting Python is here: uv downloads one into .python",
    ]
    assert Path(brought.stdout.strip()).is_relative_to(machine.clone / ".python")


def test_without_uv_and_pip_one_line_says_what_to_do(machine: Machine) -> None:
    assert one_line(machine.choose()) == "there is neither uv nor a pip that could install it"


def test_a_pip_that_fails_is_one_line(machine: Machine) -> None:
    machine.has(
        "python3",
        '#!/bin/sh\n[ "$*" = "-m pip --version" ] && exit\n'
        '[ "$1" = -m ] && echo "a lot" && echo "no index here"\nexit 1\n',
    )
    assert one_line(machine.choose()) == "pip could not install uv: no index here"


def test_a_download_that_fails_is_one_line(machine: Machine, builds: Path, tmp_path: Path) -> None:
    listing = tmp_path / "builds.json"
    listing.write_text(builds.read_text().replace("build.tar.gz", "nowhere.tar.gz"))
    machine.has_uv()
    machine.environment["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(listing)
    assert one_line(machine.choose()).startswith("uv could not get one: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="a user's own Python is good for that user")
@pytest.mark.parametrize("purpose", ["run", "test"])
def test_root_sets_up_the_service_with_a_python_that_every_user_can_read(
    machine: Machine, builds: Path, tmp_path: Path, purpose: str
) -> None:
    """It will run as another user. The first on the PATH is root's own."""
    shared = reachable_directory("trio_bridge-python-")
    try:
        for home, path in ((tmp_path / "own", machine.path), (shared, tmp_path / "bin2")):
            home.mkdir(exist_ok=True)
            archive = builds.with_name("build.tar.gz")
            subprocess.run(["tar", "-xzf", archive, "-C", home], check=True)
            path.mkdir(exist_ok=True)
            (path / f"python{VERSION}").symlink_to(home / "python" / "bin" / f"python{VERSION}")
        machine.environment["set"] = purpose
        own = f"{machine.path}/python{VERSION}\n"
        assert machine.choose().stdout == own
        machine.environment["PATH"] = f"{machine.path}:{tmp_path / 'bin2'}"
        everybodys = f"{tmp_path}/bin2/python{VERSION}\n"
        assert machine.choose().stdout == (everybodys if purpose == "run" else own)
    finally:
        shutil.rmtree(shared, ignore_errors=True)
