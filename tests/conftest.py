"""One smoke sweep for all tests that look at finished results: every kernel that starts costs seconds"""
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent


class Smoke(NamedTuple):
    "What `modspec reproduce config/smoke.yaml` left behind; nobody writes into it"
    config: Path
    results: Path
    answer: subprocess.CompletedProcess


@pytest.fixture(scope='session')
def smoke(tmp_path_factory) -> Smoke:
    cwd = tmp_path_factory.mktemp('smoke')
    config = ROOT / 'config' / 'smoke.yaml'
    command = [Path(sys.executable).with_name('modspec'), 'reproduce', config, '--out', 'the results']
    answer = subprocess.run(command, cwd=cwd, env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    logs = '\n'.join(path.read_text() for path in sorted(cwd.glob('*/**/*.log')))
    assert answer.returncode == 0, answer.stderr + logs
    return Smoke(config, cwd / 'the results', answer)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "Lets runs use a run notebook of our own: the committed one with cells after its parameters, or without its tag"
    from modspec import sweep
    source = sweep.repository() / 'nbs' / 'runs' / 'sparsity.ipynb'

    def make(*cells: str, tagged: bool = True) -> Path:
        notebook = nbformat.read(source, 4)
        at = next(i for i, cell in enumerate(notebook.cells) if 'parameters' in cell.metadata.get('tags', []))
        if not tagged: del notebook.cells[at].metadata['tags']
        notebook.cells[at + 1:at + 1] = [nbformat.v4.new_code_cell(cell) for cell in cells]
        path = tmp_path / 'checkout' / 'nbs' / 'runs' / 'sparsity.ipynb'
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        monkeypatch.setattr(sweep, 'repository', lambda: tmp_path / 'checkout')
        return path

    return make
