"""Does an installed modspec do all its work from an empty folder? Run by the Python of the environment it is in:

    path/to/environment/bin/python tests/try_wheel.py [STUDY ...]

With names of studies their smoke sweeps are reproduced as well. Nothing of a checkout is used.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

COMMAND = Path(sys.executable).with_name('modspec')
REFUSED = {  # arguments, and what the one line says; tests/test_shipped.py has more
    'sweep extreme_sparsity/smok': 'did you mean extreme_sparsity/smoke?',
    'sweep extreme_sparsity/smoke --profile nope': 'nope is no Snakemake profile',
    'reproduce causes/quick --device cuda:99': 'cuda:99',
    'run --sparsity 2 --out one': 'sparsity',
}
EXPLORED = """
import nbformat
from nbclient import NotebookClient
from pathlib import Path
from modspec.core.shipped import repository, working_copy
copy = working_copy(repository() / 'nbs' / 'explorer' / 'explore.ipynb', Path())
NotebookClient(nbformat.read(copy, 4), kernel_name='python3', timeout=600).execute()
"""


def call(folder: Path, *command: str | Path) -> subprocess.CompletedProcess:
    "A command in a folder, without the variables that lead to a checkout"
    kept = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run(command, cwd=folder, env=kept | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)


def answered(folder: Path, line: str) -> str:
    "What a command of modspec prints; its name is printed here"
    print(f'  modspec {line}', flush=True)
    answer = call(folder, COMMAND, *line.split())
    logs = '\n'.join(path.read_text() for path in sorted(folder.rglob('*.log')))
    assert answer.returncode == 0, answer.stdout + answer.stderr + logs
    return answer.stdout


def check_installed(root: Path) -> None:
    "The modules are those of the environment, of one version"
    where = call(root, sys.executable, '-c', 'import modspec; print(modspec.__file__)').stdout.strip()
    assert Path(where).is_relative_to(sys.prefix), f'{where} is not in {sys.prefix}'
    assert answered(root, '--version').strip() == f'modspec {version("modspec")}'


def check_refused(root: Path) -> None:
    "A command that cannot do its work says so in a line, and leaves nothing behind"
    for line, words in REFUSED.items():
        answer = call(root, COMMAND, *line.split())
        assert answer.returncode == 2 and words in answer.stderr, (line, answer.returncode, answer.stderr)
        assert not [*root.iterdir()], f'modspec {line} left {[*root.iterdir()]}'


def check_run(root: Path) -> None:
    "A run, a list of runs by the path that a checkout has, and the command that opens the explorer"
    answered(root, 'run --sparsity 0.1 --seeds 1 --epochs 1 --set n_pairs=640 --out results/one')
    assert (root / 'results' / 'one' / 'notebook.ipynb').is_file()
    answered(root, 'sweep config/extreme_sparsity/smoke.yaml --dry-run')
    answered(root, 'explore --version')
    cells = json.loads((root / 'explore.ipynb').read_text())['cells']
    shown = ''.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown').count('![')
    assert sum(len(cell.get('attachments', {})) for cell in cells) == shown > 0


def check_study(root: Path, study: str) -> None:
    "Sweep, figures and verdicts of a study"
    said = answered(root, f'reproduce {study}/smoke --out results/{study}')
    figures = [line.split()[1] for line in said.splitlines() if line.startswith('figure: ')]
    assert figures and all((root / figure).stat().st_size > 1000 for figure in figures)
    for line in (f'figures results/{study} --out again', f'verify results/{study}',
                 f'status config/{study}/smoke.yaml --out results/{study}'):
        answered(root, line)


def main(studies: list[str]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        check_installed(root)
        check_refused(root)
        check_run(root)
        for study in studies: check_study(root, study)
        if studies:
            print('  the explorer', flush=True)
            answer = call(root, sys.executable, '-c', EXPLORED)
            assert answer.returncode == 0, answer.stderr
    print(f'modspec {version("modspec")} works from an empty folder')


if __name__ == '__main__':
    main(sys.argv[1:])
