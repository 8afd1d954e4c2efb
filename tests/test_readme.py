"""The README is index.ipynb's text. Run this file to write it: python tests/test_readme.py"""

import base64
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
PICTURE = 'nbs/images/from_python.png'  # the one that the code draws


def as_readme(notebook: Path) -> str:
    "Markdown and code cells in order, with links that start at the repository's root"
    parts = ['<!-- Made from nbs/index.ipynb by tests/test_readme.py: edit the notebook -->']
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if source.startswith('<div '): continue  # a figure that lives on the website
        if cell['cell_type'] == 'markdown':
            parts.append(re.sub(r'\]\((?!https?:|#)', '](nbs/', source))
            continue
        code = re.sub(r'^#\| .*\n', '', source, flags=re.MULTILINE)  # captions are for the website
        parts.append(f'```python\n{code}\n```')
        parts += [as_block(output) for output in cell['outputs']]
    return '\n\n'.join(parts) + '\n'


def as_block(output: dict) -> str:
    "An output: Markdown as it is, plain text indented as code, the picture from its file"
    if 'image/png' in output.get('data', {}): return f'![What this code draws]({PICTURE})'
    if 'text/markdown' in output.get('data', {}): return ''.join(output['data']['text/markdown'])
    text = ''.join(output['data']['text/plain'] if 'data' in output else output['text'])
    return '\n'.join('    ' + line for line in text.splitlines())


def drawn(notebook: Path) -> bytes:
    "The picture that the code of a notebook draws"
    outputs = [output for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']
               for output in cell.get('outputs', []) if 'image/png' in output.get('data', {})]
    (output,) = outputs
    return base64.b64decode(output['data']['image/png'])


def test_readme_is_the_index():
    found = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert found == as_readme(ROOT / 'nbs' / 'index.ipynb'), 'run: python tests/test_readme.py'
    assert (ROOT / PICTURE).read_bytes() == drawn(ROOT / 'nbs' / 'index.ipynb'), 'run: python tests/test_readme.py'


def test_links_exist():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', (ROOT / 'README.md').read_text(encoding='utf-8')):
        assert (ROOT / target).exists(), target


def test_code_runs(tmp_path, monkeypatch):
    "All Python of the README, block after block, in an empty folder"
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(encoding='utf-8'), re.DOTALL)
    for block in blocks: exec(block, names)
    plt.close(names['fig'])
    assert names['accuracy'].min() > 0.5 and names['specialization'].shape == (5, 2)
    assert list(tmp_path.iterdir()) == []


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(as_readme(ROOT / 'nbs' / 'index.ipynb'), encoding='utf-8')
    (ROOT / PICTURE).write_bytes(drawn(ROOT / 'nbs' / 'index.ipynb'))
