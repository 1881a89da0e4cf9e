"""Hooks of MkDocs: pages that lie outside of docs/, and links to files that are no pages."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# File of the repository -> page of the site.
PAGES = {
    "conf/README.md": "configuration.md",
    "data/README.md": "data_folders.md",
    "experiments/README.md": "experiments.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
# What the theme fetches for the search in pages that are opened from the disk, and the copy here.
SHIM = ("https://unpkg.com/iframe-worker/shim", "iframe_worker.js")
LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?![a-z]+:|#)[^)\s#]+)(?P<anchor>#[^)]*)?\)"
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from elsewhere."""
    for source, page in PAGES.items():
        if source != "README.md":
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Points links at pages of the site; a link to any other file becomes its path."""
    sources = {name: source for source, name in PAGES.items() if source != "README.md"}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        folder = posixpath.join(path, "README.md")
        name = PAGES.get(path) or PAGES.get(folder)
        if name is None and path.startswith("docs/"):
            name = path.removeprefix("docs/")
        if name is not None:
            return f"[{match['text']}]({name}{match['anchor'] or ''})"
        if not (ROOT / path).exists():
            return match[0]  # the strict build tells of it
        return match["text"] if path in match["text"] else f"{match['text']} (`{path}`)"

    return LINK.sub(linked, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Takes the search's helper from the site itself, not from a network."""
    return output.replace(*SHIM)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The same for the page of what is not found."""
    return output_content.replace(SHIM[0], f"/{SHIM[1]}")
