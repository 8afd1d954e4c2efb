"""Are the modules what the notebooks export, and the notebooks clean? Export and clean a copy, then compare."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
COPIED = 'settings.ini', 'pyproject.toml', 'nbs', 'modspec/__init__.py', 'modspec/__main__.py'  # others are exported
CHECKED = 'pyproject.toml', 'modspec/**/*.py', 'nbs/**/*.ipynb'
SKIPPED = '.ipynb_checkpoints', '__pycache__', 'results'


def contents(root: Path) -> dict[Path, bytes]:
    "The files under `root` that must not change, by path relative to it"
    paths = (path.relative_to(root) for pattern in CHECKED for path in root.glob(pattern))
    return {path: (root / path).read_bytes() for path in paths if not set(path.parts) & set(SKIPPED)}


def exported_and_cleaned() -> dict[Path, bytes]:
    "The same files after `nbdev_export` and `nbdev_clean`, run in a copy: the working tree stays untouched"
    env = {name: value for name, value in os.environ.items() if name != 'IN_TEST'}  # with it nbdev_export does nothing
    with TemporaryDirectory() as tmp:
        copy = Path(tmp) / ROOT.name
        for name in COPIED:
            source, target = ROOT / name, copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir(): shutil.copytree(source, target, ignore=shutil.ignore_patterns(*SKIPPED))
            elif source.exists(): shutil.copy(source, target)
        for command in 'nbdev_export', 'nbdev_clean':
            subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, env=env, check=True)
        return contents(copy)


def main() -> None:
    "Name every file that differs and exit with 1, or say that all agree"
    now, wanted = contents(ROOT), exported_and_cleaned()
    for path in sorted(now.keys() | wanted.keys()):
        if path not in wanted: print(f'{path}: no notebook exports this module; remove it')
        elif path not in now: print(f'{path}: missing; run nbdev_export')
        elif now[path] != wanted[path]: print(f'{path}: differs; run {fix(path)}')
    if now != wanted: sys.exit(1)
    print(f'{len(now)} files agree')


def fix(path: Path) -> str:
    "The command that brings `path` in line"
    return 'nbdev_clean' if path.suffix == '.ipynb' else 'nbdev_export (edit the notebook, never the module)'


if __name__ == '__main__':
    main()
