"""The notebook runs anywhere, and its stored outputs are what it prints.

``python tests/test_notebook.py`` runs it and stores its outputs again, after its code has changed.
"""

import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
PATH = ROOT / "examples" / "tour.ipynb"


def executed(folder):
    """The notebook, run in ``folder`` by a kernel of this interpreter."""
    notebook = nbformat.read(PATH, as_version=4)
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [
        sys.executable,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--log-level=ERROR",
    ]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {
        "IPYTHONDIR": str(folder / "ipython"),  # not the user's own settings
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    work = folder / "work"
    work.mkdir()
    with mock.patch.dict(os.environ, environment, clear=True):
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(work)}},
        )
        client.execute()
    assert list(work.iterdir()) == []
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """What a cell shows as text, without the numbers that depend on the processor."""
    texts = [output.get("text") or output.data["text/plain"] for output in cell.outputs]
    return re.sub(r"(error|Top-1) +\d+\.\d%", r"\1 #%", "".join(texts))


def images(cell):
    return [
        output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", ())
    ]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(PATH, as_version=4)


def test_runs_anywhere_and_shows_what_is_stored(stored, tmp_path):
    fresh = executed(tmp_path)
    assert [shown(cell) for cell in code_cells(fresh)] == [shown(c) for c in code_cells(stored)]
    assert [len(images(cell)) for cell in code_cells(fresh)] == [
        len(images(cell)) for cell in code_cells(stored)
    ]


def test_stores_the_output_of_every_cell_that_prints(stored):
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.source for cell in cells if "print(" in cell.source and not shown(cell)] == []
    plots = [cell for cell in cells if "plt.show(" in cell.source]
    assert [len(images(cell)) for cell in plots] == [1]


def test_stores_nothing_of_the_machine(stored):
    outputs = [output for cell in code_cells(stored) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    text = "".join(map(shown, code_cells(stored)))
    assert re.findall(r"(?<![\w.])/\w+|0x[0-9a-f]{6,}", text) == []
    assert [cell.metadata for cell in stored.cells if cell.metadata] == []
    assert stored.metadata.kernelspec.name == "python3"


def test_links_lead_somewhere(stored):
    text = "".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (PATH.parent / link).exists()] == []


def test_is_small():
    assert PATH.stat().st_size < 200_000


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        nbformat.write(executed(Path(temporary)), PATH)
