"""The notebook of examples/, executed once for all tests that look at it or at the sweep that it makes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conftest import ROOT


@dataclass(frozen=True)
class Shown:
    """What the notebook's cells gave, the folder that it worked in, and its ``sweep.json``."""

    outputs: list[str]
    folder: Path
    sweep: dict[str, Any]

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The processes of the tests share it, since it takes most of a minute."""
    if given := os.environ.get("SCREENSHOTS_OF"):  # another folder with the mlruns of a sweep
        return Shown([], Path(given), json.loads((Path(given) / "mlruns/runs/sweep/sweep.json").read_text()))
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "notebook"
    with FileLock(f"{folder}.lock"):
        if not (folder / "outputs.json").exists():
            folder.mkdir()
            (folder / "outputs.json").write_text(json.dumps(_execute(folder)))
    (mlruns,) = folder.glob("*/mlruns")
    sweep = json.loads((mlruns / "runs" / "sweep" / "sweep.json").read_text())
    return Shown(json.loads((folder / "outputs.json").read_text()), mlruns.parent, sweep)


def _execute(folder: Path) -> list[str]:
    """What the cells give, as text."""
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)})
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    results = [output for cell in cells for output in cell.outputs if output.output_type == "execute_result"]
    return [result["data"]["text/plain"] for result in results]
