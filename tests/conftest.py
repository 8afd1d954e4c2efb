"""One smoke sweep for all tests that look at finished results, and a record of the faults that tests provoke"""
import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = ('killed sweep', 'orphaned run', 'killed kernel', 'two sweeps', 'damaged results', 'damaged data', 'full disk',
        'illegal values', 'parameters tag', 'divergence', 'order and processes', 'threads and devices', 'signals',
        'hostile files', 'metric contract', 'oracles', 'many runs')  # of the table in nbs/faults.ipynb
COMMITTED = 'paper', 'paper_fp32', 'sensitivity'  # folders of results/ that are part of the repository
OUTCOMES = 'skipped', 'passed', 'failed'  # the last one that occurs is a test's outcome


def pytest_addoption(parser):
    parser.addoption('--record', type=Path, metavar='CSV', help='write there what the tests marked `provokes` found')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than ten seconds; `make test-slow` runs it')
    config.addinivalue_line('markers', 'provokes(row, rounds=1): causes a fault of that row of nbs/faults.ipynb, '
                                       'so many times')
    if config.getoption('record'): config.pluginmanager.register(Record(config.getoption('record')))


class Record:
    """What became of each test that provokes a fault, all its parameters together

    An older record keeps the lines of tests that do not run now. A test says what it has measured, in words:
    `record_property('measured', '3 MB more after 500 runs')`.
    """
    def __init__(self, path: Path): self.path, self.found = path, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        for marker in item.iter_markers('provokes'):
            row, rounds = (lambda row, rounds=1: (row, rounds))(*marker.args, **marker.kwargs)
            test = item.nodeid.partition('[')[0]
            entry = self.found.setdefault((row, test), dict(row=row, test=test, rounds=0, outcome='skipped', seconds=0.,
                                                           measured=[]))
            if report.when == 'call':
                entry['rounds'] += rounds * (not report.skipped)
                entry['measured'] += [value for name, value in report.user_properties if name == 'measured']
            happened = report.outcome if report.when == 'call' or report.failed else 'skipped'
            entry['outcome'] = max(entry['outcome'], happened, key=OUTCOMES.index)
            entry['seconds'] += report.duration
        return report

    def pytest_sessionfinish(self, exitstatus):
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED): return  # interrupted: says little
        lines = [entry | {'seconds': round(entry['seconds'], 1), 'measured': '; '.join(entry['measured'])}
                 for entry in self.found.values()]
        if self.path.exists():
            with open(self.path, newline='') as f: older = list(csv.DictReader(f))
            tests = {line['test'] for line in lines}
            lines += [line for line in older if line['row'] in ROWS and line['test'] not in tests]
        temporary = self.path.with_name(f'.{self.path.name}.{os.getpid()}.tmp')
        with open(temporary, 'w', newline='') as f:
            rows = csv.DictWriter(f, ['row', 'test', 'rounds', 'outcome', 'seconds', 'measured'], lineterminator='\n')
            rows.writeheader()
            rows.writerows(sorted(lines, key=lambda line: (ROWS.index(line['row']), line['test'])))
        os.replace(temporary, self.path)


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers('provokes'):
            if marker.args[:1] not in [(row,) for row in ROWS]:
                raise pytest.UsageError(f'{item.nodeid}: provokes needs one of {ROWS}, got {marker.args}')


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
def there(tmp_path, monkeypatch):
    "An empty working directory, so that Snakemake knows nothing of the past"
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    return tmp_path / 'cwd'


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
