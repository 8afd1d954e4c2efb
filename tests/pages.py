"""Pages of the website without Quarto, for tests: a processed notebook as HTML, laid out as the site's theme does

    python tests/pages.py _proc/engine/sweep.ipynb ...    # the heights of these pages at 1400 and 400 pixels
"""
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat
import yaml
from nbconvert.filters import markdown2html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

STYLE = Path(__file__).resolve().parent.parent / 'nbs' / 'styles.css'
COLORS = HtmlFormatter().get_style_defs('.sourceCode')
THEME = '''
html { font: 17px/1.5 "Source Sans Pro", "Liberation Sans", Arial, sans-serif; }
body { margin: 0 auto; max-width: 802px; padding: 1rem; box-sizing: border-box; }
@media (max-width: 991px) { body { max-width: none; } }
p, ul, ol, pre, table, blockquote, figure { margin: 0 0 1rem; }
h1 { font-size: 2rem; margin: 0 0 .5rem; } h2 { font-size: 1.65rem; margin: 2rem 0 1rem; padding-bottom: .5rem;
border-bottom: 1px solid #dee2e6; } h3 { font-size: 1.45rem; margin: 1.5rem 0 .5rem; }
h1, h2, h3, h4 { line-height: 1.2; font-weight: 400; overflow-wrap: anywhere; }
hr { margin: 1rem 0; border: 0; border-top: 1px solid #ccc; }
code { font-size: .875em; } pre { font: .875em/1.5 "DejaVu Sans Mono", monospace; overflow: auto; }
.sourceCode, .highlight { background: #f4f5f6; border-radius: .25rem; margin: 1em 0; }
.sourceCode pre, .highlight pre { padding: .4em; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.cell { margin-bottom: 1rem; } .cell-output { margin: 1rem 0; }
details { margin-bottom: 1rem; } summary { font-size: .875em; }
table { border-collapse: collapse; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #dee2e6; text-align: left; }
figcaption { font-size: .9rem; margin-top: .5rem; } .anchor-link { display: none; }
img, svg { max-width: 100%; height: auto; }
.math { text-align: center; height: 3.2rem; margin: 1rem 0; overflow: hidden; }
'''


def as_html(text: str) -> str:
    "Markdown as the site shows it: equations take their room, and marks of Quarto are not seen"
    text = re.sub(r'\$\$(.+?)\$\$', '\n\n<div class="math"></div>\n\n', text, flags=re.S)
    text = re.sub(r'\[([^]]+)\]\(([^)]+)\)\{(style="[^"]+")\}', r'<a href="\2" \3>\1</a>', text)
    text = re.sub(r'^:::.*$|\{[.#][^{}]*\}|<!--.*?-->', '', text, flags=re.M)
    return markdown2html(text)


def code_html(source: str, options: dict) -> str:
    "Code of a cell: shown, folded away, or left out"
    if options.get('echo') is False: return ''
    shown = f'<div class="sourceCode">{highlight(source.strip(), PythonLexer(), HtmlFormatter(nowrap=True))}</div>'
    shown = re.sub('(<div[^>]*>)(.*)(</div>)', r'\1<pre><code>\2</code></pre>\3', shown, flags=re.S)
    if not options.get('code-fold'): return shown
    return f'<details><summary>{options.get("code-summary", "Code")}</summary>{shown}</details>'


def output_html(output: dict, options: dict) -> str:
    "What a cell left"
    if output['output_type'] == 'stream': return f'<pre><code>{escape(output["text"])}</code></pre>'
    data = output.get('data', {})
    if 'text/html' in data: return data['text/html']
    if 'text/markdown' in data: return as_html(data['text/markdown'])
    if 'image/svg+xml' in data: return data['image/svg+xml']
    if 'image/png' in data:
        picture = f'<img src="data:image/png;base64,{data["image/png"].strip()}">'
        return f'<figure>{picture}<figcaption>{as_html(options.get("fig-cap", ""))}</figcaption></figure>'
    return f'<pre><code>{escape(data.get("text/plain", ""))}</code></pre>'


def kind(output: dict) -> str:
    "The classes that the site gives what a cell left"
    if output['output_type'] == 'stream': return 'cell-output cell-output-stdout'
    written = 'text/markdown' in (data := output.get('data', {})) and 'text/html' not in data
    return 'cell-output cell-output-display' + ' cell-output-markdown' * written


def parts(path: Path) -> Iterator[str]:
    "The cells of a processed notebook, one after the other"
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == 'raw':
            about = yaml.safe_load(cell.source.strip().strip('-'))
            yield f'<h1>{about["title"]}</h1><p>{about.get("description", "")}</p>'
        elif cell.cell_type == 'markdown': yield as_html(cell.source)
        else:
            given = '\n'.join(re.findall(r'^#\| (.+:.+)$', cell.source, flags=re.M))
            options = yaml.safe_load(given) or {}
            source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
            shown = [] if options.get('output') is False else cell.outputs
            outputs = ''.join(f'<div class="{kind(output)}">{output_html(output, options)}</div>' for output in shown)
            if options.get('include') is not False:
                yield f'<div class="cell">{code_html(source, options)}{outputs}</div>'


def page_html(path: Path) -> str:
    "A page of the site, of a processed notebook"
    head = f'<!DOCTYPE html><meta charset="utf-8"><style>{THEME}{COLORS}{STYLE.read_text(encoding="utf-8")}</style>'
    return f'{head}<base href="{path.resolve().parent.as_uri()}/">\n' + '\n'.join(parts(path))


def heights(browser, paths: list[Path], width: int) -> dict[Path, int]:
    "How many pixels high pages are in a window of this width"
    page = browser.new_page(viewport=dict(width=width, height=900), java_script_enabled=True)
    found = {}
    for path in paths:
        page.set_content(page_html(path))
        found[path] = page.evaluate('document.documentElement.scrollHeight')
    page.close()
    return found


if __name__ == '__main__':
    from test_living_figure import chromium
    with chromium() as browser:
        paths = [Path(name) for name in sys.argv[1:]]
        wide, narrow = heights(browser, paths, 1400), heights(browser, paths, 400)
    for path in sorted(paths, key=wide.get, reverse=True): print(f'{wide[path]:7} {narrow[path]:7} {path}')
