"""The wheel: what is in it, and that it works from an empty folder, without a checkout"""
import json
import os
import re
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from conftest import ROOT, copied_checkout
from test_repository import environment

STUDIES = sorted(path.parent.name for path in (ROOT / 'config').glob('*/smoke.yaml'))


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    "The wheel of what a clone would hold"
    folder = tmp_path_factory.mktemp('wheel')
    clone = copied_checkout(folder / 'clone')
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q', '-w', folder, clone]
    answer = subprocess.run(command, env=environment(clone), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    "The Python of a new environment that has the wheel, and sees the libraries of this one"
    root = tmp_path_factory.mktemp('environment')
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}  # pip finds modspec there
    for command in (['-m', 'venv', '--without-pip', root],
                    ['-m', 'pip', '--python', root / 'bin' / 'python', 'install', '--no-deps', '-q', wheel]):
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=env)
    own = root / 'lib' / f'python{sysconfig.get_python_version()}' / 'site-packages'
    (own / 'libraries.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return root / 'bin' / 'python'


def test_the_wheel_holds_every_module(wheel):
    "Also those of folders within folders"
    inside = {file for file in ZipFile(wheel).namelist() if file.startswith('modspec/')}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'modspec').rglob('*.py')}
    assert wanted <= inside


def test_the_wheel_holds_what_commands_execute_and_read(wheel):
    "Run and figure notebooks, workflow, configurations, the explorer with its table; once each, as in the repository"
    packed = ZipFile(wheel)
    inside = {name.removeprefix('modspec/shipped/') for name in packed.namelist() if '/shipped/' in name}
    patterns = ('config/*/*', 'workflow/*', 'workflow/profiles/*/*', 'nbs/runs/*', 'nbs/studies/*/figures/*',
                'nbs/explorer/explore*')
    wanted = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file() and path.name[0] != '.'}
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= inside
    for name in inside: assert packed.read(f'modspec/shipped/{name}') == (ROOT / name).read_bytes()


def test_the_wheel_works_from_an_empty_folder(installed, tmp_path):
    answer = subprocess.run([installed, ROOT / 'tests' / 'try_wheel.py'], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_every_study_is_reproduced_from_the_wheel(installed, tmp_path, study):
    command = [installed, ROOT / 'tests' / 'try_wheel.py', study]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# the release

def settings() -> dict[str, str]:
    "What settings.ini says"
    found = ConfigParser(delimiters=['='])
    found.read(ROOT / 'settings.ini', encoding='utf-8')
    return dict(found['DEFAULT'])


def text(name: str) -> str:
    "A file of the repository"
    return (ROOT / name).read_text(encoding='utf-8')


def test_the_version_stands_in_one_place():
    "and the package has it from there; no other file of a release names it, but for the changelog"
    version = settings()['version']
    assert text('modspec/__init__.py') == f'__version__ = "{version}"\n'
    assert re.search(rf'^## {re.escape(version)}\b', text('CHANGELOG.md'), re.M)
    for name in ('CITATION.cff', '.zenodo.json', 'pyproject.toml', 'setup.py', 'Dockerfile', 'Makefile',
                 '.github/workflows/ci.yml', '.github/workflows/release.yml'):
        assert version not in text(name), name


def test_citation_and_archive_agree():
    "Zenodo reads .zenodo.json alone where there are both"
    citation, archive, own = yaml.safe_load(text('CITATION.cff')), json.loads(text('.zenodo.json')), settings()
    assert archive['title'] == citation['title'] == own['lib_name']
    assert archive['description'] == ' '.join(citation['abstract'].split())
    assert [c['name'] for c in archive['creators']] == [a['name'] for a in citation['authors']] == [own['author']]
    assert archive['license'] == citation['license'] and archive['keywords'] == own['keywords'].split()
    paper = citation['references'][0]['identifiers'][0]['value']
    assert paper.startswith(archive['related_identifiers'][0]['identifier'])


def test_links_of_the_changelog():
    targets = re.findall(r'\]\((?!https?:|#)([^)#]+)', text('CHANGELOG.md'))
    for target in targets: assert (ROOT / target).exists(), target


def test_image():
    "Short, of known instructions, built from what is there and what the wheel needs; shell lines that a shell can read"
    lines = [line for line in text('Dockerfile').splitlines() if line and line[0] != '#']
    assert len(text('Dockerfile').splitlines()) <= 15
    for line in lines:
        word, rest = line.split(' ', 1)
        assert word in ('FROM', 'COPY', 'RUN', 'ARG', 'ENV', 'WORKDIR', 'ENTRYPOINT', 'CMD')
        if word == 'RUN': subprocess.run(['sh', '-n', '-c', rest], check=True)
        if word in ('ENTRYPOINT', 'CMD'): assert json.loads(rest)
    allowed = [line[1:] for line in text('.dockerignore').splitlines() if line[0] == '!']
    needed = {'setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'modspec'}
    needed |= {pattern.split('*')[0].rstrip('/') for pattern in settings()['shipped'].split()}
    for name in needed: assert any(Path(name).is_relative_to(path) for path in allowed), name
    for path in allowed: assert (ROOT / path).exists(), path


def test_devcontainer():
    "Its commands are there once `make env` has been run"
    about = json.loads(text('.devcontainer/devcontainer.json'))
    for name in ('onCreateCommand', 'postAttachCommand'):
        programs = re.findall(r'\.venv/bin/(\S+)', about[name])
        assert programs and all(Path(sys.executable).with_name(program).is_file() for program in programs)
