"""Pages and lines that are made when the site is built, or of other files: gallery, citation, foot, sources"""

import inspect
import json
import re
from base64 import b64decode, b64encode
from html import unescape
from io import BytesIO
from pathlib import Path

import pytest
import typer
import yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import NBProcessor
from PIL import Image
from test_docs import LINK, problem, prose, site
from test_repository import NBS, ROOT, cells, name
from typer.testing import CliRunner

from modspec.cli import app
from modspec.core.registry import PLUGINS
from tools import sources
from tools.pages import built, foot

STUDIED = [*NBS.glob('studies/**/*.ipynb'), NBS / 'paper.ipynb']


def made(page: Path, folder: Path, monkeypatch) -> dict:
    "What the code of a chapter defines, its last cell excepted"
    values: dict = {}
    monkeypatch.chdir(folder)
    for cell in cells(page)[:-1]:
        if cell['cell_type'] == 'code': exec(''.join(cell['source']), values)
    return values


def pictures(path: Path) -> list[str]:
    "The figures that a chapter holds"
    return [''.join(output['data']['image/png']) for cell in cells(path) for output in cell.get('outputs', [])
            if 'image/png' in output.get('data', {})]


def notebook(path: Path, *parts: dict) -> Path:
    "A chapter of such cells"
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = dict(metadata={}, outputs=[], execution_count=None)
    whole = dict(cells=[shared | part for part in parts], nbformat=4, nbformat_minor=5, metadata={})
    path.write_text(json.dumps(whole), encoding='utf-8')
    return path


# the gallery

def test_gallery_has_every_figure_of_every_study(monkeypatch):
    "Each once, small, told in words, and leading to its section"
    page = made(NBS / 'gallery.ipynb', NBS, monkeypatch)['gallery']()
    tiles = re.findall(r'^\[<img src="data:image/webp;base64,(.+?)" alt="(.+?)" .+?>\]\((.+?)\)$', page, flags=re.M)
    assert len(tiles) == page.count('<img') == len({png for path in STUDIED for png in pictures(path)})
    shown = {link.partition('#')[0] for link in LINK.findall(page)}
    assert shown == {name(path) for path in STUDIED if pictures(path)}
    for data, alt, link in tiles:
        assert len(b64decode(data)) <= 20_000 and unescape(alt).strip()
        assert not problem(NBS / 'gallery.ipynb', link)


def test_gallery_needs_no_change_for_a_new_study(tmp_path, monkeypatch):
    Image.new('RGB', (900, 300)).save(drawn := BytesIO(), 'png')
    output = dict(output_type='display_data', metadata={}, data={'image/png': b64encode(drawn.getvalue()).decode()})
    notebook(tmp_path / 'studies' / 'new' / 'found.ipynb',
             dict(cell_type='markdown', source='# Found\n\n> Something'),
             dict(cell_type='markdown', source='## 2. What *is* it?'),
             dict(cell_type='code', source='#| fig-cap: "A figure"\n#| fig-alt: "Two <lines>"\nfig', outputs=[output]))
    (tmp_path / '_quarto.yml').write_text('website: {sidebar: {contents: [{section: New, contents: '
                                          '[{section: In it, contents: [studies/new/found.ipynb]}]}]}}')
    page = made(NBS / 'gallery.ipynb', tmp_path, monkeypatch)['gallery']()
    assert '## New' in page and 'A figure' in page and 'alt="Two &lt;lines&gt;"' in page
    assert '[Found](studies/new/found.ipynb#what-is-it)' in page


def test_gallery_is_not_stored():
    "It is made when the site is built, of pictures that the chapters hold"
    assert not [cell for cell in cells(NBS / 'gallery.ipynb') if cell.get('outputs')], 'clear outputs of gallery.ipynb'


def test_built_cells_are_executed_in_the_folder_of_their_chapter(tmp_path):
    here = notebook(tmp_path / 'in' / 'page.ipynb', dict(cell_type='code', source='from pathlib import Path'),
                    dict(cell_type='code', source='#| built\nprint(Path.cwd().name)'),
                    dict(cell_type='code', source='print("not this")'))
    nb = read_nb(here)
    NBProcessor(nb=nb, procs=[built]).process()
    assert [[output['text'] for output in cell['outputs']] for cell in nb.cells] == [[], [['in\n']], []]
    nb = read_nb(notebook(here, dict(cell_type='code', source='#| built\n1 / 0')))
    with pytest.raises(RuntimeError, match='page.ipynb, cell 0'): NBProcessor(nb=nb, procs=[built]).process()


# how to cite, how to build on this

CITE = NBS / 'howto' / 'cite.ipynb'


