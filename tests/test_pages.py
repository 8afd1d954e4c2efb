"""Pages and lines that are made when the site is built, or of other files: the gallery, citation, foot"""

import json
import re
from base64 import b64decode, b64encode
from html import unescape
from io import BytesIO
from pathlib import Path

import pytest
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
    (there / 'third.py').write_text("REGISTERED = []\n")
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
