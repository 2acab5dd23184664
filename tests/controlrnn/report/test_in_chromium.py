"""A browser opens reports without an error, in any colour scheme and on paper, and zooms."""

import re
import shutil
import subprocess

import pytest

from controlrnn.report import Chart, Line, Page, Panel, Parts, Section, write_page, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.slow,
]


def browse(path, profile, *options):
    """What the browser printed, and what its console said."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--virtual-time-budget=3000", f"--user-data-dir={profile}", *options, path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE[^\n]*", done.stderr)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from tests.controlrnn.report.test_report import given_parts

    return write_report(Parts(**given_parts()), tmp_path_factory.mktemp("report") / "report.html")


def test_a_report_opens_without_a_word_from_the_console(report, tmp_path):
    shown, said = browse(report, tmp_path, "--dump-dom")
    assert said == []
    assert shown.count('class="read"') == shown.count('class="panel"')  # the script went through all charts
    assert shown.count('class="panel"') > 10


def test_it_is_drawn_light_dark_and_on_paper(report, tmp_path):
    from PIL import Image

    brightness = {}
    for name, options in (("light", ()), ("dark", ("--force-dark-mode",))):
        picture = tmp_path / f"{name}.png"
        _, said = browse(report, tmp_path, "--window-size=1000,5000", f"--screenshot={picture}", *options)
        assert said == []
        pixels = Image.open(picture).convert("L")
        counts = pixels.histogram()
        brightness[name] = sum(i * n for i, n in enumerate(counts)) / sum(counts)
    assert brightness["light"] > 225
    assert brightness["dark"] < 60
    _, said = browse(report, tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert said == []
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def scripted(page, tmp_path, script):
    """The page with a script of our own added, without its policy."""
    path = write_page(page, tmp_path / "page.html")
    text = re.sub(r"<meta http-equiv=[^>]*>", "", path.read_text())
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    return path


def test_errors_would_be_seen(tmp_path):
    page = Page("p", [Section("s", [])])
    assert "nothing" in browse(scripted(page, tmp_path, "nothing.at.all()"), tmp_path, "--dump-dom")[1][0]
    path = write_page(page, tmp_path / "two.html")
    path.write_text(path.read_text().replace("</body>", "<script>document.title = 'run'</script></body>"))
    shown, said = browse(path, tmp_path, "--dump-dom")
    assert "Content Security Policy" in said[0]
    assert "<title>p</title>" in shown


def test_a_drag_zooms_and_a_double_click_shows_everything(tmp_path):
    chart = Chart("c", [Panel("a", [Line([0, 100], [0, 1])]), Panel("b", [Line([0, 100], [5, 9])])])
    script = """
      const [plot, other] = document.querySelectorAll(".plot");
      const frame = plot.parentNode.querySelector(".frame").getBoundingClientRect();
      const send = (kind, x, y) => plot.dispatchEvent(new PointerEvent(kind, {bubbles: true, button: 0,
        clientX: frame.left + x * frame.width, clientY: frame.top + y * frame.height}));
      const say = (key) => document.body.setAttribute("data-" + key, plot.getAttribute("viewBox") + ";" +
        other.getAttribute("viewBox") + ";" +
        [...document.querySelectorAll(".panel:nth-of-type(2) .across text")].map((t) => t.textContent).join(" "));
      say("before"); send("pointerdown", 0.25, 0.5); send("pointermove", 0.5, 0.5); send("pointerup", 0.75, 0.51);
      say("wide"); send("pointerdown", 0, 0); send("pointerup", 1, 0.5); say("tall");
      plot.dispatchEvent(new MouseEvent("dblclick", {bubbles: true})); say("after");
    """
    shown, said = browse(scripted(Page("p", [Section("s", [chart])]), tmp_path, script), tmp_path, "--dump-dom")
    assert said == []
    state = {
        key: re.search(f'data-{key}="([^"]*)"', shown)[1].split(";") for key in ("before", "wide", "tall", "after")
    }
    first, second = (list(map(float, box.split())) for box in state["wide"][:2])
    assert first == pytest.approx([250, 0, 500, 1000], abs=2)
    assert second == pytest.approx(first)
    assert state["wide"][2].split() == ["30", "40", "50", "60", "70"]
    assert list(map(float, state["tall"][0].split())) == pytest.approx([250, 0, 500, 500], abs=2)
    assert list(map(float, state["tall"][1].split())) == pytest.approx([250, 0, 500, 1000], abs=2)
    assert state["after"] == state["before"]
