# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""Hooks of MkDocs: pages that live elsewhere in the repository, and links as they work in a checkout.

Pages link to each other and to other files by their paths in the repository, so that links work where people read them
first. Here they become links of the site; a file that is no page comes with the site.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = "docs/"
ELSEWHERE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "deploy/README.md": "manifests.md",
    "helm/dbtrun/README.md": "chart.md",
    "tests/airflow/README.md": "tests/airflow.md",
    "tests/bench/README.md": "tests/bench.md",
    "tests/controlplane/README.md": "tests/controlplane.md",
    "tests/node/README.md": "tests/node.md",
}
"""Pages outside of docs/, and where the site has them."""
SOURCES: Final = {page: source for source, page in ELSEWHERE.items()}
MERMAID: Final = Path(os.environ.get("DBTRUN_MERMAID") or ROOT / ".cache/site/mermaid.min.js")
"""`make site` fetches it."""
LINK: Final = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere, what pages link to, and the script that draws the diagrams."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "javascripts/mermaid.min.js", abs_src_path=str(MERMAID)))
    for source in sorted(_linked_files(files)):
        files.append(File.generated(config, _attached(source), abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links of the repository into links of the site."""
    here = page.file.src_uri

    def turned(link: re.Match[str]) -> str:
        target = _in_site(_in_repository(here, link[1]))
        return f"]({os.path.relpath(target, Path(here).parent)}{link[2]})"

    return LINK.sub(turned, markdown)


def _linked_files(files: Files) -> set[str]:
    """What pages link to, is in the repository, and is no page."""
    found = set()
    for file in files.documentation_pages():
        targets = (_in_repository(file.src_uri, link[1]) for link in LINK.finditer(file.content_string))
        found |= {target for target in targets if _in_site(target) == _attached(target) and (ROOT / target).is_file()}
    return found


def _in_repository(page: str, link: str) -> str:
    """The path of a link's target in the repository."""
    source = SOURCES.get(page, DOCS + page)
    return os.path.normpath(Path(source).parent / link)


def _in_site(source: str) -> str:
    if source in ELSEWHERE:
        return ELSEWHERE[source]
    is_page = source.startswith(DOCS) and not source.endswith(".py")
    return source.removeprefix(DOCS) if is_page else _attached(source)


def _attached(source: str) -> str:
    """MkDocs leaves out what begins with a dot."""
    return "files/" + source.lstrip(".")
