"""A real Chromium, without a window, driven from Trio."""

from __future__ import annotations

import base64
import json
import os
import shutil
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trio
from axe_core_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Scheme = Literal["light", "dark"]

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
"""Screenshots, to be looked at; not part of the repository."""

PATIENCE_S = 60.0
SHORTEST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.25
MISSING = "no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)"


def find(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


CHROMIUM = find("chromium", "chromium-browser", "google-chrome")
DRIVER = find("chromedriver", "chromium.chromedriver")


class Browser:
    """One window. What blocks runs in a thread."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        # A mouse, as on a desk: without a screen Chromium thinks that there is none.
        pointer = "primaryPointerType=4,availablePointerTypes=4,primaryHoverType=2"
        arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += ["--hide-scrollbars", "--force-color-profile=srgb"]
        arguments += [f"--blink-settings={pointer}", "--no-first-run", "--disable-extensions"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # it refuses to run as root otherwise
        for argument in arguments:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self._driver.set_page_load_timeout(PATIENCE_S)
        self._driver.set_script_timeout(PATIENCE_S)

    def quit(self) -> None:
        self._driver.quit()

    async def _run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await trio.to_thread.run_sync(partial(function, *arguments, **named))

    async def command(self, name: str, **parameters: Any) -> Any:
        """One of the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/"""
        return await self._run(self._driver.execute_cdp_cmd, name, parameters)

    async def reset(
        self,
        width: int = 1440,
        height: int = 900,
        *,
        scheme: Scheme = "light",
        phone: bool = False,
    ) -> None:
        """An empty window of this size, without memory of what it showed before."""
        await self._run(self._driver.get, "about:blank")
        await self._run(self._driver.delete_all_cookies)
        await self.complaints()
        await self.become(width, height, scheme=scheme, phone=phone)

    async def become(
        self,
        width: int = 1440,
        height: int = 900,
        *,
        scheme: Scheme = "light",
        phone: bool = False,
    ) -> None:
        """Another window with the same page: turned, made smaller, changed to dark."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        await self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        await self.settled()

    async def settled(self) -> None:
        """Until what has changed is drawn: two frames."""
        await self._run(
            self._driver.execute_async_script,
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))",
        )

    async def open(self, url: str) -> None:
        """Go there; `drawn` waits for the charts."""
        await self._run(self._driver.get, url)

    @asynccontextmanager
    async def before_each_page(self, script: str) -> AsyncIterator[None]:
        """Run JavaScript on every page that is opened meanwhile, before its own."""
        added = await self.command("Page.addScriptToEvaluateOnNewDocument", source=script)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self.command("Page.removeScriptToEvaluateOnNewDocument", **added)

    async def drawn(self) -> None:
        await self.until("return performance.getEntriesByName('trio-bridge-drawn').length > 0")

    async def do(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript; what it returns."""
        return await self._run(self._driver.execute_script, script, *arguments)

    async def import_and_do(self, module: str, script: str, *arguments: Any) -> Any:
        """Run JavaScript with one of the page's modules as `m`."""
        return await self._run(
            self._driver.execute_async_script,
            "const done = arguments[arguments.length - 1], a = arguments;"
            f"import('/static/{module}').then((m) => {{ {script} }})"
            ".then(done, (error) => done('failed: ' + error));",
            *arguments,
        )

    async def until(self, script: str, *arguments: Any) -> Any:
        """Wait until the script returns something true; return that."""
        found, pause_s = None, SHORTEST_PAUSE_S
        with trio.move_on_after(PATIENCE_S):
            while not (found := await self.do(script, *arguments)):
                await trio.sleep(pause_s)
                pause_s = min(1.3 * pause_s, LONGEST_PAUSE_S)
            return found
        raise AssertionError(f"never true: {script}\n{await self.text('body')}")

    async def text(self, selector: str) -> str:
        return str(await self.do("return document.querySelector(arguments[0]).innerText", selector))

    async def until_text(self, selector: str, part: str) -> str:
        return str(
            await self.until(
                "const t = document.querySelector(arguments[0]).innerText;"
                "return t.includes(arguments[1]) && t",
                selector,
                part,
            )
        )

    async def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        await self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowRight": 39}[key]
            await self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    async def complaints(self) -> list[str]:
        """What the console has said since the last time."""
        found = await self._run(self._driver.get_log, "browser")
        loud = [str(one["message"]) for one in found if one["level"] in ("SEVERE", "WARNING")]
        # About the tests' own looking at pixels.
        return [message for message in loud if "willReadFrequently" not in message]

    async def violations(self) -> list[str]:
        """What axe has to say against the page: https://github.com/dequelabs/axe-core"""
        await self.do(AXE_SCRIPT)
        answer = await self._run(
            self._driver.execute_async_script,
            "const done = arguments[0];"
            "axe.run().then((r) => done(JSON.stringify(r.violations)), (e) => done('' + e));",
        )
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']]}"
            for one in json.loads(answer)
        ]

    async def keep_screenshot(self, name: str) -> None:
        """As artifacts/NAME.png, the whole page."""
        ARTIFACTS.mkdir(exist_ok=True)
        shot = await self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        (ARTIFACTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
