"""The page in a real browser: a headless Chromium, spoken to through a pipe in its own DevTools protocol."""

import base64
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cal_bench import cli
from tests import tasks_rows
from tests.test_compare import result
from tests.test_page import BAD, chartqa, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine: apt-get install chromium")
PHONE, DESK = (390, 844), (1280, 900)


class Browser:
    """One tab of a headless Chromium; `problems` is what its console said."""

    def __init__(self, folder: Path) -> None:
        given, reads = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in os.pipe())
        writes, taken = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in os.pipe())
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        quiet = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        pipes = [(os.POSIX_SPAWN_DUP2, given, 3), (os.POSIX_SPAWN_DUP2, taken, 4)]
        assert CHROMIUM is not None
        self.process = os.posix_spawn(CHROMIUM, [CHROMIUM, *flags], os.environ, file_actions=[*quiet, *pipes], setpgroup=0)
        self.input, self.output, self._read = os.fdopen(reads, "wb", buffering=0), writes, b""
        os.close(given)
        os.close(taken)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._number = 0
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        self.input.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            content = os.read(self.output, 1 << 20)
            assert content, "Chromium is gone"
            self._read += content
        first, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.problems.append(json.dumps(told))

    def open(self, page: Path) -> None:
        """Load a file and wait until everything in it is there."""
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._next()

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def dark(self, wanted: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def busy(self) -> float:
        """Seconds that the page has spent on the processor: waiting on a busy machine is none of its doing."""
        metrics = {one["name"]: one["value"] for one in self.call("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def shoot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.input.close()
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.output)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


CARDS = "document.querySelectorAll('article').length"
PLACE = "document.getElementById('place').textContent"


def count(kind: str) -> str:
    """The number on the button of a kind."""
    return f"document.querySelector('[data-kind=\"{kind}\"]').textContent"


def click(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).click()"


def type_in(words: str) -> str:
    search = "document.getElementById('search')"
    return f"{search}.value = {json.dumps(words)}; {search}.dispatchEvent(new Event('input'))"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two benchmarks: of 12 samples of ChartQA 6 are fixed and 6 broken, of 40 of DocVQA, without data, 30 and 10."""
    folder = tmp_path_factory.mktemp("report")
    tasks_rows.write(folder, "chartqa")
    scores = {"one": ([0.0, 1.0] * 6, [0.0] * 30 + [1.0] * 10), "two": ([1.0, 0.0] * 6, [1.0] * 30 + [0.0] * 10)}
    for name, (chart, doc) in scores.items():
        texts = {5: BAD, 7: f"the needle of {name}"}
        write_run(folder / name, [chartqa(chart, folder), result("docvqa", doc)], texts, "..")
    assert cli.main(["page", str(folder / "one"), str(folder / "two"), "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture
def opened(browser: Browser, report: Path) -> Browser:
    browser.size(*DESK)
    browser.dark(False)
    browser.open(report)
    return browser


def test_filters_by_kind_and_benchmark_and_search(opened: Browser) -> None:
    assert (opened.run(CARDS), opened.run(PLACE)) == (20, "1–20 of 52")
    assert [opened.run(count(kind)) for kind in ("changed", "fixed", "broken", "both wrong")] == [
        *("changed 52", "fixed 36", "broken 16"),
        "both wrong 0",
    ]
    opened.run(click("[data-kind=broken]"))
    assert (opened.run(CARDS), opened.run("document.querySelectorAll('article.broken').length")) == (16, 16)
    opened.run(click("a[data-benchmark=chartqa]"))
    assert (opened.run(CARDS), opened.run("document.getElementById('benchmark').value")) == (6, "chartqa")
    opened.run(click("[data-kind='both wrong']"))
    assert opened.run("document.getElementById('list').textContent") == "No sample fits."
    opened.run(click("[data-kind=changed]") + ";" + type_in("NEEDLE of two"))
    assert (opened.run(CARDS), opened.run("document.querySelector('article .title').textContent")) == (1, "broken · chartqa · sample 7")


def test_the_keyboard_walks_through_samples_and_pages(opened: Browser) -> None:
    focused = "[...document.querySelectorAll('article')].indexOf(document.activeElement)"
    assert opened.run(focused) == -1
    for key, place in (("j", 0), ("j", 1), ("k", 0)):
        opened.press(key)
        assert opened.run(focused) == place
    opened.press("ArrowRight")
    assert opened.run(PLACE) == "21–40 of 52"
    opened.press("j")
    opened.press("k")
    assert (opened.run(PLACE), opened.run(focused)) == ("1–20 of 52", 19)
    opened.press("j")
    assert (opened.run(PLACE), opened.run(focused)) == ("21–40 of 52", 0)
    opened.press("/")
    assert opened.run("document.activeElement.id") == "search"
    opened.press("j")
    assert opened.run("document.activeElement.value") == "j"
    opened.press("Escape")
    assert opened.run("document.activeElement === document.body")


def test_pictures_are_shown_and_nothing_else_is_asked_for(opened: Browser) -> None:
    opened.run(click("a[data-benchmark=chartqa]"))
    assert opened.run("Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)") == 12
    assert opened.run("document.images[0].naturalWidth") == tasks_rows.SIZE[0]
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data"}


def test_text_from_a_model_is_shown_as_text(opened: Browser) -> None:
    opened.run(type_in("window.broken"))
    assert opened.run("document.querySelector('article dd .text').textContent") == BAD
    assert opened.run("typeof window.broken") == "undefined"


def test_a_phone_shows_it_without_scrolling_sideways(opened: Browser, report: Path) -> None:
    opened.size(*PHONE)
    opened.open(report)
    assert opened.run("document.documentElement.scrollWidth") == PHONE[0]
    assert opened.run("getComputedStyle(document.querySelector('article')).gridTemplateColumns.split(' ').length") == 1


def test_dark_and_light_follow_the_reader(opened: Browser) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].join()"
    light = opened.run(colours)
    opened.dark(True)
    assert opened.run(colours) == "rgb(20, 22, 26),rgb(228, 230, 234)"
    assert light == "rgb(251, 251, 249),rgb(29, 32, 37)"


def test_tables_need_no_script(opened: Browser, report: Path) -> None:
    opened.call("Emulation.setScriptExecutionDisabled", value=True)
    opened.open(report)
    opened.call("Emulation.setScriptExecutionDisabled", value=False)
    assert opened.run("document.querySelector('#summary table').offsetHeight") > 50
    assert opened.run("document.querySelector('noscript').offsetHeight") > 10
    assert opened.run("document.getElementById('controls').offsetHeight") == 0


def test_ten_thousand_changes_stay_quick(opened: Browser, tmp_path: Path) -> None:
    names = ("docvqa", "textvqa", "chartqa", "mmt", "seed_img")
    for place, side in enumerate(("a", "b")):
        results = [result(name, [float(number % 2 == place) for number in range(2000)]) for name in names]
        write_run(tmp_path / side, results, {number: f"what {side} says about {number}, at some length" for number in range(2000)})
    assert cli.main(["page", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "page.html")]) == 0
    opened.open(tmp_path / "page.html")
    assert (opened.run(PLACE), opened.run(CARDS)) == ("1–20 of 10000", 20)
    begun = opened.busy()
    opened.run("; ".join([*map(type_in, ("1999", "b says", "")), click("[data-kind=fixed]")]))
    assert opened.run(PLACE) == "1–20 of 5000"
    assert opened.busy() - begun < 1


def test_the_console_stays_empty(opened: Browser) -> None:
    assert opened.problems == []
