"""The record of provoked faults: every row of the chapter's table has tests, and what became of them is written"""
import csv
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import nbformat
from faults.record import ROWS

ROOT = Path(__file__).resolve().parents[2]
TESTS = '''
import pytest
@pytest.mark.provokes('oracles', rounds=3)
@pytest.mark.parametrize('a', [1, 2, 3])
def test_thrice(a, record_property):
    if a == 2: pytest.skip('not here')
    record_property('other', 'not asked for')
    record_property('measured', f'{a} MB, {a} s')
@pytest.mark.slow
@pytest.mark.provokes('signals')
def test_slow(): raise SystemError
@pytest.mark.provokes('oracles')
@pytest.mark.skip(reason='never')
def test_never(): pass
def test_other(): pass
'''


def test_rows_of_the_chapter():
    "are those that tests may name, and each is named by one"
    cells = nbformat.read(ROOT / 'nbs' / 'faults.ipynb', 4).cells
    values = {}
    exec(next(cell.source for cell in cells if re.search('^ROWS = ', cell.source, re.M)), values)
    assert sorted(values['ROWS']) == sorted(ROWS)
    others = [path for path in ROOT.glob('tests/**/test_*.py') if path != Path(__file__)]
    tests = ''.join(path.read_text(encoding='utf-8') for path in others)
    assert set(re.findall(r"provokes\('([^']*)'", tests)) == set(ROWS)


def test_lines_of_the_record():
    "name tests that there are"
    with open(ROOT / 'results' / 'faults.csv', newline='') as f: lines = list(csv.DictReader(f))
    for line in lines:
        path, _, name = line['test'].partition('::')
        assert f'\ndef {name}(' in (ROOT / path).read_text(encoding='utf-8'), line


def recorded(folder, *options):
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *options, '--record=found.csv', 'tests']
    code = subprocess.run(command, cwd=folder, capture_output=True).returncode
    if not (folder / 'found.csv').exists(): return code, None
    with open(folder / 'found.csv', newline='') as f: rows = list(csv.DictReader(f))
    columns = 'row', 'test', 'rounds', 'outcome', 'seconds', 'date', 'measured'
    assert all(tuple(row) == columns and float(row['seconds']) >= 0 for row in rows)
    assert {row['date'] for row in rows} == {str(date.today())}
    return code, [tuple(row[name] for name in columns if name not in ('seconds', 'date')) for row in rows]


def test_record(tmp_path):
    """A line per test that provokes: failed if it failed once, skipped if it never ran.

    With the rounds that took place, and all that was measured. What does not run keeps its line.
    """
    (tmp_path / 'tests' / 'faults').mkdir(parents=True)
    shutil.copy(ROOT / 'tests' / 'faults' / 'record.py', tmp_path / 'tests' / 'faults')
    (tmp_path / 'tests' / 'conftest.py').write_text("pytest_plugins = ['faults.record']\n")
    (tmp_path / 'tests' / 'test_x.py').write_text(TESTS)
    thrice = 'oracles', 'tests/test_x.py::test_thrice', '6', 'passed', '1 MB, 1 s; 3 MB, 3 s'
    never = 'oracles', 'tests/test_x.py::test_never', '0', 'skipped', ''
    slow = 'signals', 'tests/test_x.py::test_slow', '1', 'failed', ''
    assert recorded(tmp_path, '-m', 'not slow') == (0, [never, thrice])
    for _ in range(2):  # also over an older record
        assert recorded(tmp_path, '-m', 'provokes') == (1, [slow, never, thrice])
    once = *thrice[:2], '3', 'passed', '1 MB, 1 s'
    assert recorded(tmp_path, '-k', 'thrice and 1') == (0, [slow, never, once])
    (tmp_path / 'tests' / 'test_x.py').write_text(TESTS.replace("'signals'", "'signal'"))
    (tmp_path / 'found.csv').unlink()
    assert recorded(tmp_path, '-m', 'provokes') == (4, None)
