"""The repository around the code: versions, the picture of the house, and what notebooks may hold."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMMITTED
from test_architecture import IMPORTS, folder

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


def environment(root: Path, *programs: Path) -> dict[str, str]:
    "Variables for a command that is to find the package of a checkout, and programs of ours"
    path = os.pathsep.join([*map(str, programs), str(Path(sys.executable).parent), os.environ['PATH']])
    kept = {name: value for name, value in os.environ.items() if name != 'IN_TEST'}  # with it nbdev does nothing
    return kept | {'PYTHONPATH': str(root), 'PATH': path, 'OMP_NUM_THREADS': '1'}


# the house

def arrows(text: str) -> set[tuple[str, str]]:
    "From whom to whom the picture of CONTRIBUTING lets code flow"
    picture = re.search(r'```mermaid\n(.*?)```', text, re.S)[1]
    chains = [re.findall(r'\w+', line) for line in picture.splitlines() if '-->' in line]
    return {pair for chain in chains for pair in zip(chain, chain[1:])}


def reach(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    "All that can be reached along arrows"
    longer = pairs | {(a, d) for a, b in pairs for c, d in pairs if b == c}
    return pairs if longer == pairs else reach(longer)


def test_the_picture_of_the_house_is_true():
    "Every folder is in it, no arrow leads back, and code imports along arrows only"
    drawn = reach(arrows((ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')))
    assert {name for pair in drawn for name in pair} == {*map(folder, IMPORTS)}
    assert not [(a, b) for a, b in drawn if (b, a) in drawn]
    there = {(folder(other), folder(module)) for module, others in IMPORTS.items() for other in others}
    assert not {(a, b) for a, b in there if a != b} - drawn


def test_links_of_contributing():
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', text): assert (ROOT / target).exists(), target


# versions

def constraints() -> dict[str, str]:
    "The version of every library in constraints.txt"
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return dict(line.split('==') for line in lines if not line.startswith('#'))


@pytest.mark.parametrize('results', COMMITTED)
def test_constraints_are_the_versions_of_the_results(results):
    "As far as a run records them; those that a GPU computed have the versions of its machine"
    manifest, pinned = ROOT / 'results' / results / 'manifest.json', constraints()
    for run in json.loads(manifest.read_text(encoding='utf-8'))['runs'].values():
        if run['device'] != 'cpu': continue
        versions = {name: version for name, version in run['versions'].items() if name not in ('modspec', 'python')}
        assert len(versions) == 3 and versions == {name: pinned[name] for name in versions}
        assert run['versions']['python'].startswith('3.11.')  # as the head of constraints.txt says


# notebooks and records

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
