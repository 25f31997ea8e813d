"""The documentation builds offline, without a warning; its built pages load nothing and link to what is there."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def prose(text):
    """Return Markdown without code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE))


class Tags(HTMLParser):
    """Collect what a page loads, its links and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loaded += [given[name] for name in ("src", "srcset", "data") if given.get(name)]
        if tag == "link" and given.get("href"):
            self.loaded.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is absent: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {path: Tags(path.read_text()) for path in folder.rglob("*.html")}


def test_pages_load_nothing_from_elsewhere(site):
    assert {path.stem for path in site} >= {Path(page).stem for page in PAGES}
    for path, tags in site.items():
        assert tags.loaded
        assert not [one for one in tags.loaded if re.match(r"(\w+:)?//", one)], path
    sheets = [sheet for path in site if path.stem == "index" for sheet in path.parent.rglob("*.css")]
    assert sheets
    assert not [sheet for sheet in sheets if re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text())]


def test_links_between_built_pages_lead_somewhere(site):
    for path, tags in site.items():
        if path.stem == "404":
            continue
        for link in tags.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in site:
                assert unquote(parts.fragment) in site[target].anchors | {"__top"}, f"{path.name}: {link}"


def test_formulas_are_shown_without_a_script(site):
    for page in ("auto", "numbers", "questions"):
        (path,) = (path for path in site if path.stem == page)
        source, built = prose((DOCS / f"{page}.md").read_text()), path.read_text()
        formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+?\$", source, re.DOTALL)
        assert built.count("<math") == len(formulas) > 0
        assert "arithmatex" not in built
