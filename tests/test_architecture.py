"""The house as the files have it: who imports whom, which names there are, what loads no PyTorch, how cells look"""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'modspec'
ORDER = 'core', 'networks', 'causes', 'training', 'measures', 'engine', 'studies', 'inspection', 'explorer', 'cli'
TORCH_FREE = ['core.checks', 'core.registry', 'core.files', 'core.shipped', 'core.sparsity', 'core.mnist',
              'networks.choices', 'training.parameters', 'engine.plan', 'engine.identity', 'engine.config',
              'engine.store', 'engine.notebook', 'engine.columns', 'engine.processes', 'engine.sweep',
              'engine.progress', 'engine.doctor']
MODULES = {'.'.join(path.relative_to(PACKAGE).with_suffix('').parts): path for path in sorted(PACKAGE.rglob('*.py'))
           if not path.stem.startswith('_')}
NOTEBOOKS = sorted(path for path in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)


def imports(module):
    "The modules of the package that a module imports anywhere in it, absolutely or relatively"
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = ('modspec.' + module).split('.')[:-node.level] if node.level else []
            base = '.'.join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f'{base}.{alias.name}' for alias in node.names)]
        found |= {name.removeprefix('modspec.') for name in names if name.startswith('modspec.')} & {*MODULES}
    return found - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def folder(module): return module.split('.')[0]


def with_all(module, seen=None):
    "All modules that a module needs, directly or not, itself included"
    seen = set() if seen is None else seen
    if module not in seen:
        seen.add(module)
        for other in IMPORTS[module]: with_all(other, seen)
    return seen


# the direction of flow

@pytest.mark.parametrize('module', MODULES)
def test_no_import_against_the_flow(module):
    "From folders to the left; analysis from core and itself, and it may be imported from studies on"
    here = folder(module)
    assert here in (*ORDER, 'analysis')
    for other in IMPORTS[module]:
        there = folder(other)
        if here == 'analysis': assert there in ('core', 'analysis'), f'{module} imports {other}'
        elif there == 'analysis': assert here in ORDER[ORDER.index('studies'):], f'{module} imports {other}'
        else: assert ORDER.index(there) <= ORDER.index(here), f'{module} imports {other}'


@pytest.mark.parametrize('module', MODULES)
def test_no_circle(module):
    assert not [other for other in IMPORTS[module] if module in with_all(other)]


CROSSING = {'digit_pairs', 'everything'}  # studies whose subject is to join others; these know nothing of them


def test_studies_do_not_import_one_another():
    for module in (m for m in MODULES if folder(m) == 'studies' and m.split('.')[1] not in CROSSING):
        others = {m for m in IMPORTS[module] if folder(m) == 'studies' and m.split('.')[1] != module.split('.')[1]}
        assert not others, f'{module} imports {others}'


# what loads no PyTorch

def torch_free():
    studies = [m for m in MODULES if re.fullmatch(r'studies\.\w+\.(config|claims|figures)', m)]
    return [m for m in [*TORCH_FREE, *studies, *(m for m in MODULES if folder(m) == 'analysis')] if m in MODULES]


def test_light_modules_load_no_torch():
    "Each in turn in one process: the first that does is named"
    code = ('import importlib, sys\n'
            f'for module in {torch_free()}:\n'
            '    importlib.import_module("modspec." + module)\n'
            '    if "torch" in sys.modules: sys.exit(module + " loads torch")')
    answer = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


# names and cells

def cells(notebook, kind='code'):
    return [''.join(cell['source']) for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == kind]


def is_exported(cell): return re.match(r'#\| *exports?\b', cell) is not None


def exporting(notebook): return any(is_exported(cell) for cell in cells(notebook))


CHAPTERS = [path for path in NOTEBOOKS if exporting(path)]
every_chapter = pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda path: path.relative_to(ROOT / 'nbs').as_posix())


def defined(body):
    "The names that statements define, imports excepted"
    names = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
        names += [part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)
                  and isinstance(node, (ast.Assign, ast.AnnAssign))]
    return names


def test_names_are_unique_in_the_package():
    "So that a name in a chapter needs no explanation which one is meant; each module may register something"
    where = {}
    for module, path in MODULES.items():
        for name in {*defined(ast.parse(path.read_text()).body)}:
            if name not in ('REGISTERED', '__all__'): where.setdefault(name, []).append(module)
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


@every_chapter
def test_a_chapter_exports_one_module_of_its_own_name(chapter):
    wanted = '.'.join(chapter.relative_to(ROOT / 'nbs').with_suffix('').parts)
    assert [m for cell in cells(chapter) for m in re.findall(r'^#\| *default_exp (\S+)', cell, re.M)] == [wanted]


@every_chapter
def test_cells(chapter):
    "One function or class where something is exported, imports by themselves, and lines that can be read"
    for source in cells(chapter):
        for line in source.splitlines():
            assert len(line) <= 100 or line.startswith('#|'), line
        body = ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
        are_imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        assert all(are_imports) or not any(are_imports), f'imports and other things in one cell: {source}'
        if not is_exported(source): continue
        definitions = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert len(definitions) <= 1, f'more than one thing exported in a cell: {source}'
        assert all(len(source.splitlines()) <= 51 for _ in definitions), f'too long for one cell: {source}'
