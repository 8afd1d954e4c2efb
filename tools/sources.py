"""From which results a figure is, and from which commit these are: said on its page when the website is built.

Named in settings.ini among `procs`. All of it is read off the code of the chapter; nothing is executed. What a cell
shows is from the names that it uses, and these from the results that were read into them: its caption names them. Where
code puts a folder's name together, or hands the folder of all results to a function, the caption refers to a list at
the end of the page, of all results that the page and such functions name. When and from which commit results were
computed is said by their manifests, and where these do not know, that is said.
"""

import ast
import json
import re
from fnmatch import fnmatchcase
from functools import cache
from hashlib import sha256

import yaml
from execnb.nbio import mk_cell
from nbdev.config import get_config
from nbdev.process import Processor

CAPTION = re.compile(r'^#\| fig-cap: .*$', flags=re.M)


@cache
def known() -> frozenset[str]:
    "What stands in the folder of results: sweeps, and tables; the folder of a single run is somebody's own"
    there = get_config().config_path / 'results'
    return frozenset([*(path.parent.name for path in there.glob('*/manifest.json')
                        if 'runs' in json.loads(path.read_text(encoding='utf-8'))),
                      *(path.name for path in there.glob('*.csv'))])


def texts(*nodes: ast.AST) -> set[str]:
    "The strings that some code holds"
    return {part.value for node in nodes for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def patterns(node: ast.AST) -> set[str]:
    "Strings with a `*` for what is filled in"
    return {''.join(part.value if isinstance(part, ast.Constant) else '*' for part in one.values)
            for one in ast.walk(node) if isinstance(one, ast.JoinedStr)}


def named(node: ast.AST, around: set[str]) -> set[str]:
    "Results whose names some code has, or can make of strings that stand around it"
    found = texts(node) & known()
    for pattern in (one for one in patterns(node) if one.strip('*')):
        before, after = pattern.split('*')[0], pattern.split('*')[-1]
        found |= {name for name in known() if fnmatchcase(name, pattern)
                  and name.removeprefix(before).removesuffix(after) in around}
    return found


def loaded(node: ast.AST) -> set[str]:
    "The names that some code uses"
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def imported(body: list[ast.stmt], here: str = 'modspec') -> dict[str, str]:
    "The modules that names are imported from, those of this package only"
    found = {}
    for part in (one for one in body if isinstance(one, ast.ImportFrom)):
        above = here.split('.')[:-part.level] if part.level else []
        module = '.'.join([*above, *(part.module or '').split('.')]).strip('.')
        if module.startswith('modspec'): found |= {alias.asname or alias.name: module for alias in part.names}
    return found


@cache
def tree(module: str) -> ast.Module:
    "The code of a module of this package"
    path = get_config().config_path / f'{module.replace(".", "/")}.py'
    return ast.parse(path.read_text(encoding='utf-8')) if path.is_file() else ast.Module([], [])


def registered_panels() -> list[tuple[str, str]]:
    "Modules and functions of what every study adds to the table of everything"
    found = []
    for path in sorted((get_config().config_path / 'modspec' / 'studies').glob('*/panel.py')):
        module = f'modspec.studies.{path.parent.name}.panel'
        found += [(module, part.name) for part in tree(module).body if isinstance(part, ast.FunctionDef)
                  and part.name.endswith('_panel')]
    return found


@cache
def reads(module: str, function: str, above: frozenset = frozenset()) -> frozenset[str]:
    "Results that a function of the package names, where it is given the folder in which they stand"
    body = tree(module).body
    made = next((part for part in body if isinstance(part, ast.FunctionDef) and part.name == function), None)
    if made is None or (module, function) in above: return frozenset()
    if function == 'all_panels':
        return frozenset().union(*(reads(*one, above | {(module, function)}) for one in registered_panels()))
    values = {target.id: part.value for part in body if isinstance(part, ast.Assign) for target in part.targets
              if isinstance(target, ast.Name)}
    given = {arg.arg for arg in made.args.args if arg.arg in ('results', 'beside')}
    found, froms = set(), imported(body, module)
    for node in ast.walk(made):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef) and given & loaded(node):
            globs = {name for text in texts(node, *(values[name] for name in loaded(node) & values.keys()))
                     if '*' in text for name in known() if fnmatchcase(name, text)}
            found |= named(node, texts(*body)) | globs
            found |= {name for at in loaded(node) & values.keys() for name in texts(values[at]) & known()}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and any(
                given & loaded(arg) for arg in (*node.args, *(one.value for one in node.keywords))):
            found |= reads(froms.get(node.func.id, module), node.func.id, above | {(module, function)})
    return frozenset(found)


