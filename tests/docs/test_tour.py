"""The notebook of the tour has the script's cells, and their output."""

import json
import re

from tests.docs.pages import ROOT

CELL = re.compile(r"^# %%( \[markdown\])?\n", re.M)


def cells_of_the_script():
    """(kind, text) of each cell."""
    _, *parts = CELL.split((ROOT / "examples" / "tour.py").read_text())
    for prose, text in zip(parts[::2], parts[1::2], strict=True):
        if prose:
            yield "markdown", re.sub(r"^# ?", "", text.strip(), flags=re.M)
        else:
            yield "code", text.strip()


def test_the_notebook_is_the_script():
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text())
    cells = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert cells == list(cells_of_the_script())


def test_the_notebook_has_its_output():
    text = (ROOT / "examples" / "tour.ipynb").read_text()
    assert text.count('"image/png"') == 3
    assert '"output_type": "error"' not in text
