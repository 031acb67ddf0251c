"""A real Chromium."""

import json
import os
import shutil

import pytest

from tests.sweep_agents import wait_until

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OF_CHROMIUM = ("chrome://", "chrome-untrusted://")


def program(*names):
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"{names[0]} is not installed"
        if os.environ.get("REQUIRE_CHROMIUM"):
            pytest.fail(reason + ", and REQUIRE_CHROMIUM is set")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program("chromedriver")))
    yield Browser(driver)
    driver.quit()


class Browser:
    """One window."""

    def __init__(self, driver):
        self.driver = driver
        self.is_changed = False

    def open(self, page, width=1280, chosen=""):
        """Open a file or an address, and what is chosen there behind #."""
        self.is_changed = width != 1280
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        if chosen:  # else a page that is open already would stay
            self.driver.get("about:blank")
        self.driver.get((page if isinstance(page, str) else page.as_uri()) + chosen)
        wait_until(lambda: self.run("document.documentElement.dataset.ready") == "true", "the page is drawn")

    def run(self, expression):
        """Value of a JavaScript expression."""
        return self.driver.execute_script(f"return {expression}")

    def click(self, selector, place=0):
        self.is_changed = True
        self.driver.execute_script(f"document.querySelectorAll({json.dumps(selector)})[{place}].click()")

    def type(self, selector, text):
        self.is_changed = True
        self.driver.find_element("css selector", selector).send_keys(text)

    def places(self, selector, *points):
        """Where points of a chart, each [x, y] by the values of the axes, lie in the window."""
        self.is_changed = True
        script = """
            const chart = document.querySelector(arguments[0]);
            chart.scrollIntoView({block: "center", behavior: "instant"});
            const {left, top} = chart.getBoundingClientRect(), {xaxis, yaxis} = chart._fullLayout;
            const place = ([x, y]) => [left + xaxis._offset + xaxis.d2p(x), top + yaxis._offset + yaxis.d2p(y)];
            return arguments[1].map(place);
        """
        return self.driver.execute_script(script, selector, points)

    def draw_box(self, selector, *corners):
        """Drag a box in a chart, from one corner to another."""
        start, end = self.places(selector, *corners)
        for kind, (x, y), buttons in (
            ("mouseMoved", start, 0),
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def double_click(self, selector, point):
        """Click twice at a point of a chart, by the values of the axes."""
        [(x, y)] = self.places(selector, point)
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": count}
                self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.textContent)")

    def column(self, title):
        """Texts of a column of the leaderboard."""
        number = self.texts("#runs thead th").index(title)
        return self.texts(f"#runs tbody td:nth-child({number + 1})")

    def traces(self, selector):
        """Names of the traces that a chart draws."""
        return self.run(f"document.querySelector({json.dumps(selector)}).data.map((trace) => trace.name ?? '')")

    def drawn(self, selector):
        """Number of lines and groups of points that there really are in a chart."""
        return self.run(f"document.querySelectorAll({json.dumps(selector + ' .scatterlayer .trace')}).length")

    def requests(self):
        """Addresses that pages have asked for since the last call, and what the console said.

        Those of Chromium's own first tab, which may come at any time, are left out by the page that asks for them.
        """
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        own = [each["request"]["url"] for each in sent if not each["documentURL"].startswith(OF_CHROMIUM)]
        return own, [entry["message"] for entry in self.driver.get_log("browser")]
