"""The repository around the code: versions, and what the stored notebooks may hold."""

import csv
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from conftest import COMMITTED

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
SKIPPED = {'.ipynb_checkpoints', 'results'}
NOTEBOOKS = sorted(path for path in NBS.rglob('*.ipynb') if not SKIPPED & set(path.relative_to(NBS).parts))
UNSTABLE = re.compile(r'/(home|Users|root|tmp)/|\bat 0x[0-9a-f]{6,}')  # a path or an address of one machine


def name(path: Path) -> str:
    "The path of a notebook below nbs/"
    return path.relative_to(NBS).as_posix()


def cells(path: Path) -> list[dict]:
    "All cells of a notebook"
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def test_citation_names_the_version():
    settings = ConfigParser(delimiters=['='])
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == settings['DEFAULT']['version']


def constraints() -> dict[str, str]:
    "The version of every library in constraints.txt"
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return dict(line.split('==') for line in lines if not line.startswith('#'))


@pytest.mark.parametrize('results', COMMITTED)
def test_constraints_are_the_versions_of_the_results(results):
    "As far as a run records them"
    manifest, pinned = ROOT / 'results' / results / 'manifest.json', constraints()
    for run in json.loads(manifest.read_text(encoding='utf-8'))['runs'].values():
        versions = {name: version for name, version in run['versions'].items() if name not in ('modspec', 'python')}
        assert len(versions) == 3 and versions == {name: pinned[name] for name in versions}
        assert run['versions']['python'].startswith('3.11.')  # as the head of constraints.txt says


def test_record_of_faults_is_complete():
    "A line for every test that provokes a fault, and none of a test that is gone"
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '--collect-only', '-q', '-m', 'provokes']
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    tests = {line.partition('[')[0] for line in found if '::' in line}
    with open(ROOT / 'results' / 'faults.csv', newline='', encoding='utf-8') as f:
        recorded = {row['test'] for row in csv.DictReader(f)}
    assert sorted(tests) == sorted(recorded), '`make test-slow` adds lines; delete those of tests that are gone'


@pytest.mark.provokes('parameters tag')
@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_parameters_tag(path):
    "papermill needs exactly one tagged cell in a run; a chapter or a run without the tag would ignore its parameters"
    tagged = sum('parameters' in cell['metadata'].get('tags', []) for cell in cells(path))
    assert tagged == 1 if path.parent.name == 'runs' else tagged <= 1


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_stored_outputs(path):
    "Outputs teach: none is an error, none depends on the machine that made it"
    for output in (output for cell in cells(path) for output in cell.get('outputs', [])):
        assert output['output_type'] != 'error'
        text = [output.get('text', ''), *(v for k, v in output.get('data', {}).items() if k.startswith('text/'))]
        assert not UNSTABLE.search(''.join(''.join(part) for part in text))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_no_widget_state(path):
    "Progress bars leave their state, with rates and random names, in a notebook's metadata"
    assert 'widgets' not in json.loads(path.read_text(encoding='utf-8'))['metadata']
