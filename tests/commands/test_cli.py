"""Help worth reading, plain text in pipes, one line for what a user can put right."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.command import run_command, run_process
from tests.support.process import PATIENCE_S, clean_environment
from trio_bridge import __version__

FULL_DISK = Path("/dev/full")
COMMANDS = ("check", "status", "tail", "flush", "export", "demo")


def on_terminal(home: Path, *arguments: str, **settings: object) -> str:
    """What a person sees on a terminal of 80 columns."""
    main, other = pty.openpty()
    environment = clean_environment(home, COLUMNS=80, TERM="xterm-256color", **settings)
    environment.pop("NO_COLOR", None)
    environment |= {name: str(value) for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "trio_bridge", *arguments],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=other,
        stderr=other,
    ):
        os.close(other)
        seen = b""
        try:
            while piece := os.read(main, 65536):
                seen += piece
        except OSError:  # how a terminal says that its last user has gone
            pass
    os.close(main)
    return seen.decode()


async def test_the_version(tmp_path: Path) -> None:
    done = await run_process(tmp_path, "--version")
    assert (done.code, done.out) == (0, f"trio_bridge {__version__}\n")


@pytest.mark.parametrize("command", ["", *COMMANDS])
async def test_help_is_plain_in_a_pipe_and_fits(tmp_path: Path, command: str) -> None:
    done = await run_command(tmp_path, *command.split(), "--help")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert done.out.isascii()
    assert "…" not in done.out
    assert "..." not in done.out.replace("[ARGS]...", "")
    if not command:
        assert all(f"\n  {name} " in done.out for name in COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(tmp_path: Path, command: str) -> None:
    seen = on_terminal(tmp_path, *command.split(), "--help")
    assert "\x1b" in seen
    lines = [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", seen).splitlines()]
    assert max(map(len, lines)) <= 80
    for line, next_line in pairwise(lines):
        if line.startswith(" ") and next_line.strip() and not next_line.startswith("╭"):
            assert len(line) + 1 + len(next_line.split()[0]) > 79, "a line ends too early"


def test_help_without_colours_is_plain_in_a_terminal_too(tmp_path: Path) -> None:
    assert "\x1b" not in on_terminal(tmp_path, "--help", NO_COLOR=1)


def test_a_terminal_gets_colours_and_no_line_beyond_it(tmp_path: Path) -> None:
    seen = on_terminal(tmp_path, "check", IB_SOCKET_PORT=1)
    assert "\x1b[1;31mFAIL" in seen
    plain = on_terminal(tmp_path, "check", IB_SOCKET_PORT=1, NO_COLOR=1)
    assert "\x1b[1;31m" not in plain
    assert max(len(line) for line in plain.splitlines() if "\x1b" not in line) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_for_the_shells(tmp_path: Path, shell: str) -> None:
    done = await run_command(
        tmp_path, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1
    )
    assert done.code == 0, done
    assert "_COMPLETE" in done.out


async def test_bash_completes_a_command(tmp_path: Path) -> None:
    """With what `python -m trio_bridge --show-completion` gives: what is installed is the same."""
    script = Path(sys.executable).with_name("trio-bridge")
    bash = shutil.which("bash")
    if bash is None or not script.exists():
        pytest.skip("the package is not installed as a script here, or there is no bash")
    shown = await run_process(
        tmp_path,
        *("--show-completion", "bash"),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1,
    )
    environment = clean_environment(tmp_path)
    environment["PATH"] = f"{script.parent}:{environment['PATH']}"
    press_tab = """
        function=$(complete -p trio-bridge | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        COMP_WORDS=(trio-bridge st) COMP_CWORD=1
        $function trio-bridge
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        [bash, "-ec", shown.out + press_tab],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("status\n", "")


@pytest.mark.parametrize("command", ["", "status", "tail", "flush", "export"])
async def test_a_bad_setting_is_one_line_and_code_2(tmp_path: Path, command: str) -> None:
    done = await run_command(tmp_path, *command.split(), IB_API_MODE="carrier pigeon")
    assert done.code == 2
    assert done.err == "trio_bridge: IB_API_MODE=carrier pigeon: must be SOCKET or PORTAL\n"


@pytest.mark.parametrize("command", ["status", "check", "tail", "export"])
async def test_a_directory_that_cannot_be_looked_into_is_one_line(
    tmp_path: Path, command: str
) -> None:
    """It is another user's, say, or no directory at all."""
    (tmp_path / "embedded").touch()
    done = await run_command(tmp_path, command, IB_SOCKET_PORT=1)
    assert done.code in {1, 2}
    assert f"BRIDGE_EMBEDDED_DIR={tmp_path}/embedded cannot be used" in "".join(
        (done.out + done.err).split("\n")
    )
    assert "Traceback" not in done.err


async def test_what_may_pass_by_itself_is_code_1(tmp_path: Path) -> None:
    """systemd tries again then: a network may be up in a minute."""
    done = await run_command(
        tmp_path,
        BRIDGE_STATUS_HOST="192.0.2.1",
        BRIDGE_STATUS_PORT=8650,
        BRIDGE_STATUS_TOKEN="sesame-sesame-sesame",
    )
    assert done.code == 1
    assert done.err.startswith("trio_bridge: BRIDGE_STATUS_HOST=192.0.2.1: not an address of this")


@pytest.mark.parametrize("arguments", [["fly"], ["tail", "--lines", "many"], ["status", "--x"]])
async def test_a_bad_option_is_code_2(tmp_path: Path, arguments: list[str]) -> None:
    done = await run_command(tmp_path, *arguments)
    assert done.code == 2
    assert "Error" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [["status"], ["demo", "--seconds", "0.1"]])
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:  # noqa: PTH123  # a descriptor
        done = subprocess.run(
            [sys.executable, "-m", "trio_bridge", *command],
            cwd=tmp_path,
            env=clean_environment(tmp_path, DATABASE_URL="postgresql://127.0.0.1:1/d"),
            stdin=subprocess.DEVNULL,
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("journal", "mark"), [(True, "<3>"), (False, "")])
def test_the_journal_is_told_that_what_ends_the_service_is_grave(
    tmp_path: Path, journal: bool, mark: str
) -> None:
    with (tmp_path / "said").open("w+") as stream:
        status = os.fstat(stream.fileno())
        done = subprocess.run(
            [sys.executable, "-m", "trio_bridge"],
            cwd=tmp_path,
            env=clean_environment(
                tmp_path,
                IB_CLIENT_ID=0,
                JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino + (not journal)}",
            ),
            stdin=subprocess.DEVNULL,
            stderr=stream,
            check=False,
        )
        stream.seek(0)
        (line,) = stream.readlines()
    assert done.returncode == 2
    assert line.startswith(f"{mark}trio_bridge: IB_CLIENT_ID=0: ")


def test_ctrl_c_while_the_libraries_are_loaded_is_no_traceback(tmp_path: Path) -> None:
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    (tmp_path / "typer.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "trio_bridge", "status"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, PYTHONPATH=path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (-signal.SIGINT, "")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="Linux has such a device")
def test_output_onto_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with FULL_DISK.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trio_bridge", "status"],
            cwd=tmp_path,
            env=clean_environment(tmp_path, DATABASE_URL="postgresql://127.0.0.1:1/d"),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "trio_bridge: standard output: its disk is full\n"
    assert done.returncode == 1