def test_citation_is_up_to_date(monkeypatch):
    "Its stored text is what CITATION.cff and settings.ini give now"
    values: dict = {}
    monkeypatch.chdir(CITE.parent)
    for source in (''.join(cell['source']) for cell in cells(CITE) if cell['cell_type'] == 'code'):
        if source.startswith('Markdown('): break
        exec(source, values)
    assert values['citation']() in prose(CITE), 'execute nbs/howto/cite.ipynb again'
    for part in (get_config().version, '2106.02626v1', 'Béna, Gabriel and Goodman, Dan F. M.'):
        assert part in values['citation']()


PLUGIN = """from modspec.causes.cause import Cause
REGISTERED = [dict(kind='cause', name='priced', object='Priced', label='priced', needs=['subnetworks'],
                   strength='link_price', settings={'link_price': dict(default=0.0, least=0, most=1e9)})]
class Priced(Cause): pass
"""


def test_sweeps_of_the_projects_can_be_run(there):
    "Every file of a project, by the command below it, as far as to list its runs; plugins have what the page says"
    blocks = re.findall(r'^```(yaml|sh)\n(.*?)^```', '\n'.join(prose(CITE)), flags=re.M | re.S)
    assert [kind for kind, _ in blocks] == ['yaml', 'sh'] * 3
    (there / 'links.py').write_text(PLUGIN)
    (there / "third.py").write_text(PLUGIN)
    for (_, config), (_, command) in zip(blocks[::2], blocks[1::2]):
        words = command.split()
        assert config.startswith(f'# {words[2]}\n')
        (there / words[2]).write_text(config)
        PLUGINS.clear()
        answer = CliRunner().invoke(app, [*words[1:], '--dry-run'])
        assert answer.exit_code == 0, answer.output
        assert f'{len(yaml.safe_load(config)["variations"]) + 1} missing' in answer.output
    PLUGINS.clear()


# the foot of all pages

def test_version_stands_in_one_place():
    "The foot has that of settings.ini, and Quarto is told so nowhere else"
    config = get_config()
    assert f'{config.title} {config.version}, ' in foot(config)['website']['page-footer']['left']
    assert config.version not in (ROOT / '_quarto.yml').read_text()
    assert 'footer.yml' in site()['metadata-files']
    assert all((NBS / item['href']).is_file() for item in site()['website']['page-footer']['right'])


# from which results

PNG = dict(output_type='display_data', metadata={}, data={'image/png': 'AAAA'})


def figure(source: str, caption: str = 'A figure') -> dict:
    "A cell that shows a picture"
    return dict(cell_type='code', source=f'#| fig-cap: "{caption}"\n#| fig-alt: "Lines"\n{source}', outputs=[PNG])


def sourced_page(path: Path, *parts: dict) -> tuple[list[str], str]:
    "What is added to the captions of a chapter, and its last cell"
    nb = read_nb(notebook(path, *parts))
    NBProcessor(nb=nb, procs=[sources.sourced]).process()
    options = [yaml.safe_load('\n'.join(re.findall(r'^#\| (.+:.+)$', cell.source, flags=re.M))) for cell in nb.cells]
    captions = [each['fig-cap'] for each in options if each]
    assert all(each['fig-alt'] == 'Lines' for each in options if each)
    return [caption.removeprefix('A figure').strip() for caption in captions], nb.cells[-1].source


def code(source: str) -> dict: return dict(cell_type='code', source=source)


def test_a_caption_names_the_results_that_its_figure_is_from(tmp_path):
    "Each its own, through names and functions; a figure of something else says nothing"
    said, end = sourced_page(
        tmp_path / 'page.ipynb', code('from modspec.analysis.tables import read_table'),
        code("results = Path('../../results')\ndef half(table): return table[::2]"),
        code("table = read_table(results / 'causes_retina')\nother = read_table('../../results/dense')"),
        figure('fig = draw(half(table))'), figure('fig = draw([name for name in (other, table)])'),
        figure("fig = draw(invented('paper'))"))
    assert [re.findall(r'`results/(\w+)`', one) for one in said] == [['causes_retina'], ['causes_retina', 'dense'], []]
    assert said[2] == '' and '[causes_retina](' in end and '[dense](' in end and '[paper](' not in end


