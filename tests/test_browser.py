"""The explorer in a real browser. Run this file to take the pictures of its chapter: python tests/test_browser.py"""
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
SETTINGS = {  # all cells on the page at once, and no questions asked
    'notebook-extension/tracker': '{"windowingMode": "none"}',
    'apputils-extension/notification': '{"fetchNews": "false", "checkForUpdates": false}'}
NOTEBOOK = ROOT / 'nbs' / 'explorer' / 'explore.ipynb'
PANELS = re.findall(r'images/explorer_(\w+)\.png', NOTEBOOK.read_text(encoding='utf-8'))  # in the order of the page


def browser_path() -> str | None:
    "The Chromium of this machine, if it has one"
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def make_checkout(folder: Path) -> None:
    "What the chapter needs, in a folder that JupyterLab may write to"
    (folder / 'nbs' / 'explorer').mkdir(parents=True)
    shutil.copy(NOTEBOOK, folder / 'nbs' / 'explorer')
    shutil.copytree(ROOT / 'nbs' / 'images', folder / 'nbs' / 'images')
    for name, text in SETTINGS.items():
        path = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(text)


@contextmanager
def jupyterlab(folder: Path):
    "The address of the explorer in a JupyterLab of its own, which ends with the block"
    address = f'http://127.0.0.1:{(port := free_port())}'
    options = ['--no-browser', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
               f'--notebook-dir={folder}', '--IdentityProvider.token=explorer', '--allow-root']
    own = {name: str(folder / name.lower()) for name in ('JUPYTER_RUNTIME_DIR', 'JUPYTER_CONFIG_DIR', 'IPYTHONDIR')}
    own |= {'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings'), 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1',
            'JUPYTERLAB_WORKSPACES_DIR': str(folder / 'workspaces')}
    command = [sys.executable, '-m', 'jupyterlab', *options]
    with (folder / 'lab.log').open('w') as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    try:
        wait_for(f'{address}/api', server, folder / 'lab.log')
        yield f'{address}/lab/tree/nbs/explorer/explore.ipynb?token=explorer'
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    "Until the server answers; it is on this machine, whatever proxy another test has named"
    end, ask = time.monotonic() + seconds, urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    while time.monotonic() < end and server.poll() is None:
        try:
            ask(address, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError: time.sleep(0.2)
    raise RuntimeError(f'JupyterLab does not answer:\n{log.read_text()[-2000:]}')


class Explorer:
    "The chapter on a laptop's screen, all cells run"
    def __init__(self, page, address: str):
        self.page = page
        page.set_default_timeout(60_000)
        page.goto(address)
        page.locator('#jp-main-statusbar').get_by_text('| Idle').wait_for()  # the kernel is there
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        self.button.wait_for(timeout=180_000)
        self.idle()

    @property
    def button(self): return self.page.get_by_role('button', name='train a fresh network')

    def idle(self) -> None:
        "Wait until every cell has run"
        self.page.wait_for_function("() => !Array.from(document.querySelectorAll('.jp-InputPrompt'))"
                                    ".some(prompt => prompt.textContent.includes('*'))", timeout=180_000)

    def panel(self, name: str):
        "The output with the panel of this name"
        output = self.page.locator('.jp-OutputArea-output', has=self.page.locator('.widget-image'))
        return output.nth(PANELS.index(name))

    def picture(self, name: str) -> str:
        "What the image of a panel shows; a new image has a new address"
        return self.panel(name).locator('img').get_attribute('src')

    def changed(self, name: str, before: str) -> str:
        "Wait for another picture than `before`"
        end = time.monotonic() + 30
        while (now := self.picture(name)) == before:
            assert time.monotonic() < end, f'the picture of {name} does not change'
            time.sleep(0.01)
        return now

    def move(self, name: str, key: str, times: int) -> None:
        "Press a key on the slider of a panel"
        handle = self.panel(name).locator('.noUi-handle')
        for _ in range(times):
            before = self.picture(name)
            handle.press(key)
            self.changed(name, before)

    def choose(self, name: str, label: str, which: int = 0) -> None:
        "Choose from a list of a panel"
        before = self.picture(name)
        self.panel(name).locator('.widget-dropdown select').nth(which).select_option(label=label)
        self.changed(name, before)

    def silence(self, *parts: str) -> None:
        before = self.picture('response')
        self.panel('response').locator('select[multiple]').select_option(label=list(parts))
        self.changed('response', before)

    def show(self, pair: int) -> None:
        before = self.picture('response')
        self.panel('response').locator('input[type=number]').fill(f'{pair}')
        self.panel('response').locator('input[type=number]').press('Enter')
        self.changed('response', before)

    def train(self) -> list[str]:
        "Press the button; all pictures until it can be pressed again and the new network is chosen"
        self.button.click()
        pictures = [self.picture('training')]
        end = time.monotonic() + 120
        while (now := self.picture('training')) != pictures[-1] or len(pictures) < 3 or self.button.is_disabled():
            assert time.monotonic() < end, 'the training does not end'
            if now != pictures[-1]: pictures.append(now)
            time.sleep(0.02)
        self.page.wait_for_function("() => document.querySelector('.widget-dropdown select')"
                                    ".selectedOptions[0].textContent.startsWith('fresh,')")
        self.page.locator('#jp-main-statusbar').get_by_text('| Idle').wait_for()
        return pictures

    def complaints(self) -> list[str]:
        "Errors and warnings in any output"
        kinds = ', '.join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ('error', 'stderr'))
        return self.page.locator(f':is({kinds}):visible').all_inner_texts()


