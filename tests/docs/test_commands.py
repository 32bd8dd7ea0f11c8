"""Every command on every page could be run: its program, its options, its targets and files are there."""

import argparse
import functools
import importlib.util
import itertools
import re
import runpy
import shlex
import sys

import pytest

from tests.docs import pages
from tests.helpers import ROOT

PAGES = [*pages.PAGES, ROOT / "SECURITY.md"]
SETTING = re.compile(r"[A-Z_]+=")
PROJECT = (ROOT / "pyproject.toml").read_text()


def variables(*folders):
    """Return the environment variables that these folders' Python and setup.py read."""
    sources = [ROOT / "setup.py", *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    text = "".join(path.read_text() for path in sources)
    return set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', text))


def commands(page):
    """A page's commands as lists of words: blocks of sh, indented blocks, and code inside of sentences."""
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)).splitlines()
    known = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:{'|'.join(map(re.escape, CHECKS))}) \S")
    for line in [*lines, *re.findall(r"^    (\S.*)$", prose, re.M), *re.findall(r"`([^`\n]+)`", prose)]:
        if known.match(line):
            yield shlex.split(line, comments=True)


def of_make(words):
    """Targets and variables are those of the Makefile, which else takes both without a word."""
    text = (ROOT / "Makefile").read_text()
    for word in words:
        pattern = rf"\$\({word.partition('=')[0]}\)" if SETTING.match(word) else rf"^{word}:"
        assert re.search(pattern, text, re.M), f"the Makefile has no {word}"


def of_python(words):
    """A module or a file that is there, and takes these options."""
    module = words[0] == "-m"
    name, given = words[module], words[module + 1 :]
    if not module:
        assert (ROOT / name).exists(), f"there is no {name}"
    else:
        assert importlib.util.find_spec(name) is not None, f"there is no module {name}"
    if name == "pytest":
        of_pytest(given)
    elif given and name.partition(".")[0] != "build":
        parse(name, module, given)


class ParsedError(Exception):
    """The whole command line was understood."""


def parse(name, module, given):
    """Start one of our programs, and end it where it has parsed its command line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        options = original(parser, args, namespace)
        if args is None or list(args) == given[-len(args) :]:
            raise ParsedError
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [name, *given])
        patch.setattr(sys, "path", [str((ROOT / name).parent), *sys.path])  # as Python does for a script
        run = functools.partial(runpy.run_module, alter_sys=True) if module else runpy.run_path
        with pytest.raises(ParsedError):
            run(name if module else str(ROOT / name), run_name="__main__")


def of_pytest(words):
    assert all(word.startswith("-") or "/" not in word or (ROOT / word).exists() for word in words)


def of_pip(words):
    for extra in re.findall(r"\w\[(\w+)\]|^\.\[(\w+)\]", " ".join(words), re.M):
        assert re.search(rf"^{''.join(extra)} = \[", PROJECT, re.M), f"there is no extra {extra}"


def of_gpu(words):
    parse("bench/gpu_stages.py", False, words)


def of_torchrun(words):
    of_python([word for word in words if (ROOT / word).exists()])


def of_the_extra_for_tests(words):
    """Programs of others, which the tests of wheels run."""


CHECKS = {
    "make": of_make,
    "python": of_python,
    ".venv/bin/python": of_python,
    "pytest": of_pytest,
    "pip": of_pip,
    "bench/gpu.sh": of_gpu,
    "torchrun": of_torchrun,
    "twine": of_the_extra_for_tests,
    "check-wheel-contents": of_the_extra_for_tests,
}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{pages.name(page)}: {shlex.join(words)}")
        for page in PAGES
        for words in commands(page)
    ],
)
def test_commands_could_run(words):
    settings = list(itertools.takewhile(SETTING.match, words))
    read = variables("csrc/tools", "fastgan", "tests") if settings else ()
    for setting in settings:
        assert setting.partition("=")[0] in read, f"nothing reads {setting}"
    CHECKS[words[len(settings)]](words[len(settings) + 1 :])


def test_variables_are_documented():
    text = "".join((ROOT / "docs" / name).read_text() for name in ("install.md", "triton.md"))
    assert {name for name in variables("csrc/tools", "fastgan") if name not in text} == set()
