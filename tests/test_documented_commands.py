"""The commands of the README and of docs/: each is one that dense-jax takes, and each link leads somewhere.

What needs TPUs, GPUs or a cloud is in docs/launch.md and docs/topology.md; tests/test_launch.py runs their scripts
against stand-ins.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from dense_jax.config.command_line import VERBS, parse, parse_average, parse_comparison

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def lines_of(page: Path) -> list[str]:
    """The indented lines of a page, with continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def commands(program: str) -> list[tuple[str, str]]:
    """Each use of a program on a page, without placeholders, with the page's name."""
    return [
        (page.name, re.sub(r"\s\.\.\.(?=\s|$)", " ", line))
        for page in PAGES
        for line in lines_of(page)
        if line.startswith(program) and "VERB" not in line
    ]


@pytest.mark.parametrize(("page", "line"), commands("dense-jax "))
def test_every_command_of_dense_jax_has_a_verb_and_flags_that_are_taken(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = re.sub(r"pretrained:\S+", "mlm:tiny", line)  # these two configs read their folders
    line = re.sub(r"finetune:\S+", "finetune_dpr:tiny", line)
    verb, *words = shlex.split(line, comments=True)[1:]
    assert verb in VERBS
    if verb in ("compare", "average"):
        {"compare": parse_comparison, "average": parse_average}[verb](words)
        return
    words += [] if any(word.startswith("--config") for word in words) else ["--config=ict:tiny"]
    words += [] if any(word.startswith("--workdir") for word in words) else ["--workdir=w"]
    parse(words)


@pytest.mark.parametrize(("page", "line"), commands("launch/"))
def test_every_script_of_launch_exists_and_is_given_flags_that_are_settings(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, *words = line.replace("configs/{", "configs/").split()
    assert (ROOT / script).is_file()
    names = re.findall(r"configs/(\w+)", line) or re.findall(r"--config=(\w+)", line) or ["ict"]
    flags = [
        word for word in words if re.match(r"--[a-z_.]+=", word) and not word.startswith(("--config", "--workdir"))
    ]
    flags = [flag for flag in flags if script != "launch/slurm.sbatch" or not flag.startswith("--n")]
    parse([f"--config={names[0]}:tiny", "--workdir=w", *flags])


def test_links_between_pages_and_to_headings_lead_somewhere():
    for page in PAGES:
        for target, heading in LINK.findall(page.read_text(encoding="utf-8")):
            if target.startswith(("http://", "https://")):
                continue
            found = (page.parent / target).resolve() if target else page
            assert found.exists(), f"{page.name}: {target}"
            if heading:
                slugs = [re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in
                         HEADING.findall(found.read_text(encoding="utf-8"))]  # fmt: skip
                assert heading in slugs, f"{page.name}: {target}#{heading}"


def test_the_site_has_every_page_of_docs():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"[\w/-]+\.md", str(site["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])