@contextmanager
def explorer(folder: Path):
    "The explorer, in Chromium, in JupyterLab"
    from playwright.sync_api import sync_playwright
    make_checkout(folder)
    arguments = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
    with jupyterlab(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try: yield Explorer(browser.new_page(viewport=dict(width=1280, height=800)), address)
        finally: browser.close()


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    pytest.importorskip('playwright', reason='needs Playwright: pip install playwright')
    if browser_path() is None: pytest.skip(f'needs one of the browsers {", ".join(BROWSERS)}')
    with explorer(tmp_path_factory.mktemp('lab')) as page: yield page


def test_all_cells_run(shown):
    assert shown.complaints() == []
    assert shown.page.locator('.widget-image').count() == len(PANELS)


@pytest.mark.parametrize('name', ['position', 'strength', 'cluster'])
def test_slider_moves_the_picture(shown, name):
    before = shown.picture(name)
    shown.move(name, 'ArrowLeft' if name == 'position' else 'ArrowRight', 2)
    assert shown.picture(name) != before and shown.complaints() == []


def test_another_cause_and_another_layer(shown):
    shown.choose('strength', 'dropout')
    shown.choose('cluster', '2', which=1)
    shown.choose('cluster', 'no dropout')
    assert shown.complaints() == []


def test_silence_changes_the_answer(shown):
    "With one sub-network silent the other decides; with both nobody does"
    pictures = [shown.picture('response')]
    for parts in ['sub-network 0'], ['sub-network 1'], ['sub-network 0', 'sub-network 1'], ['all connections 0 → 1']:
        shown.silence(*parts)
        pictures.append(shown.picture('response'))
    assert len(set(pictures)) == 5 and shown.complaints() == []


def test_other_pairs(shown):
    before = shown.picture('response')
    shown.show(pair=1)
    assert shown.picture('response') != before and shown.complaints() == []


def test_button_trains(shown):
    "with a curve that grows while it does; the new network is then the one in the panel above"
    pictures = shown.train()
    assert len(pictures) > 3 and shown.complaints() == []


def test_nothing_is_wider_than_the_screen(shown):
    for name in PANELS:
        box = shown.panel(name).locator('img').bounding_box()
        assert box['x'] >= 0 and box['x'] + box['width'] <= 1280


def take_pictures(images: Path) -> None:
    "The pictures that stand in for the panels where widgets cannot run"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, explorer(Path(folder)) as page:
        page.move('position', 'ArrowLeft', 2)
        page.train()
        page.show(pair=5)
        page.silence('all connections 0 → 1')
        page.move('cluster', 'ArrowRight', 3)
        for name in PANELS: page.panel(name).screenshot(path=images / f'explorer_{name}.png')


if __name__ == '__main__':
    take_pictures(ROOT / 'nbs' / 'images')
