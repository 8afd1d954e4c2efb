"""The figure that lives without a kernel. Run this file to take its static picture: python tests/test_live.py"""
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_browser import BROWSERS, browser_path

from modspec.analysis.tables import read_table
from modspec.core.data import embedded_digits
from modspec.core.tasks import PARITY, admissible
from modspec.explorer.live import (
    live_block,
    live_data,
    live_script,
    pack_networks,
    pack_weights,
    read_live,
    train_live,
    unpack_networks,
    unpack_weights,
)
from modspec.explorer.response import respond, silence
from modspec.measures.performance import evaluate
from modspec.networks.recurrent import Recurrent, init_stack, sparsities
from modspec.training.parameters import Parameters

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'nbs' / 'live'
WIDTHS = 1400, 400


@pytest.fixture(scope='module')
def dataset(): return embedded_digits()


@pytest.fixture(scope='module')
def data(): return read_live(FOLDER / 'data.js')


@pytest.fixture(scope='module')
def networks(data): return unpack_networks(data['networks'])


# the file

def test_the_file_is_what_its_networks_give(dataset, networks):
    made = live_script(live_data(networks, dataset, read_table(ROOT / 'results' / 'mixture')))
    assert made == (FOLDER / 'data.js').read_text(encoding='utf-8')


def test_networks_stand_at_sparsities_of_the_curves(data, networks):
    "so that the cursor finds a value on each"
    for curve in data['curves']: assert {*sparsities(networks)} <= {row[0] for row in curve['trained']}
    for network, p in zip(data['networks'], sparsities(networks)):
        assert network['links'] == round(p * data['units']**2)


def test_networks_know_their_task(dataset, networks):
    assert evaluate(networks, dataset.test)[0].min() > 0.9


def test_small_enough():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_500_000


@pytest.mark.parametrize('size', [1e-20, 1e-3, 1., 1e20])
def test_packed(size):
    "A byte each, close to what was packed; what is not 0 stays so, and a second time changes nothing"
    W = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * size
    W[0] = 0
    W[1] *= 1e-6
    kept = pack_weights(W)
    again = unpack_weights(kept)
    assert ((again != 0) == (W != 0)).all() and pack_weights(again) == kept
    weak = W.abs() < kept['scale'] / 2
    assert ((again - W).abs() <= torch.where(weak, kept['scale'], kept['scale'] / 2 * 1.001)).all()


def test_packed_zeros():
    assert not unpack_weights(pack_weights(torch.zeros(3))).any()


def test_training_again_gives_the_same_bytes(dataset):
    "and those of a network do not depend on the others"
    brief = Parameters(epochs=1, n_pairs=64, batch_size=32)
    both = pack_networks(train_live(dataset, [0.001, 0.1], brief))
    assert both == pack_networks(train_live(dataset, [0.001, 0.1], brief))
    assert both[1]['weights']['W_sparse'] == pack_networks(train_live(dataset, [0.1], brief))[0]['weights']['W_sparse']


def test_other_sizes_are_read_back():
    network = init_stack(Recurrent(16, n_hidden=7), [0], 1.)
    assert unpack_networks(pack_networks(network)).architecture == network.architecture


# the page

@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright
    arguments = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try: yield browser
        finally: browser.close()


@pytest.fixture(scope='module')
def browser():
    pytest.importorskip('playwright', reason='needs Playwright: pip install playwright')
    if browser_path() is None: pytest.skip(f'needs one of the browsers {", ".join(BROWSERS)}')
    with chromium() as browser: yield browser


@contextmanager
def opened(browser, width, address=None, **how):
    "The page on a screen of this width; nothing in it complains"
    context = browser.new_context(viewport=dict(width=width, height=900), **how)
    page, complaints = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on('console', lambda message: complaints.append(message.text))
    page.goto(address or (FOLDER / 'live.html').as_uri())
    try: yield page
    finally: context.close()
    assert complaints == []


@pytest.fixture(params=WIDTHS)
def page(browser, request):
    with opened(browser, request.param) as page: yield page


def move_to(page, k):
    page.locator('input[type=range]').fill(f'{k}')


def middle(line):
    "Where on the screen the middle of a link is"
    line.scroll_into_view_if_needed()
    return line.evaluate('''line => {
        const [x, y] = ['x', 'y'].map(c => (+line.getAttribute(c + 1) + +line.getAttribute(c + 2)) / 2);
        const at = new DOMPoint(x, y).matrixTransform(line.getScreenCTM());
        return [at.x, at.y]; }''')


