"""The pages that people read, and the Python in them."""

import re

from tests.helpers import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
# Pages whose snippets want networks of their own, and results that are compared: these modules run them.
ELSEWHERE = {
    "test_adversarial_pages": [
        "docs/adversarial-step.md",
        *(f"docs/how-to/{name}.md" for name in ("vocoder", "vqgan", "r3gan", "distillation")),
    ],
    "test_large_pages": ["docs/large-discriminators.md"],
    "test_recipe_page": ["docs/drop-ins/recipes.md"],
}


def name(page):
    return page.relative_to(ROOT).as_posix()


def snippets(page):
    """A page's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
