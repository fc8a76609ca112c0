"""A headless Chromium that says what a page did: console, requests, sizes. Spoken to through two pipes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"

_LIMIT_S = 60.0


def find_browser() -> str | None:
    """The command of a Chromium, where one is installed."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


class Page:
    """A page in a headless browser.

    Attributes:
        events: Everything that the browser said, in order.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._held, self._n, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer."""
        self._n += 1
        asked: dict[str, Any] = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while (answer := self._read()).get("id") != self._n:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        until_s = time.monotonic() + _LIMIT_S
        while b"\0" not in self._held:
            if not select.select([self._from], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {_LIMIT_S:g} s")
            read = os.read(self._from, 1 << 16)
            if not read:
                raise RuntimeError("the browser ended")
            self._held += read
        message, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(message))

    def open(
        self,
        page: Path | str,
        *,
        width_px: int = 1200,
        is_dark: bool = False,
        is_calm: bool = False,
        media: str = "screen",
    ) -> None:
        """Show a file or an address and wait until it is loaded; `is_calm`: who looks wants little motion."""
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=900,
            deviceScaleFactor=1,
            mobile=width_px < 700,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if is_calm else "no-preference"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme, motion])
        del self.events[:]
        self.ask("Page.navigate", url=url)
        until_s = time.monotonic() + _LIMIT_S
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            if time.monotonic() > until_s:
                raise TimeoutError(f"{url} was not loaded within {_LIMIT_S:g} s")
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript, waited for where it is a promise."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str, limit_s: float = 10.0) -> float:
        """Wait until some JavaScript is true; how long it took, in seconds."""
        begin_s = time.monotonic()
        frames = f"(async () => {{ for (let i = 0; i < 6; i++) {{ if ({expression}) return true;"
        frames += " await new Promise((done) => setTimeout(done, 16)); } return false; })()"
        while not self._is_so(frames):
            if time.monotonic() > begin_s + limit_s:
                raise TimeoutError(f"not so within {limit_s:g} s: {expression}")
        return time.monotonic() - begin_s

    def _is_so(self, expression: str) -> bool:
        try:
            return bool(self.evaluate(expression))
        except RuntimeError as error:
            if "navigated" not in str(error):
                raise
            return False  # the page is being loaded again

    def press(self, key: str, text: str = "") -> None:
        """Press a key and let it go, e.g. "Tab"; "Enter" types a carriage return."""
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, 0)
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def complaints(self) -> list[str]:
        """What the console shows as an error or a warning."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] != "info":
                found.append(str(parameters["entry"]["text"]))
            if event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(parameters["args"]))
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for, `data:` ones left out."""
        urls = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        made = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(made["data"]))


@contextlib.contextmanager
def browse(profile: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own, and end it."""
    command = find_browser()
    if command is None:
        raise RuntimeError(f"needs the system package {PACKAGE}")
    (child_in, to_browser), (from_browser, child_out) = os.pipe(), os.pipe()

    def lay_pipes() -> None:
        # The browser reads from 3 and writes to 4; neither may be overwritten before it is copied.
        low, high = os.dup(child_in), os.dup(child_out)
        while min(low, high) < 5:
            low, high = os.dup(low), os.dup(high)
        os.dup2(low, 3)
        os.dup2(high, 4)

    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    arguments += ["--remote-debugging-pipe", "--disable-background-networking", "--no-first-run"]
    browser = subprocess.Popen(
        [command, *arguments, f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4),
        preexec_fn=lay_pipes,
    )
    os.close(child_in)
    os.close(child_out)
    try:
        yield Page(to_browser, from_browser)
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
        os.close(to_browser)
        os.close(from_browser)
