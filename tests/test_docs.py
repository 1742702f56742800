"The notebooks as web pages: every notebook has its place, every link leads somewhere, the whole book builds."
import http.server
import re
import threading
from functools import partial

import pytest
from later import collecting

if not collecting: # nbformat compiles grammars when it is imported
    import nbformat
    from nbformat.v4 import new_markdown_cell, new_notebook

    from har_nb.tools.book import BookError, chapter, contents
    from har_nb.tools.web import broken_links, outside_links, write_docs

LINK = re.compile(r'\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)')


def texts(path):
    return [re.sub(r'```.*?```|`[^`]*`', '', cell.source, flags=re.DOTALL)
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == 'markdown']


def write(folder, **pages):
    (folder/'tutorials').mkdir(parents=True)
    for name, text in pages.items():
        (page := folder/f'{name}.ipynb').parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), page)
    return folder


def test_links_between_notebooks_lead_to_notebooks(root):
    "Seconds where building all pages takes half a minute."
    pytest.importorskip('myst_nb', reason='pip install har_nb[docs]')
    names = [name for wing in contents(root/'nbs').values() for name in wing]
    assert len(names) > 50 and len(set(names)) == len(names)
    lost = [f'{name}: {target}'
            for name in [*names, 'index']
            for text in texts(root/'nbs'/f'{name}.ipynb')
            for target in LINK.findall(text) if not ((root/'nbs'/name).parent/target).exists()]
    assert not lost


def test_every_chapter_says_what_it_is_about(root):
    "A title that a reader understands, one of its own, and the module it is."
    said = {name: chapter(root/'nbs'/f'{name}.ipynb') for wing in contents(root/'nbs').values() for name in wing}
    titles = [one.title for one in said.values()]
    assert len(titles) == len(set(titles)), 'two chapters of one title'
    assert [name for name, one in said.items() if '.' in one.title or '_' in one.title.replace('SEAGS_V1', '')] == []
    assert [name
            for name, one in said.items()
            if not one.module and '/' in name and not name.startswith('tutorials/')] == []
    assert all(one.papers for name, one in said.items() if name.startswith('papers/') and 'comparison' not in name)


def test_readme_is_short(root):
    "One screen, then what a visitor decides by."
    words = [word for word in (root/'README.md').read_text().split() if re.search(r'\w', word)]
    assert len(words) < 1200


def test_tutorials_lead_to_each_other(root):
    "Whoever finishes one finds the next."
    names = {path.name for path in (root/'nbs'/'tutorials').glob('*.ipynb')}
    linked = {path.name: {target for text in texts(path) for target in LINK.findall(text)}
              for path in (root/'nbs'/'tutorials').glob('*.ipynb')}
    mentioned = lambda name: any(name in links for other, links in linked.items() if other != name)
    assert all(mentioned(name) for name in names), 'a tutorial that no other one mentions'
    assert all(links & names for links in linked.values()), 'a tutorial that is a dead end'


def test_notebook_without_a_wing_is_named(tmp_path):
    book = write(tmp_path, index='# Book', **{'lost/00_one': '# Lost'})
    with pytest.raises(BookError, match='lost/00_one.ipynb belongs to no wing'): contents(book)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    book = write(tmp_path/'book', index='# Book', **{'data/00_one': '# One\n\n> Of one.'})
    (mine := tmp_path/'mine').mkdir()
    (mine/'thesis.txt').write_text('years of work')
    with pytest.raises(BookError, match='something else'): write_docs(book, mine)
    assert [path.name for path in mine.iterdir()] == ['thesis.txt']


@pytest.mark.parametrize('page, found', [
    ('<a href="there.html">', 'there.html'),
    ('<a href="#there">', '#there'),
    ('<img src="there.png">', 'there.png'),
    ('<script src="https://a.example/x.js"></script>', 'https://a.example'),
    ('<link href="https://a.example/x.css">', 'a.example'),
    ('<a href="https://a.example">', None),
    ('<a href="#here" id="here">', None),
    ('<a href="index.html?q=1#top" id="top">', None),
])
def test_broken_links_are_found_in_pages(tmp_path, page, found):
    (tmp_path/'index.html').write_text(page)
    assert len(told := broken_links(tmp_path)) == (found is not None)
    assert found is None or found in told[0]


@pytest.mark.slow
def test_the_whole_book_builds(root, tmp_path):
    pytest.importorskip('myst_nb', reason='pip install har_nb[docs]')
    first = write_docs(root/'nbs', tmp_path/'pages')
    pages = {path.relative_to(first.parent).with_suffix('').as_posix() for path in first.parent.rglob('*.html')}
    assert {name for wing in contents(root/'nbs').values() for name in wing} <= pages and 'search' in pages
    assert {'api/motion', 'api/models'} <= pages
    text = re.sub(r'<[^>]+>', '', (first.parent/'data'/'00_video.html').read_text())
    assert 'def frames(' in text and '#| export' not in text and 'default_exp' not in text


@pytest.mark.slow
def test_addresses_outside_are_asked(tmp_path):
    pytest.importorskip('myst_nb', reason='pip install har_nb[docs]')
    (tmp_path/'site').mkdir()
    (tmp_path/'site'/'here.html').write_text('<p>here</p>')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                             partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path/'site'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f'http://127.0.0.1:{server.server_port}'
    try:
        found = outside_links(write(tmp_path/'book',
                                    index=f'# Book\n\n[one]({base}/here.html) and [other]({base}/gone.html)',
                                    **{'data/00_one': '# One\n\n> Of one.'})).set_index('address').status
    finally: server.shutdown(); server.server_close()
    assert dict(found) == {f'{base}/here.html': 'working', f'{base}/gone.html': 'broken'}
