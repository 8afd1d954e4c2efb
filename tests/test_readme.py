"""The README is index.ipynb's text. Run this file to write it: python tests/test_readme.py"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def as_readme(notebook: Path) -> str:
    "Markdown and code cells in order, with links that start at the repository's root"
    parts = ['<!-- Made from nbs/index.ipynb by tests/test_readme.py: edit the notebook -->']
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(re.sub(r'\]\((?!https?:|#)', '](nbs/', source))
            continue
        parts.append(f'```python\n{source}\n```')
        parts += [as_block(output) for output in cell['outputs']]
    return '\n\n'.join(parts) + '\n'


def as_block(output: dict) -> str:
    "An output: Markdown as it is, plain text indented as code"
    if 'text/markdown' in output.get('data', {}): return ''.join(output['data']['text/markdown'])
    text = ''.join(output['data']['text/plain'] if 'data' in output else output['text'])
    return '\n'.join('    ' + line for line in text.splitlines())


def test_readme_is_the_index():
    found = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert found == as_readme(ROOT / 'nbs' / 'index.ipynb'), 'run: python tests/test_readme.py'


def test_links_exist():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', (ROOT / 'README.md').read_text(encoding='utf-8')):
        assert (ROOT / target).exists(), target


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(as_readme(ROOT / 'nbs' / 'index.ipynb'), encoding='utf-8')
