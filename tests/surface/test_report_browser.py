"""The report in a real browser: what it shows, how it fits a phone, and that nothing in it runs.

Needs a Chromium on PATH. Without one they are skipped, or fail under VESTIGE_REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from report_data import make_manifest, make_results
from vestige.core.results import Results
from vestige.report import render

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
# Reports the layout of a framed test copy of the page to the frame's parent.
PROBE = """<script>addEventListener("load", () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (selector) => all(selector).filter((e) => e.getClientRects().length).length;
  const blocks = all("h1, h2, p, dl, svg.chart, figcaption, .scroll, .sample");
  const heat = document.querySelector(".heat").parentElement;
  parent.postMessage(JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth,
    right: Math.ceil(Math.max(...blocks.map((e) => e.getBoundingClientRect().right))),
    wide: shown(".wide"), narrow: shown(".narrow"), heat: [heat.clientWidth, heat.scrollWidth],
    paper: getComputedStyle(document.body).backgroundColor,
  }), "*");
});</script></body>"""
FRAME = """<!DOCTYPE html><body style="margin:0"><script>
addEventListener("message", (e) => { document.body.setAttribute("data-seen", e.data); });
</script><iframe src="page.html" style="width:%dpx;height:900px;border:0"></iframe></body>"""


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    reason = f"no browser on PATH (looked for {', '.join(NAMES)}); on Debian: apt install chromium"
    if os.environ.get("VESTIGE_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def browse(chromium: str, page: Path, *options: str) -> str:
    """Run the browser on a file with a profile of its own; returns what it printed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8")


def save(folder: Path, *results: Results, name: str = "page.html") -> Path:
    path = folder / name
    path.write_text(render(list(results), [make_manifest() for _ in results]), encoding="utf-8")
    return path


def layout(chromium: str, folder: Path, width: int) -> dict:
    """What a copy of the page with a probe, framed at ``width``, says about its layout."""
    page = folder / "page.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME % width, encoding="utf-8")
    dom = browse(chromium, frame, "--virtual-time-budget=4000", "--dump-dom")
    seen = re.search(r'data-seen="([^"]*)"', dom)
    assert seen, dom[:2000]
    return json.loads(seen[1].replace("&quot;", '"'))


def picture(path: Path) -> tuple[int, int, int]:
    """Width and height of a PNG, and how many different bytes its pixels hold."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    packed, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        packed += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return width, height, len(set(zlib.decompress(packed)))


def test_the_browser_shows_the_verdict_and_the_matrix(chromium: str, tmp_path: Path) -> None:
    results = make_results()
    dom = browse(chromium, save(tmp_path, results), "--dump-dom")
    assert re.search(rf'<h1 class="h1">{re.escape(results.verdict)}</h1>', dom)
    cells = re.findall(r'<td class="(?:pos|neg)( own)?" style="--a:[\d.]+">', dom)
    measured = len(results.traits)
    assert len(cells) == len(results.arms) * (measured + 1) * measured
    assert cells.count(" own") == len(results.arms) * measured


def test_hostile_text_is_shown_and_never_run(chromium: str, tmp_path: Path) -> None:
    attack = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    results = make_results(2, 3, 1)
    arm = results.arms[0].model_copy(update={"label": attack, "sentence": attack})
    sample = results.samples[0].model_copy(update={"prompt": attack, "completion": attack})
    bad = results.model_copy(update={"verdict": attack, "arms": [arm], "samples": [sample]})
    dom = browse(chromium, save(tmp_path, bad), "--dump-dom")
    assert "<title>animals" in dom and "<title>taken" not in dom
    assert "<img" not in dom and "<script" not in dom
    assert "&lt;script&gt;document.title='taken'&lt;/script&gt;" in dom


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(chromium: str, tmp_path: Path, width: int) -> None:
    save(tmp_path, make_results(8, 8, 4), make_results())
    seen = layout(chromium, tmp_path, width)
    assert seen["inner"] == width
    assert seen["scroll"] <= width and seen["right"] <= width
    shown, hidden = ("narrow", "wide") if width == 360 else ("wide", "narrow")
    assert seen[shown] > 0 and seen[hidden] == 0
    box, content = seen["heat"]
    assert (content > box) == (width == 360), "a wide matrix scrolls inside its own box"


def test_long_words_do_not_widen_a_phone(chromium: str, tmp_path: Path) -> None:
    word = "x" * 300
    results = make_results(2, 3, 1, name=word)
    arm = results.arms[0].model_copy(update={"label": word, "base": word, "sentence": word})
    sample = results.samples[2].model_copy(update={"completion": word, "reason": word})
    fields = {"verdict": word, "model": word, "arms": [arm], "samples": [sample], "caveats": [word]}
    save(tmp_path, results.model_copy(update=fields))
    seen = layout(chromium, tmp_path, 360)
    assert seen["scroll"] <= 360 and seen["right"] <= 360


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_can_be_drawn(chromium: str, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    browse(
        chromium,
        save(tmp_path, make_results()),
        f"--window-size={width},1600",
        f"--screenshot={shot}",
    )
    wide, high, shades = picture(shot)
    assert wide == width and high == 1600
    assert shades > 20


def test_dark_readers_get_a_dark_page(chromium: str, tmp_path: Path) -> None:
    """A copy in which the dark rules always hold: they must turn the paper dark."""
    save(tmp_path, make_results())
    light = layout(chromium, tmp_path, 1200)["paper"]
    page = save(tmp_path, make_results())
    text = page.read_text(encoding="utf-8")
    assert "(prefers-color-scheme: dark)" in text
    page.write_text(text.replace("(prefers-color-scheme: dark)", "all"), encoding="utf-8")
    dark = layout(chromium, tmp_path, 1200)["paper"]
    shade = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert shade[0] > 700 and shade[1] < 120