class Reader:
    "Goes through the code of a chapter, cell by cell, and knows from which results its names are"
    def __init__(self, around: set[str]):
        self.around, self.page = around, set()  # strings of the chapter; all results that it names
        self.of: dict[str, set[str]] = {}  # names, and the results that they are from; `*` for any of the page's
        self.whole, self.froms, self.said = set(), {}, {}

    def is_whole(self, node: ast.AST) -> bool:
        "Is this the folder in which all results stand?"
        if isinstance(node, ast.Name): return node.id in self.whole
        if isinstance(node, ast.Attribute): return node.attr == 'parent' and bool(loaded(node) & self.of.keys())
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'Path':
            return any(map(self.is_whole, node.args))
        return isinstance(node, ast.Constant) and re.search(r'(^|/)results/?$', str(node.value)) is not None

    def exact(self, node: ast.AST) -> set[str]:
        "Results that a statement names whole"
        found = {name for text in texts(node) for name in re.findall(r'results/([\w.]+)', text)}
        return (found | {part.right.value for part in ast.walk(node) if self.is_folder(part)}) & known()

    def is_folder(self, node: ast.AST) -> bool:
        "Is this one folder of results, such as `results / 'paper'`?"
        return isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and self.is_whole(node.left)

    def vague(self, node: ast.AST) -> set[str] | None:
        "Results that a statement may read beside those that it names whole; None if it reads no others"
        parts = [*ast.walk(node)]
        wholes = [part for part in parts if not isinstance(part, ast.Call) and self.is_whole(part)]
        if len(wholes) == sum(map(self.is_folder, parts)): return None
        found = named(node, self.around)
        found |= {name for one in loaded(node) for name in self.said.get(one, set()) & known()}
        for part in parts:
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in self.froms:
                if any(map(self.is_whole, part.args)): found |= reads(self.froms[part.func.id], part.func.id)
        return found

    def cell(self, source: str) -> set[str]:
        "The results that a cell's figure is from"
        every: set[str] = set()
        for node in statements(source):
            self.froms |= imported([node])
            is_path = isinstance(node, ast.Assign) and self.is_whole(node.value)
            found, more = self.exact(node), None if is_path else self.vague(node)
            self.page |= found | (more or set())
            found = found.union(*(self.of.get(name, set()) for name in loaded(node)), {'*'} if more else set())
            if isinstance(node, ast.FunctionDef | ast.ClassDef): stored = {node.name}
            else: stored, every = assigned(node), every | found
            self.whole = self.whole | stored if is_path else self.whole - stored
            self.of |= dict.fromkeys(stored, found)
            self.said |= dict.fromkeys(stored, texts(node))
        return every


def statements(source: str) -> list[ast.stmt]:
    "The code of a cell, without what Jupyter alone understands"
    try: return ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
    except SyntaxError: return []


def assigned(node: ast.stmt) -> set[str]:
    "The names that a statement leaves behind"
    inner = {target for part in ast.walk(node) if isinstance(part, ast.comprehension)
             for target in ast.walk(part.target)}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            and part not in inner}


def provenance_of(name: str) -> dict[str, str]:
    "What is known of where results come from: `commit`, `date`, `code` and `checksum`, each for people, or empty"
    path = get_config().config_path / 'results' / name
    if path.is_file():
        return dict(commit='', date='', code='', checksum=sha256(path.read_bytes()).hexdigest()[:12])
    manifest = json.loads((path / 'manifest.json').read_text(encoding='utf-8'))
    said = [run.get('provenance') or {} for run in manifest['runs'].values()]
    commits = sorted({one['commit'][:12] for one in said if one.get('commit')})
    days = sorted({one['date'][:10] for one in said if one.get('date')})
    changed = any(one.get('clean') is False for one in said)
    some = len(commits) and not all(one.get('commit') for one in said)
    codes = sorted({code for part, by_code in manifest.get('codes', {}).items() if part.startswith('training')
                    for code in by_code})
    return dict(commit=', '.join(commits) + ', with changes that are in no commit' * changed + ' (of some runs)' * some,
                date=' to '.join(dict.fromkeys(days[:1] + days[-1:])),
                code=', '.join(codes[:2]) + f' and {len(codes) - 2} more' * (len(codes) > 2),
                checksum=manifest['sha256'][:12])


def in_caption(names: set[str]) -> str:
    "The sentence at the end of a caption; empty for a figure that is from no results"
    if not names: return ''
    if '*' in names: return 'From [these results](#from-which-results).'
    def one(name):
        commit = provenance_of(name)['commit']
        known = f'computed at commit {commit}' if commit else 'commit not recorded'
        return f'[`results/{name}`](#from-which-results), {known}'
    return f'From {"; ".join(map(one, sorted(names)))}.'


def listed(names: set[str]) -> str:
    "The end of a page: what is known of the results that it reads"
    config, rows = get_config(), []
    for name in sorted(names):
        about = {key: value or 'not recorded' for key, value in provenance_of(name).items()}
        link = f'[{name}]({config.git_url}/tree/{config.branch}/results/{name})'
        rows.append(f'| {link} | {about["date"]} | {about["commit"]} | {about["code"]} | {about["checksum"]} |')
    return ('## From which results\n\nThe results that the code of this page names, and what their manifests say; the '
            'tests of a ledger may read others beside them. Results that are older than the record of commits have a '
            'hash of the code that trained their networks. The checksum is that of the manifest, which has those of '
            'the tables, or of a file without one.\n\n'
            '| results | computed | commit | code | checksum |\n|---|---|---|---|---|\n' + '\n'.join(rows))


class sourced(Processor):
    "Captions and pages that say from which results they are"
    def begin(self):
        codes = [cell for cell in self.nb.cells if cell.cell_type == 'code']
        own = [cell for cell in codes if 'exports' not in cell.directives_]
        reader, found = Reader({text for cell in own for node in statements(cell.source) for text in texts(node)}), []
        for cell in codes:
            if cell not in own:
                reader.froms |= imported(statements(cell.source))
                continue
            names = reader.cell(cell.source)
            if not any('image/png' in output.get('data', {}) for output in cell.get('outputs', [])): continue
            found += names
            said = CAPTION.search(cell.source)
            if said and names: cell.source = cell.source.replace(said[0], captioned(said[0], in_caption(names)))
        if found: self.nb.cells.append(mk_cell(listed(reader.page), 'markdown'))


def captioned(line: str, said: str) -> str:
    "The line of a caption, with a sentence more"
    caption = yaml.safe_load(line.removeprefix('#| '))['fig-cap']
    return f'#| fig-cap: {json.dumps(f"{caption} {said}", ensure_ascii=False)}'
