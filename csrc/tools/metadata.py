"""The URLs of the metadata, and the README as an index of packages shows it; setup.py imports it.

A URL is never invented: it is that of the repository that this build comes from.
"""

from __future__ import annotations

import os
import re
import subprocess
from email.parser import Parser
from pathlib import Path


def repository(root: Path) -> str:
    """Return the URL of the repository: GitHub's variables, else an sdist's record, else git's origin; else ""."""
    server, name = (os.environ.get(f"GITHUB_{key}", "") for key in ("SERVER_URL", "REPOSITORY"))
    if server and name:
        return f"{server}/{name}"
    return _recorded(root) or _origin(root)


def _recorded(root: Path) -> str:
    """Return what an sdist's metadata says."""
    path = root / "PKG-INFO"
    urls = Parser().parsestr(path.read_text()).get_all("Project-URL", []) if path.exists() else []
    return next((url.split(", ", 1)[1] for url in urls if url.startswith("Repository, ")), "")


def _origin(root: Path) -> str:
    """Return git's origin if it is one that others can open, whatever way it is fetched."""
    if not (root / ".git").exists():  # a folder inside of another repository is not that one's
        return ""
    try:
        asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
    match = re.fullmatch(r"(https://|ssh://git@|git@)(?:[^@/]*@)?([\w.-]+\.\w+)(:\d+)?[:/](.+?)(?:\.git)?/?", said)
    if not match or (match[3] and match[1] != "https://"):  # the port of ssh says nothing of that of https
        return ""
    return f"https://{match[2]}{match[3] or ''}/{match[4]}"


def urls(repository: str) -> dict[str, str]:
    """Return the project's URLs; nothing where the repository is not known."""
    if not repository:
        return {}
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/main/docs/index.md",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def description(readme: str, repository: str, version: str) -> str:
    """Return the README with links and pictures that work elsewhere, those of this version's tag.

    Args:
        readme: Markdown, whose links are relative.
        repository: its URL; without one the links stay.
        version: as in the tag vX.Y.Z.
    """
    if not repository:
        return readme

    def absolute(match: re.Match[str]) -> str:
        how = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({repository}/{how}/v{version}/{match[3]})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)", absolute, readme)
