"""One smoke sweep for all tests that look at finished results, and folders to work in"""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from modspec.engine import notebook as runs

pytest_plugins = ['faults.record']
ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ('paper', 'mixture', 'sensitivity', 'sensitivity_winner', 'map', 'map_winner', 'map_fixed', 'map_literal',
             'steps', 'dense', 'causes_retina', 'causes_wide', 'causes_crosses', 'causes_controls',
             'causes_two', 'causes_digits', 'causes_mediation', 'causes_adapting',
             'causes_digits_adapting', 'layers_base', 'layers_untrained', 'layers_overtrained', 'layers_shuffled',
             'layers_others', 'layers_deep', 'layers_untrained_deep', 'layers_wide', 'layers_untrained_wide',
             'layers_shuffled_others', 'modules')  # in results/


class Smoke(NamedTuple):
    "What `modspec reproduce` of the smoke sweep left behind; nobody writes into it"
    config: Path
    results: Path
    answer: subprocess.CompletedProcess


@pytest.fixture(scope='session')
def smoke(tmp_path_factory) -> Smoke:
    cwd = tmp_path_factory.mktemp('smoke')
    config = ROOT / 'config' / 'extreme_sparsity' / 'smoke.yaml'
    command = [Path(sys.executable).with_name('modspec'), 'reproduce', config, '--out', 'the results']
    answer = subprocess.run(command, cwd=cwd, env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    logs = '\n'.join(path.read_text() for path in sorted(cwd.glob('*/**/*.log')))
    assert answer.returncode == 0, answer.stderr + logs
    return Smoke(config, cwd / 'the results', answer)


@pytest.fixture
def there(tmp_path, monkeypatch):
    "An empty working directory, so that Snakemake knows nothing of the past"
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    return tmp_path / 'cwd'


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "Lets runs use a run notebook of our own: the committed one with cells after its parameters, or without its tag"
    source = runs.repository() / 'nbs' / 'runs' / 'extreme_sparsity.ipynb'

    def make(*cells: str, tagged: bool = True) -> Path:
        notebook = nbformat.read(source, 4)
        at = next(i for i, cell in enumerate(notebook.cells) if 'parameters' in cell.metadata.get('tags', []))
        if not tagged: del notebook.cells[at].metadata['tags']
        notebook.cells[at + 1:at + 1] = [nbformat.v4.new_code_cell(cell) for cell in cells]
        path = tmp_path / 'checkout' / 'nbs' / 'runs' / source.name
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        monkeypatch.setattr(runs, 'repository', lambda: tmp_path / 'checkout')
        return path

    return make


def copied_checkout(folder: Path) -> Path:
    "A copy of what a clone would hold: all that git knows, or would be asked to"
    command = ['git', 'ls-files', '-co', '--exclude-standard', '-z']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in {Path(name) for name in listed.split('\0') if name}:
        source, target = ROOT / file, folder / file
        if not source.is_symlink() and not source.is_file(): continue  # removed, but not committed yet
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target, follow_symlinks=False)
    return folder


@pytest.fixture
def clean_checkout(tmp_path) -> Path: return copied_checkout(tmp_path / 'clone')
