"""Links of the site that lead out of docs/: to the repository's files, and to pictures of bench/results.

The pages are read in the repository too, where `../examples/digits.py` is a link that works.
"""

import re
import sys
from pathlib import Path
from posixpath import normpath

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

log = get_plugin_logger(__name__)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "csrc" / "tools"))
from metadata import repository  # noqa: E402 (reached by the line above)

# A link or a picture of Markdown whose target begins with ../; not inside of code.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_files(files, config):
    """Take the plots along, as results/NAME.png."""
    for path in sorted((ROOT / "bench" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Turn each link that leads out of docs/ into one to the repository, or into its text where that is unknown."""
    folder = Path("docs", page.file.src_uri).parent.as_posix()
    up = "../" * page.file.src_uri.count("/")

    def moved(match):
        picture, text, target, anchor = match.groups()
        path = normpath(f"{folder}/{target}")
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            log.warning("%s: there is no %s", page.file.src_uri, path)
        if picture:
            return f"![{text}]({up}results/{Path(path).name})"
        base = repository(ROOT)
        return f"[{text}]({base}/blob/main/{path}{anchor or ''})" if base else text

    return LINK.sub(moved, markdown)
