"""The website: its structure, links that lead somewhere, titles, captions, the reference, and what nbdev makes of it"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import copied_checkout
from nbconvert import HTMLExporter
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from pages import heights
from test_browser import BROWSERS, browser_path
from test_living_figure import chromium
from test_repository import NBS, NOTEBOOKS, ROOT, cells, environment, name

from modspec import _modidx
from tools.pages import foot

REPOSITORY = 'https://github.com/modspec/modspec/blob/main/'
LINK = re.compile(r'(?<!\\)\]\(([^)\s]+)\)')
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=name)


def site() -> dict:
    "What Quarto is told"
    return yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))


def prose(path: Path) -> list[str]:
    "Markdown of a notebook: its cells, and what its code printed as Markdown"
    outputs = (output['data'].get('text/markdown', '') for cell in cells(path) for output in cell.get('outputs', [])
               if 'data' in output)
    return [*(''.join(c['source']) for c in cells(path) if c['cell_type'] == 'markdown'), *map(''.join, outputs)]


def title(path: Path) -> str: return prose(path)[0].splitlines()[0].removeprefix('# ')


def slug(heading: str) -> str:
    "The anchor that pandoc gives a heading"
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
    return re.sub(r'[^\w\s.-]', '', text).strip().lower().replace(' ', '-').lstrip('0123456789.-_')


@cache
def anchors(path: Path) -> set[str]:
    "Where a link into a notebook can lead: its headings, what has a name, and the code that it exports"
    text = '\n'.join(re.sub(r'^```.*?^```', '', part, flags=re.M | re.S) for part in prose(path))
    module = re.search(r'#\| default_exp ([\w.]+)', path.read_text(encoding='utf-8'))
    names = _modidx.d['syms'].get(f'modspec.{module[1]}', {}) if module else {}
    headings = {slug(heading) for heading in re.findall(r'^#+ (.+)$', text, flags=re.M)}
    named = {*re.findall(r'<\w+ id="([^"]+)"', text)}
    return headings | named | {link.split('#')[1] for link, _ in names.values()}


def problem(path: Path, link: str) -> str:
    "What is wrong with a link of a notebook; nothing if it leads to a page, an anchor or a file of the repository"
    if link.startswith(REPOSITORY): return '' if (ROOT / link.removeprefix(REPOSITORY)).exists() else 'no such file'
    if re.match(r'https?:', link): return ''
    file, _, anchor = link.partition('#')
    target = (path.parent / file).resolve() if file else path
    if not target.is_file(): return 'no such file'
    if not target.is_relative_to(NBS): return f'not a part of the website; link to {REPOSITORY}'
    return '' if not anchor or anchor in anchors(target) else f'no such anchor, there are {sorted(anchors(target))}'


# structure

def sidebar(entries: list) -> list[str]:
    "All notebook paths of a Quarto sidebar, in order"
    return [path for entry in entries for path in (sidebar(entry['contents']) if isinstance(entry, dict) else [entry])]


def test_one_site_configuration():
    link = NBS / '_quarto.yml'
    assert link.is_symlink() and link.readlink() == Path('../_quarto.yml')


def test_sidebar():
    "Every notebook once; every entry exists"
    assert sorted(sidebar(site()['website']['sidebar']['contents'])) == sorted(map(name, NOTEBOOKS))


def test_no_section_repeats_its_page():
    "neither in the sidebar, `Claims > Claims`, nor on the page"
    def repeated(entries, section=''):
        for entry in entries:
            if isinstance(entry, dict): yield from repeated(entry['contents'], entry['section'])
            elif title(NBS / entry).lower() == section.lower(): yield section, entry

    assert not [*repeated(site()['website']['sidebar']['contents'])]
    for path in NOTEBOOKS:
        headings = re.findall(r'^##+ (.+)$', '\n'.join(prose(path)), flags=re.M)
        assert title(path).lower() not in map(str.lower, headings), path


def test_style_sheet_exists():
    assert (NBS / site()['format']['html']['css']).is_file()


# pages

@each_notebook
def test_title_and_description(path):
    "A page begins with a cell of its title and one line on what it is about"
    head = re.fullmatch(r'# (.+)\n+> (.+)', prose(path)[0].strip())  # what follows in the same cell, nbdev drops
    assert head and len(head[1]) <= 60 and len(head[2]) <= 120


def test_titles_differ():
    titles = [prose(path)[0].splitlines()[0] for path in NOTEBOOKS]
    assert len(set(titles)) == len(titles)


@each_notebook
def test_links(path):
    wrong = {link: problem(path, link) for text in prose(path) for link in LINK.findall(text) if problem(path, link)}
    assert not wrong


def test_a_wrong_link_is_found():
    page = NBS / 'index.ipynb'
    assert problem(page, 'training/loop.ipynb#what-to-remember') == problem(page, 'training/loop.ipynb#train') == ''
    assert 'no such file' in problem(page, 'training/lop.ipynb')
    assert 'anchor' in problem(page, 'training/loop.ipynb#lop')
    assert 'not a part' in problem(page, '../LICENSE') and problem(page, REPOSITORY + 'LICENCE') == 'no such file'


@each_notebook
def test_converts(path):
    "to a page that has its title, its math between marks that MathJax finds, and no error"
    page, _ = HTMLExporter().from_filename(str(path))
    assert '<h1' in page and 'Traceback' not in page
    for text in prose(path): assert text.count('$$') % 2 == 0


def is_figure(cell: dict) -> bool:
    "Does the code of a cell leave a picture?"
    return any('image/png' in output.get('data', {}) for output in cell.get('outputs', []))


@each_notebook
def test_figures_have_captions_and_alt_text(path):
    "which Quarto takes from comments at the beginning of the cell, as YAML"
    for source in (''.join(cell['source']) for cell in cells(path) if is_figure(cell)):
        options = yaml.safe_load('\n'.join(re.findall(r'^#\| (.+:.+)$', source, flags=re.M))) or {}
        assert {'fig-cap', 'fig-alt'} <= options.keys(), source
    for text in prose(path): assert '![](' not in text


# reference

def test_search_finds_where_a_thing_is_defined():
    "by the words that people look for; neither Q nor its formula can be searched for"
    assert 'measures/structure.ipynb' in searched(NBS, 'newman modularity')
    assert 'measures/clusterability.ipynb' in searched(NBS, 'n-cut') and not searched(NBS, 'newman modulation')


def test_names_in_backticks_have_a_reference():
    "nbdev turns them into links to the chapter that defines them"
    lookup = NbdevLookup('modspec')
    for function in ('train', 'evaluate', 'init_stack', 'RunConfig', 'specialization', 'newman_q', 'load_networks'):
        assert lookup.doc(function).endswith(f'.html#{function.lower()}')
        assert lookup.linkify(f'see `{function}`') == f'see [`{function}`]({lookup.doc(function)})'


@each_notebook
def test_no_link_around_a_name(path):
    "nbdev would put its own link to the name inside"
    lookup = NbdevLookup('modspec')
    assert not [link for text in prose(path) for link in re.findall(r'\[`([^`]+)`\]\(', text) if lookup.doc(link)]


def test_reference_is_up_to_date(monkeypatch):
    "Its stored page is what its code gives now"
    path, values = NBS / 'reference.ipynb', {}
    monkeypatch.chdir(NBS)
    for cell in cells(path)[:-1]:
        if cell['cell_type'] == 'code': exec(''.join(cell['source']), values)
    assert prose(path)[-1] == values['reference'](), 'execute nbs/reference.ipynb again and store its output'


def test_reference_has_every_public_name():
    page = prose(NBS / 'reference.ipynb')[-1]
    for module, names in _modidx.d['syms'].items():
        for full in names:
            short = full.removeprefix(f'{module}.')
            if '.' not in short and not short.startswith('_'): assert f'| [{short}](' in page


# what nbdev makes of it

@pytest.fixture(scope='module')
def quarto(tmp_path_factory):
    "A Quarto that does nothing: nbdev would fetch one if it found none"
    program = tmp_path_factory.mktemp('quarto') / 'bin' / 'quarto'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n')
    program.chmod(0o755)
    return program.parent


def processed(root: Path, quarto: Path) -> subprocess.CompletedProcess:
    "`make docs` up to Quarto, from the root of a checkout"
    command = [Path(sys.executable).with_name('nbdev_proc_nbs'), '--n_workers', '2']
    return subprocess.run(command, cwd=root, env=environment(root, quarto), capture_output=True, text=True)


def cards_of(path: Path) -> dict[str, str]:
    "The cards of a chapter as the site shows them, by the name in their heading"
    texts = [''.join(output.get('data', {}).get('text/markdown', '')) for cell in cells(path)
             for output in cell.get('outputs', []) if ''.join(cell['source']).rstrip().endswith(')')
             and 'show_doc(' in ''.join(cell['source'])]
    return {re.search('^### (.+)$', text, flags=re.M).group(1): text for text in texts}


def searched(made: Path, query: str) -> set[str]:
    "Pages that the site's search finds: those that have the words in their text as it is shown, one after the other"
    def shown(text): return ' '.join(re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', text).replace('`', '').split()).lower()
    return {path.relative_to(made).as_posix() for path in made.rglob('*.ipynb')
            if any(query in shown(text) for text in prose(path))}


@pytest.fixture(scope='module')
def made(tmp_path_factory, quarto) -> Path:
    "The site up to Quarto, of a clean checkout"
    root = copied_checkout(tmp_path_factory.mktemp('docs') / 'clone')
    answer = processed(root, quarto)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert 'containing imports and other code' not in answer.stderr, answer.stderr
    return root / '_proc'


def test_docs_of_a_clean_checkout(made):
    "nbdev executes every cell that has an import, from the root: such cells hold imports only"
    assert {path.relative_to(made).as_posix() for path in made.rglob('*.ipynb')} == {*map(name, NOTEBOOKS)}
    assert yaml.safe_load((made / '_quarto.yml').read_text()) == site()
    assert yaml.safe_load((made / 'nbdev.yml').read_text())['project']['output-dir'] == '_docs'
    assert any(cell.get('outputs') for cell in cells(made / 'gallery.ipynb'))
    assert yaml.safe_load((made / 'footer.yml').read_text()) == foot(get_config())
    shown, config = cards_of(made / 'measures' / 'links.ipynb'), get_config()
    assert list(shown) == ['rms_norm', 'first_links', 'link_strength']
    assert all(part in shown['link_strength'] for part in ('*, bar:tqdm|None=None', ')->dict[str, Tensor]:'))
    end = ''.join(cells(made / 'studies' / 'causes' / 'causes.ipynb')[-1]['source'])
    assert end.startswith('## From which results') and '[causes_retina](' in end
    assert 'measures/structure.ipynb' in searched(made, 'newman modularity')
    for path in made.rglob('*.ipynb'):
        assert not [text for text in prose(path) if f'{config.doc_host}{config.doc_baseurl}/' in text], path
        signatures = [re.search('```.*?```', card, flags=re.S) for card in cards_of(path).values()]
        assert not [one[0] for one in signatures if one and '](' in one[0]]  # commands have none


def test_code_that_is_a_click_away(made):
    "Exported sources, imports, helpers and what draws a figure; the rest is to be read"
    shown = [cell for cell in cells(made / 'studies' / 'extreme_sparsity' / 'figures.ipynb')
             if cell['cell_type'] == 'code' and '#| code-fold: true' not in ''.join(cell['source'])]
    sources = ['\n'.join(line for line in ''.join(cell['source']).splitlines() if not line.startswith('#|'))
               for cell in shown]
    assert not [source for source in sources if re.match('(from|import) ', source)]
    assert not [source for source in sources if re.match('(def|class) .*\n.+', source) and source.count('\n') > 8]
    assert 'fig = figure_raw_measures(table)' in sources


def claims_pages() -> list[Path]:
    return [path for path in NOTEBOOKS if path.name == 'claims.ipynb']


@pytest.mark.parametrize('path', claims_pages(), ids=name)
def test_verdicts_lead_to_their_entries(path):
    "Every claim once in the table at the top of its page, and its entry on the same page"
    first, *others = [text for text in prose(path) if re.search(r'^\| Claim \|', text, flags=re.M)]
    names = re.findall(r'\[([^]]+)\]\(#\1\)', first)
    text = '\n'.join(prose(path))
    assert len(names) == len(set(names)) == first.count('\n') - 1 > 0
    assert re.findall(r'<details id="([^"]+)">', text) == names and not others
    assert text.index('| Claim |') < text.index('<details') and prose(path)[1].count('#') < 4


# how high

LONG = ['analysis/evidence', 'analysis/specialization', 'cli', 'engine/columns', 'faults', 'measures/associations',
        'measures/structure', 'networks/recurrent', 'reference', 'speed', 'studies/causes/causes',
        'studies/causes/evolution', 'studies/extreme_sparsity/claims', 'studies/extreme_sparsity/figures',
        'studies/extreme_sparsity/sensitivity', 'studies/extreme_sparsity/structure_or_learning', 'training/loop']
HIGHEST = 12_000  # pixels in a window of 1400


def test_no_page_is_too_high(made):
    "The longest pages, as the theme lays them out"
    pytest.importorskip('playwright', reason='needs Playwright: pip install playwright')
    if browser_path() is None: pytest.skip(f'needs one of the browsers {", ".join(BROWSERS)}')
    with chromium() as browser: found = heights(browser, [made / f'{page}.ipynb' for page in LONG], 1400)
    assert not {page.relative_to(made): height for page, height in found.items() if not 1000 < height < HIGHEST}


# workflows

@pytest.mark.parametrize('workflow', ['ci', 'docs'])
def test_workflows_call_the_makefile(workflow):
    "so that what runs there can be run here"
    jobs = yaml.safe_load((ROOT / '.github' / 'workflows' / f'{workflow}.yml').read_text(encoding='utf-8'))['jobs']
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), flags=re.M)
    for job in jobs.values():
        made = [step['run'].removeprefix('make ') for step in job['steps'] if step.get('run', '').startswith('make ')]
        assert made and set(made) <= {*targets}