def said(page):
    "What the page says of the sub-networks, in their order"
    return page.locator('.network text').filter(has_text='says').all_text_contents()


def asked_of_torch(network, dataset, data, pair, silent=()):
    "What the page should say"
    N = data['units']
    parts = [(at // N**2, at // N % N, at % N) for at in silent]
    return respond(silence(network, parts), dataset.test.images[data['pairs'][pair]])


@pytest.mark.parametrize('width', WIDTHS)
def test_the_page_computes_what_torch_computes(browser, width, dataset, data, networks):
    "for every network, with all links and with some of them silent"
    with opened(browser, width) as page:
        for k in range(len(networks)):
            links = networks[k].weights['W_sparse'][0].flatten()
            for pair, silent in (k, []), (40 + k, links.abs().argsort(descending=True)[:1 + k].tolist()):
                found = page.evaluate('([k, pair, silent]) => modspecLive.compute(k, modspecLive.pairs[pair], silent)',
                                      [k, pair, silent])
                wanted = asked_of_torch(networks[k], dataset, data, pair, silent)
                assert torch.allclose(torch.tensor(found['states']), wanted.states[-1], rtol=0, atol=1e-4)
                assert torch.allclose(torch.tensor(found['readouts']), wanted.readouts, rtol=0, atol=1e-4)
                assert (found['decider'], found['answer']) == (wanted.decider, wanted.answer)


def test_the_page_counts_as_torch_does(browser, dataset, data, networks):
    pairs = torch.tensor(data['pairs']).T
    direction = networks[10].weights['W_sparse'][0, 0].flatten().nonzero()[:, 0].tolist()
    with opened(browser, 1400) as page:
        found = [page.evaluate('silent => modspecLive.accuracy(10, silent)', silent) for silent in ([], direction)]
    wanted = [evaluate(network, dataset.test, pairs)[0].item()
              for network in (networks[10], silence(networks[10], [(0,)]))]
    assert found == pytest.approx(wanted, abs=1.01 / 300) and wanted[1] < wanted[0]


def test_slider(page, data):
    "moves the network, the cursor on the curves, and the words"
    seen = set()
    for k in 0, 4, 10:
        move_to(page, k)
        network = data['networks'][k]
        where = page.locator('.where').inner_text()
        assert where.startswith(f'p = {network["sparsity"]:g}: {network["links"]:,} link')
        assert page.locator('input[type=range]').get_attribute('aria-valuetext') == where
        assert page.locator('.link').count() == 2 * min(network['links'], 20)
        curves = page.locator('.curves').get_attribute('aria-label')
        for curve in data['curves']:
            value = next(row[1] for row in curve['trained'] if row[0] == network['sparsity'])
            assert f'{curve["label"]} {value:.2f}' in curves
        seen.add(page.locator('.cursor').get_attribute('style'))
    assert len(seen) == 3
    page.locator('input[type=range]').press('ArrowLeft')
    assert page.locator('.where').inner_text().startswith(f'p = {data["networks"][9]["sparsity"]:g}:')


def test_cursor_stands_above_the_handle(page):
    "within the width of the handle, from one end to the other"
    page.emulate_media(reduced_motion='reduce')
    slider = page.locator('input[type=range]')
    box = slider.bounding_box()
    for k in 0, 5, 10:
        move_to(page, k)
        line = page.locator('.cursor line').bounding_box()
        assert abs(line['x'] - (box['x'] + 8 + (box['width'] - 16) * k / 10)) < 6


def test_a_link_is_clicked_silent(page, dataset, data, networks):
    move_to(page, 0)
    pair = page.evaluate('modspecLive.pairs.findIndex(pair => modspecLive.compute(0, pair).answer !== '
                         'modspecLive.compute(0, pair, [...modspecLive.linksOf(0)]).answer)')
    while page.locator('.verdict').get_attribute('data-images') != '{},{}'.format(*data['pairs'][pair]):
        page.get_by_text('next pair').click()
    before, line = said(page), page.locator('.link').first
    page.mouse.click(*middle(line))
    assert line.get_attribute('aria-pressed') == 'true' and 'One link is silent' in page.locator('.hint').inner_text()
    page.mouse.click(*middle(page.locator('.link').last))
    every = page.evaluate('modspecLive.linksOf(0)')
    wanted = asked_of_torch(networks[0], dataset, data, pair, every)
    says = wanted.readouts.argmax(1).tolist()
    assert said(page) == [f'says {c}{", and decides" * (n == wanted.decider)}' for n, c in enumerate(says)] != before
    assert 'With every link' in page.locator('.verdict').inner_text()
    page.get_by_role('button', name='none').click()
    assert said(page) == before and page.locator('.link[aria-pressed=true]').count() == 0


def test_links_by_keyboard(page):
    move_to(page, 3)
    links = page.locator('.link')
    assert page.locator('.link[tabindex="0"]').count() == 1
    links.nth(0).focus()
    page.keyboard.press('Enter')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Space')
    assert [link.get_attribute('aria-pressed') for link in links.all()[:3]] == ['true', 'true', 'false']
    page.keyboard.press('Enter')
    assert links.nth(1).get_attribute('aria-pressed') == 'false'
    assert links.nth(0).get_attribute('aria-label').startswith('Silence link ')


def test_whole_directions(page):
    move_to(page, 10)
    button = page.get_by_role('button', name='0 → 1', exact=True)
    button.click()
    assert button.get_attribute('aria-pressed') == 'true'
    assert '10,000 links are silent' in page.locator('.hint').inner_text()
    pressed = page.locator('.link[aria-pressed=true]')
    names = pressed.evaluate_all("all => all.map(link => link.getAttribute('aria-label'))")
    assert len(names) == 20 and all(name.startswith('Silence link 0 → 1') for name in names)
    page.locator('.right', has_text='with every link').wait_for()
    button.click()
    assert page.locator('.link[aria-pressed=true]').count() == 0


def test_pairs(page, data):
    "One after the other, or by their digits; never one that networks are not shown"
    digits = page.locator('select')
    page.get_by_text('next pair').click()
    pair = [*map(int, page.locator('.verdict').get_attribute('data-images').split(','))]
    assert pair in data['pairs']
    assert [int(select.input_value()) for select in digits.all()] == [data['labels'][image] for image in pair]
    first = int(digits.first.input_value())
    disabled = digits.last.evaluate('select => [...select.options].map(option => option.disabled)')
    assert disabled == [not admissible(torch.tensor([first, d])) for d in range(10)]
    other = str((first + 4) % 10)
    digits.last.select_option(other)
    assert digits.last.input_value() == other
    target = int(PARITY.target(torch.tensor([first, int(other)])))
    assert f'the {target}.' in page.locator('.verdict').inner_text()


def test_nothing_is_wider_than_the_screen(page):
    for k in 0, 10:
        move_to(page, k)
        assert page.evaluate('document.documentElement.scrollWidth') <= page.viewport_size['width']
        edges = page.locator('.modspec-live :is(text, button, select)').evaluate_all(
            'all => all.flatMap(one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right])')
        assert min(edges) >= 0 and max(edges) <= page.viewport_size['width']


@pytest.mark.parametrize('width', WIDTHS)
def test_picture_where_scripts_are_off(browser, width):
    with opened(browser, width, java_script_enabled=False) as page:
        box = page.locator('.modspec-live img').bounding_box()
        assert box['width'] > 300 and box['height'] > 150 and box['x'] + box['width'] <= width
        assert len(page.locator('.modspec-live img').get_attribute('alt')) > 50


def test_inside_another_page(browser, tmp_path):
    "in a column of a page elsewhere, with the ink of that page"
    column = f'<body style="color: rgb(1, 2, 3)"><div style="width: 380px">{live_block(FOLDER.as_uri() + "/")}</div>'
    (tmp_path / 'home.html').write_text(f'<!DOCTYPE html><meta charset="utf-8">{column}', encoding='utf-8')
    with opened(browser, 1400, (tmp_path / 'home.html').as_uri()) as page:
        box = page.locator('figure').bounding_box()
        assert box['width'] == 380 < box['height']
        assert page.locator('.curves text').first.evaluate('text => getComputedStyle(text).fill') == 'rgb(1, 2, 3)'


def test_motion_only_where_it_is_wanted(browser):
    for wish, moves in ('reduce', False), ('no-preference', True):
        with opened(browser, 1400, reduced_motion=wish) as page:
            seconds = page.locator('.cursor').evaluate('cursor => getComputedStyle(cursor).transitionDuration')
            assert (seconds != '0s') == moves


def take_picture(path: Path) -> None:
    "What stands in for the figure where scripts are off"
    with chromium() as browser, opened(browser, 900, device_scale_factor=1.5) as page:
        page.locator('.right', has_text='%').wait_for()
        page.locator('.modspec-live').screenshot(path=path)
    Image.open(path).convert('RGB').quantize(128).save(path, optimize=True)


if __name__ == '__main__':
    take_picture(FOLDER / 'live.png')
