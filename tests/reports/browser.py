"""Headless Chromium, spoken to through a pipe: no driver, no port, no package."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
import warnings

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 120  # seconds after which the browser hangs for certain


def program():
    """Where Chromium is, or None."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One tab; console messages, errors and requests are kept as they come."""

    def __init__(self, process, out, into):
        self.process, self.out, self.into = process, out, into
        self.number, self.buffer, self.session = 0, b"", None
        self.messages, self.requests = [], []

    def call(self, method, **params):
        """A command of the DevTools protocol -> its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        while True:
            found = self.receive()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]

    def receive(self):
        """The next message; events are noted on the way."""
        while b"\0" not in self.buffer:
            assert select.select([self.out], [], [], PATIENCE)[0], "the browser says nothing"
            part = os.read(self.out, 1 << 20)
            assert part, "the browser is gone"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        found = json.loads(text)
        method, params = found.get("method", ""), found.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.messages.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(params["args"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return found

    def open(self, file, width=1440, dark=False):
        """Load a file at a viewport width, in light or dark mode."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.as_uri())
        ends = time.monotonic() + PATIENCE
        while self.run("document.readyState + location.href") != f"complete{file.as_uri()}":
            assert time.monotonic() < ends, "the page does not load"
            time.sleep(0.05)

    def run(self, script):
        """The value of an expression, awaited; by CDP, so the page's policy does not stop it."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, file):
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser(folder):
    """A browser with a new profile in `folder`."""
    to_child, into = os.pipe()
    out, from_child = os.pipe()

    def ends():  # Chromium reads commands from 3 and answers on 4
        reading, writing = os.dup(to_child), os.dup(from_child)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    with warnings.catch_warnings():
        # jax, begun by an earlier test, warns of every fork; this child is another program at once
        warnings.filterwarnings("ignore", "os.fork.* was called", RuntimeWarning)
        process = subprocess.Popen(
            [program(), *QUIET, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=ends, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    os.close(to_child)
    os.close(from_child)
    try:
        found = Browser(process, out, into)
        targets = found.call("Target.getTargets")["targetInfos"]
        target = next(t for t in targets if t["type"] == "page")["targetId"]
        session = found.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        found.session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            found.call(f"{domain}.enable")
        yield found
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(out)
        os.close(into)
