"""The website's API cards and links: signatures as they are written, sources folded away, links that stay in the site.

Named in settings.ini: `renderer` draws a card for every exported definition, `procs` work on each chapter after nbdev's
own. A name in backticks is a link if the chapter defines or imports it, for many a word is also a name somewhere else.
"""

import ast
import os
import re
from functools import cache
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

BACKTICKS = re.compile(r'(?<![\[`\w])`([A-Za-z_][\w.]*)(\(\))?`(?!\])')


@cache
def parsed(path: Path) -> tuple[list[str], dict[str, ast.stmt]]:
    "The lines of a module, and its definitions by name; those of methods have the name of their class before them"
    text, found = path.read_text(encoding='utf-8'), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= {f'{node.name}.{part.name}': part for part in node.body if isinstance(part, ast.FunctionDef)}
    return text.splitlines(), found


def signature(lines: list[str], node: ast.FunctionDef) -> list[str]:
    "A function's lines before its body"
    first = node.body[0]
    if first.lineno == node.lineno: return [lines[node.lineno - 1][:first.col_offset].rstrip().rstrip(':')]
    return lines[node.lineno - 1:first.lineno - 1]


def head(lines: list[str], node: ast.stmt) -> str:
    "What a card shows: a function's signature, or a class with its fields or its `__init__`"
    if isinstance(node, ast.FunctionDef): return '\n'.join(signature(lines, node))
    shown = [lines[node.lineno - 1]]
    for part in node.body:
        if isinstance(part, ast.AnnAssign): shown += lines[part.lineno - 1:part.end_lineno]
        if isinstance(part, ast.FunctionDef) and part.name == '__init__': shown += signature(lines, part)
    return '\n'.join(shown) if len(shown) > 1 else shown[0].rstrip(':')


def is_command(node: ast.stmt) -> bool:
    "Is it a command of a terminal, whose arguments its help tells?"
    return any(isinstance(one, ast.Call) and getattr(one.func, 'attr', '') == 'command'
               for one in getattr(node, 'decorator_list', []))


class Card(BasicMarkdownRenderer):
    "Name, link to the source, signature as written, and what it says of itself"
    def _repr_markdown_(self):
        known = NbdevLookup()[self.fn]
        if not isinstance(known, tuple): return super()._repr_markdown_()
        lines, found = parsed(get_config().config_path / known[1])
        name = self.fn.removeprefix('modspec.').rpartition(':')[2]
        node = found.get(name) or found.get(self.nm)
        if node is None: return super()._repr_markdown_()
        first, *more = (self.docs or '').strip().split('\n\n')  # where a name may end with an asterisk
        said = '\n\n'.join(['', f'_{first}_', *more]) if first else ''
        where = f'[source]({NbdevLookup().code(self.fn)}){{style="float:right; font-size:smaller"}}'
        shown = '' if is_command(node) else f'\n\n```python\n{head(lines, node)}\n```'
        return f'{where}\n\n{"#" * self.title_level} {self.nm}{shown}{said}'


LONGEST = 8  # Lines of code with a helper or a picture; more are a click away


def statements(source: str) -> list[ast.stmt]:
    "What stands in a cell; nothing if it holds a command of a shell"
    try: return ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
    except SyntaxError: return []


def is_picture(output) -> bool: return 'image/png' in output.get('data', {})


def summary(cell) -> str:
    "What to write instead of code that a reader of the site need not see; nothing for code that is to be read"
    body = statements(cell.source)
    if 'exports' in cell.directives_: return 'Exported source'
    if body and all(isinstance(part, ast.Import | ast.ImportFrom) for part in body): return 'Imports'
    helpers = [part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    long = len([line for line in cell.source.splitlines() if not line.startswith('#|')]) > LONGEST
    if helpers and (long or len(helpers) == len(body)): return f'Code: {", ".join(helpers)}'
    return 'Code of the figure' if long and any(map(is_picture, cell.outputs)) else ''


def folded(cell):
    "Exported sources, imports, helpers and what draws a figure are a click away"
    if cell.cell_type != 'code' or 'code-fold' in cell.source or not (said := summary(cell)): return
    cell.source = f'#| code-fold: true\n#| code-summary: "{said}"\n{cell.source}'


def names_of(source: str) -> set[str]:
    "What some code defines or imports from this package"
    body = statements(source)
    names = {part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef)}
    for part in body:
        if isinstance(part, ast.ImportFrom) and (part.module or '').startswith('modspec'):
            names |= {alias.name for alias in part.names}
        if isinstance(part, ast.Assign): names |= {t.id for t in part.targets if isinstance(t, ast.Name)}
    return names


class linked(Processor):
    "Names in backticks lead to the chapter that defines them, by relative addresses"
    def begin(self):
        config, self.lookup = get_config(), NbdevLookup()
        self.base = f'{config.doc_host}{config.doc_baseurl}/'
        path = Path(getattr(self.nb, 'path_', config.nbs_path / 'index.ipynb'))
        self.here = path.resolve().relative_to(Path(config.nbs_path).resolve()).parent
        self.names = set().union(*(names_of(cell.source) for cell in self.nb.cells if cell.cell_type == 'code'))

    def link(self, match):
        "A link in place of a name, or the name"
        name = match.group(1)
        address = self.lookup.doc(name) if name.split('.')[0] in self.names else None
        if not address or not address.startswith(self.base): return match.group(0)
        page, _, anchor = address.removeprefix(self.base).partition('#')
        return f'[{match.group(0)}]({os.path.relpath(page, self.here)}#{anchor})'

    def cell(self, cell):
        if cell.cell_type != 'markdown': return
        fenced, lines = False, cell.source.splitlines()
        for i, line in enumerate(lines):
            if line.startswith('```'): fenced = not fenced
            elif not fenced and not line.startswith('    '): lines[i] = BACKTICKS.sub(self.link, line)
        cell.source = '\n'.join(lines)