def test_where_a_folder_is_not_named_whole_all_of_the_page_are_listed(tmp_path):
    "Names that are put together, and functions that are given the folder of all results"
    said, end = sourced_page(
        tmp_path / 'page.ipynb', code('from modspec.studies.upstream_downstream.effects import untrained_layers'),
        code("results = Path('../../results')\ntables = {one: read_table(results / f'layers_{one}') for one in NAMES}"),
        code("NAMES = 'wide', 'deep'\nbefore = untrained_layers(tables['wide'], results)"),
        figure('fig = draw(tables)'), figure('fig = draw(before)'))
    assert said == ['From [these results](#from-which-results).'] * 2
    assert all(f'[layers_{one}](' in end for one in ('wide', 'deep', 'untrained', 'untrained_wide'))
    assert '[layers_base](' not in end


def test_the_table_of_everything_is_from_the_panels_of_all_studies(tmp_path):
    said, end = sourced_page(
        tmp_path / 'page.ipynb', code('from modspec.studies.everything.claims import read_everything'),
        code("evidence = read_everything(Path('../../../results'))"), figure('fig = draw(evidence)'))
    assert said == ['From [these results](#from-which-results).']
    assert all(f'[{one}](' in end for one in ('causes_retina', 'causes_digits', 'layers_shuffled', 'mixture'))


def test_a_page_without_results_stays_as_it_is(tmp_path):
    said, end = sourced_page(tmp_path / 'page.ipynb', figure('fig = draw()'))
    assert said == [''] and end.endswith('fig = draw()')


@pytest.mark.parametrize('runs, expected', [
    ([None], ('', '')),
    ([dict(commit='1f' * 20, date='2026-01-02T03:04:05+00:00', clean=True)], ('1f1f1f1f1f1f', '2026-01-02')),
    ([dict(commit='1f' * 20, date='2026-01-02', clean=False)],
     ('1f1f1f1f1f1f, with changes that are in no commit', '2026-01-02')),
    ([dict(commit='1f' * 20, date='2026-01-02', clean=True), dict(commit='2e' * 20, date='2026-03-04', clean=True)],
     ('1f1f1f1f1f1f, 2e2e2e2e2e2e', '2026-01-02 to 2026-03-04')),
    ([dict(commit='1f' * 20, date='2026-01-02', clean=True), None], ('1f1f1f1f1f1f (of some runs)', '2026-01-02'))])
def test_what_is_known_of_a_commit(tmp_path, monkeypatch, runs, expected):
    "Of a commit only what the manifest records; nothing is made up for results that are older"
    folder = tmp_path / 'results' / 'mine'
    folder.mkdir(parents=True)
    of_runs = {str(i): dict(provenance=one) if one else {} for i, one in enumerate(runs)}
    manifest = dict(runs=of_runs, codes={'training': {'abc': []}, 'training, l1': {'def': []}}, sha256='0' * 64)
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    monkeypatch.setattr(sources, 'get_config', lambda: type('Config', (), dict(config_path=tmp_path)))
    about = sources.provenance_of('mine')
    assert (about['commit'], about['date']) == expected
    assert (about['code'], about['checksum']) == ('abc, def', '0' * 12)
    said = sources.in_caption({'mine'})
    assert (f'computed at commit {expected[0]}.' if expected[0] else 'commit not recorded.') in said


def test_every_figure_of_committed_results_says_so():
    "Pages of figures, which read nothing else, name a folder under each; anchors and results are there"
    for path in NBS.glob('studies/*/figures/*.ipynb'):
        nb = read_nb(path)
        NBProcessor(nb=nb, procs=[sources.sourced]).process()
        shown = [cell.source for cell in nb.cells if pictures_of(cell)]
        assert shown and all('](#from-which-results)' in source for source in shown), path
        linked = re.findall(r'/results/([\w.]+)\)', nb.cells[-1].source)
        assert linked and all((ROOT / 'results' / one).exists() for one in linked)


def pictures_of(cell) -> list:
    "Pictures that a cell shows"
    return [output for output in cell.get('outputs', []) if 'image/png' in output.get('data', {})]


# the commands

def test_table_of_commands_is_up_to_date():
    "Its stored page has a row for every command, as its help is now, with an example that its options allow"
    values: dict = dict(typer=typer, inspect=inspect, re=re)
    for source in (''.join(cell['source']) for cell in cells(NBS / 'cli.ipynb')):
        if 'def command_table' in source: exec(source, values)
    now = values['command_table'](app)
    assert now in prose(NBS / 'cli.ipynb'), 'execute nbs/cli.ipynb again'
    commands = typer.main.get_command(app).commands
    assert re.findall(r'^\| \[(\w+)\]', now, flags=re.M) == [*commands]
    for example in re.findall(r'`modspec (.+?)`', now):
        name, *words = example.split()
        options = {one for parameter in commands[name].params for one in parameter.opts}
        assert {word for word in words if word.startswith('--')} <= options
