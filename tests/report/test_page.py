"""The page as a browser sees it: charts drawn, nothing fetched, text that reads in light and in dark."""

import re
import shutil
import subprocess

import pytest
import tiny_report

from limbeck.report import render

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--virtual-time-budget=10000")  # fmt: skip
# Told by the page itself, once its charts are drawn.
ASK = """<script>
const told = { wide: document.documentElement.scrollWidth <= window.innerWidth,
  ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor,
  chart: getComputedStyle(document.querySelector("#chart-0 .xtick text")).fill,
  line: getComputedStyle(document.querySelectorAll(".js-line")[1]).stroke };
document.body.insertAdjacentHTML("beforeend", "<pre id=told></pre>");
document.getElementById("told").textContent = JSON.stringify(told);
</script></body>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")


def seen(tmp_path, *flags):
    """The document after its scripts ran, and what the browser complained of."""
    page = render.write(tiny_report.folder(tmp_path))
    page.write_text(page.read_text().replace("</body>", ASK))
    done = subprocess.run(
        [BROWSER, *FLAGS, *flags, "--enable-logging=stderr", f"--user-data-dir={tmp_path}/user",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def brightness(colour):
    red, green, blue = (int(value) for value in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("preferred", "dark"), [("1", False), ("0", True)])
def test_charts_are_drawn_and_text_stands_out(tmp_path, preferred, dark):
    dom, complaints = seen(tmp_path, f"--blink-settings=preferredColorScheme={preferred}")
    assert complaints == []
    charts = dom.count('class="chart')
    assert charts >= 6
    assert dom.count('class="main-svg"') >= charts
    told = {
        key: re.search(rf'"{key}":"([^"]*)"', dom).group(1)
        for key in ("ink", "paper", "chart", "line")
    }
    assert (brightness(told["paper"]) < 128) == dark
    for ink in ("ink", "chart"):
        assert abs(brightness(told[ink]) - brightness(told["paper"])) > 125, told
    assert abs(brightness(told["line"]) - brightness(told["paper"])) > 100, told


def test_a_phone_needs_no_sideways_scrolling(tmp_path):
    dom, _ = seen(tmp_path, "--window-size=390,844")
    assert '"wide":true' in dom
