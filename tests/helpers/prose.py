"""How the prose reads: sentences of at most 30 words, docstrings in the imperative. `python -m tests.helpers.prose`."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 30
# With these a noun phrase or a clause begins, where a function's docstring says what the function does.
NOUN_PHRASE = frozenset(
    [
        "a",
        "all",
        "an",
        "any",
        "as",
        "at",
        "each",
        "every",
        "for",
        "from",
        "how",
        "if",
        "in",
        "it",
        "its",
        "more",
        "no",
        "of",
        "on",
        "one",
        "several",
        "some",
        "that",
        "the",
        "their",
        "these",
        "this",
        "those",
        "to",
        "two",
        "under",
        "what",
        "when",
        "where",
        "whether",
        "which",
        "whose",
        "why",
        "with",
    ]
)
CODE = [*ROOT.glob("fastgan/**/*.py"), *ROOT.glob("triton_kernels/*.py"), ROOT / "setup.py"]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of running text: code, tables, headings and lists of arguments are taken apart."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.S)
    text = re.sub(r"^ {4,}\S.*$|^\s*\|.*$|^#+ .*$", "\n", text, flags=re.M)
    text = re.sub(r"^(\s*)([-*]|\d+\.) ", "\n\n", text, flags=re.M)
    text = re.sub(r"(?<=[.!?])(\s+)`[^`]*`", r"\1Code", text)  # a sentence may begin with code
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from re.split(r"(?<=[.!?:;])\s+(?=[^a-z]|$)", " ".join(paragraph.split()))


def words(sentence: str) -> int:
    """Return how many words a sentence has; formulas and signs are none."""
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", sentence))


def _body(docstring: str) -> str:
    """Return a docstring with its entries (`name: text`) as paragraphs of their own."""
    text = re.sub(r"^(Args|Returns|Raises|Attributes|Yields):$", "\n", docstring, flags=re.M)
    return re.sub(r"^ {4}(\S.*)$", r"\n\1", re.sub(r"^ {8,}", "", text, flags=re.M), flags=re.M)


def docstrings(path: Path) -> Iterator[tuple[str, int, bool, str]]:
    """Yield the name, line, kind (whether a function) and text of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                is_property = any("property" in ast.unparse(d) for d in getattr(node, "decorator_list", []))
                function = isinstance(node, ast.FunctionDef) and not is_property
                yield getattr(node, "name", "module"), getattr(node, "lineno", 1), function, text


def long_sentences(files: list[Path]) -> list[str]:
    """Return the sentences of docstrings and pages that have too many words."""
    found = []
    for path in files:
        if path.suffix == ".md":
            texts = [(1, path.read_text())]
        else:
            texts = [(line, _body(text)) for _, line, _, text in docstrings(path)]
        for line, text in texts:
            found += [
                f"{os.path.relpath(path, ROOT)}:{line}: {words(s)} words: {s}"
                for s in sentences(text)
                if words(s) > MOST
            ]
    return found


def noun_phrases(files: list[Path]) -> list[str]:
    """Return the functions whose docstring begins with a noun phrase."""
    found = []
    for path in files:
        for name, line, function, text in docstrings(path):
            first = re.split(r"[\s(,]", text, maxsplit=1)[0]
            if function and (first.lower() in NOUN_PHRASE or first.startswith(("`", "||", "|", "("))):
                found.append(f"{path.relative_to(ROOT)}:{line}: {name}: {text.splitlines()[0]}")
    return found


if __name__ == "__main__":
    given = [ROOT / f for f in sys.argv[1:]] or CODE
    problems = [*long_sentences(given), *noun_phrases([f for f in given if f.suffix == ".py"])]
    print("\n".join(problems))
    print(len(problems), "problems")
