"""The pages of a run in a real browser, which loads nothing and runs nothing of the texts in them."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from dense_jax.__main__ import run
from dense_jax.data.beir_folder import write_beir
from dense_jax.types import Document
from tests.faults.command_line import SMALL
from tests.sources import sentence

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BROWSER is None, reason="needs a browser, chromium or chromium-browser"),
]
HOST = "evil.example"
HOSTILE = f"<script>document.title='owned'</script><img src='http://{HOST}/x.png' onerror=\"document.title='owned'\">"


class Elements(HTMLParser):
    """Names and titles of the elements that a browser has made of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names, self.title = [], ""
        self.feed(html)
        self.title = self.title.strip()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        if self.names and self.names[-1] == "title":
            self.title += data


def browse(page: Path, folder: Path, *flags: str) -> str:
    """The output of a browser that has opened `page`, without names of hosts and with its log of requests."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={folder / 'requests.json'}", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def requests(folder: Path) -> list[str]:
    """The addresses that the page asked for; the browser's own requests are of no origin."""
    events = json.loads((folder / "requests.json").read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return [of["url"] for of in asked if of["initiator"] != "not an origin"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The report of a small run and its comparison, with markup in titles, queries and the names of its folders."""
    root = tmp_path_factory.mktemp("pages")
    name = "<script>document.title='owned'<"
    texts = [" ".join(sentence(10 * i + j) for j in range(4)) for i in range(40)]
    documents = [Document(f"d{i}", f"{i} {HOSTILE}", f"{text} {HOSTILE}") for i, text in enumerate(texts)]
    queries = {f"q{i}": f"{sentence(10 * i)} {HOSTILE}" for i in range(10)}
    write_beir(root / name, documents, queries, {f"q{i}": {f"d{i}": 1} for i in range(10)}, "test")
    settings = {**SMALL, "corpus.source": root / name, "evaluate.folder": root / name}
    work = root / f"run{name}"
    given = [f"--workdir={work}", *(f"--{key}={value}" for key, value in settings.items())]
    assert run(["prepare", "--config=ict:tiny", *given]) == 0
    for verb in ("train", "evaluate", "report"):
        assert run([verb, f"--workdir={work}"]) == 0
    compared = root / f"compared{name}"
    assert run(["compare", str(work), f"--workdir={compared}"]) == 0
    return {"report": work / "report.html", "comparison": compared / "comparison.html"}


def test_a_page_with_markup_that_runs_is_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<title>fine</title>{HOSTILE}")
    elements = Elements(browse(page, tmp_path, "--dump-dom"))
    assert elements.title == "owned" and {"script", "img"} <= set(elements.names)
    assert requests(tmp_path) == [f"http://{HOST}/x.png"]


@pytest.mark.parametrize(("name", "images"), [("report", 0), ("comparison", 2)])
def test_markup_in_titles_queries_and_names_is_text_and_no_request_leaves_the_page(pages, tmp_path, name, images):
    html = browse(pages[name], tmp_path, "--dump-dom")
    elements = Elements(html)
    assert "owned" in html and elements.title.endswith(f": {name}")
    assert "script" not in elements.names and elements.names.count("img") == images
    assert requests(tmp_path) == []
    assert HOST not in (tmp_path / "requests.json").read_text()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_is_drawn(pages, tmp_path, name):
    shot = tmp_path / "page.png"
    browse(pages[name], tmp_path, f"--screenshot={shot}", "--window-size=1000,1400")
    pixels = imread(shot)[..., :3]
    assert pixels.shape == (1400, 1000, 3)
    drawn = np.any(pixels != pixels[0, 0], axis=-1)
    assert 0.01 < drawn.mean() < 0.9
    assert drawn[:200].any() and drawn[600:].any()
