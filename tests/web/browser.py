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

LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"scheme": "dark"},
    "phone-light": {"width": 390, "height": 844, "phone": True},
    "phone-dark": {"width": 390, "height": 844, "phone": True, "scheme": "dark"},
    # Last: Chromium keeps the forced colour behind the page.
    "forced-light": {"forced": True},
    "forced-dark": {"forced": True, "scheme": "dark"},
}
"""For `become`: what the page must look well in."""

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
        await self.do("try { localStorage.clear() } catch { /* about:blank has none */ }")
        await self._run(self._driver.get, "about:blank")
        await self._run(self._driver.delete_all_cookies)
        await self.live_in("")
        await self.complaints()
        await self.become(width, height, scheme=scheme, phone=phone)

    async def become(
        self,
        width: int = 1440,
        height: int = 900,
        *,
        scheme: Scheme = "light",
        phone: bool = False,
        forced: bool = False,
    ) -> None:
        """Another window with the same page: turned, made smaller, changed to dark, or to the
        reader's own colours (`forced`), as in Windows' high contrast."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        await self.command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "forced-colors", "value": "active" if forced else "none"},
            ],
        )
        await self.settled()

    async def live_in(self, zone: str) -> None:
        """Give the machine a time zone; empty: its own."""
        await self.command("Emulation.setTimezoneOverride", timezoneId=zone)

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

    async def choose(self, selector: str, value: str) -> None:
        """Take one of a list's choices."""
        await self.do(
            "const list = document.querySelector(arguments[0]); list.value = arguments[1];"
            "list.dispatchEvent(new Event('change', { bubbles: true }))",
            selector,
            value,
        )

    async def import_and_do(self, module: str, script: str, *arguments: Any) -> Any:
        """Run JavaScript with one of the page's modules as `m`."""
        return await self._run(
            self._driver.execute_async_script,
            "const done = arguments[arguments.length - 1], a = arguments;"
            f"import('/static/{module}').then(async (m) => {{ {script} }})"
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

    async def colours(self, x: float, y: float, width: float, height: float) -> set[str]:
        """Those that fill at least a fifth of a part of the window, as it is shown."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        shot = await self.command("Page.captureScreenshot", format="png", clip=clip)
        found = await self._run(
            self._driver.execute_async_script,
            """
            const [picture, done] = arguments;
            const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
            createImageBitmap(new Blob([bytes])).then((image) => {
              const canvas = document.createElement('canvas');
              [canvas.width, canvas.height] = [image.width, image.height];
              const pen = canvas.getContext('2d');
              pen.drawImage(image, 0, 0);
              const { data } = pen.getImageData(0, 0, image.width, image.height);
              const counts = {};
              for (let i = 0; i < data.length; i += 4) {
                const key = data.slice(i, i + 3).join();
                counts[key] = (counts[key] ?? 0) + 1;
              }
              const least = image.width * image.height / 5;
              done(Object.keys(counts).filter((colour) => counts[colour] >= least));
            });
            """,
            shot["data"],
        )
        return set(found)

    async def look_well(self, name: str) -> None:
        """In each of `LOOKS` everybody can read the page, and it fits the window's width; keeps
        screenshots."""
        for look_name, look in LOOKS.items():
            await self.become(**look)
            assert await self.violations() == [], (name, look_name)
            width, room = await self.do("return [document.documentElement.scrollWidth, innerWidth]")
            assert width <= room, (name, look_name)
            await self.keep_screenshot(f"page-{look_name}-{name}")

    async def keep_screenshot(self, name: str) -> None:
        """As artifacts/NAME.png, the whole page."""
        ARTIFACTS.mkdir(exist_ok=True)
        shot = await self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        (ARTIFACTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
