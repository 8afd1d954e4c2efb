"""A record of the faults that tests provoke: `pytest --record=CSV` writes what became of each"""
import csv
import os
from datetime import date
from pathlib import Path

import pytest

ROWS = ('killed sweep', 'orphaned run', 'killed kernel', 'two sweeps', 'damaged results', 'damaged data', 'full disk',
        'illegal values', 'parameters tag', 'divergence', 'order and processes', 'threads and devices', 'signals',
        'hostile files', 'plugins', 'metric contract', 'oracles', 'many runs')  # of the table in nbs/faults.ipynb
OUTCOMES = 'skipped', 'passed', 'failed'  # the last one that occurs is a test's outcome


def pytest_addoption(parser):
    parser.addoption('--record', type=Path, metavar='CSV', help='write there what the tests marked `provokes` found')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than ten seconds; `make test-slow` runs it')
    config.addinivalue_line('markers', 'slurm: needs a Slurm of one node; `make test-slurm` starts it')
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
        lines = []
        for entry in self.found.values():
            seconds, measured = round(entry['seconds'], 1), '; '.join(entry['measured'])
            lines.append(entry | dict(seconds=seconds, date=date.today(), measured=measured))
        if self.path.exists():
            with open(self.path, newline='') as f: older = list(csv.DictReader(f))
            tests = {line['test'] for line in lines}
            lines += [line for line in older if line['row'] in ROWS and line['test'] not in tests]
        temporary = self.path.with_name(f'.{self.path.name}.{os.getpid()}.tmp')
        with open(temporary, 'w', newline='') as f:
            names = 'row', 'test', 'rounds', 'outcome', 'seconds', 'date', 'measured'
            rows = csv.DictWriter(f, names, lineterminator='\n')
            rows.writeheader()
            rows.writerows(sorted(lines, key=lambda line: (ROWS.index(line['row']), line['test'])))
        os.replace(temporary, self.path)


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers('provokes'):
            if marker.args[:1] not in [(row,) for row in ROWS]:
                raise pytest.UsageError(f'{item.nodeid}: provokes needs one of {ROWS}, got {marker.args}')
