"""A headless Chromium, driven over its debugging pipe: no driver and no package is needed."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page of a browser; a context."""

    def __init__(self, folder: Path, *flags: str) -> None:
        ours, theirs = os.pipe(), os.pipe()  # commands, answers
        self.write, self.read = ours[1], os.fdopen(theirs[0], "rb")
        self.number, self.events = 0, list[dict[str, Any]]()
        line = [
            *(str(PROGRAM), "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run"),
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            *("--disable-dev-shm-usage", "--window-size=1200,1000", *flags, "about:blank"),
        ]

        def pipes() -> None:  # where the browser looks for them; a copy has no close-on-exec
            read, write = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            line,
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.call(f"{domain}.enable")

    session = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.read.close()
        os.close(self.write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def _message(self) -> dict[str, Any]:
        text = bytearray()
        while (letter := self.read.read(1)) != b"\0":
            assert letter, "the browser has ended"
            text += letter
        return json.loads(text)

    def open(self, address: str) -> None:
        """Go to a page; what it holds is awaited by `wait`."""
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page, awaited."""
        answer = self.call(
            *("Runtime.evaluate",), expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{script}\n{self.run('document.body.innerText')}\n{self.problems()}")

    def give(self, selector: str, file: Path) -> None:
        """Put a file into a file input, as a person does in the dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def problems(self) -> list[str]:
        """What the browser's console complained about: errors, and what the policy stopped."""
        said = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(str(event["params"]["exceptionDetails"]))
            entry = event.get("params", {}).get("entry", {})
            if event.get("method") == "Log.entryAdded" and entry["level"] == "error":
                said.append(str(entry["text"]))
        return said

    def requested(self) -> set[str]:
        """Addresses of everything that the page has fetched."""
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        }

    def screenshot(self, file: Path, dark: bool = False) -> None:
        """The whole page as a PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
