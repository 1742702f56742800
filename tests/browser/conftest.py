"A real Chromium, and both servers on a checkout and a store of their own."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser_servers import serving


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents: item.add_marker(pytest.mark.slow)


@pytest.fixture(scope='session')
def chromium():
    "The browser of this machine; playwright's own is not needed."
    playwright = pytest.importorskip('playwright.sync_api',
                                     reason='playwright is not installed: pip install playwright')
    program = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
    if not program: pytest.skip('there is no Chromium on this machine')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
    """A new window. `page.keep(name)` writes a picture of it into the folder HAR_NB_SCREENSHOTS, if that is set; the
    last view is always kept there."""
    context, folder = chromium.new_context(viewport=dict(width=1400, height=900)), os.environ.get('HAR_NB_SCREENSHOTS')
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.keep = lambda name: folder and page.screenshot(path=Path(folder)/f'{name}.png')
    yield page
    page.keep(request.node.name)
    context.close()


@pytest.fixture(scope='session')
def checkout(request, tmp_path_factory):
    "A copy of package and tutorials: JupyterLab saves what it runs."
    copy = tmp_path_factory.mktemp('checkout')
    for name in ('har_nb', 'nbs/tutorials'):
        shutil.copytree(request.config.rootpath/name, copy/name,
                        ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    shutil.copy(request.config.rootpath/'settings.ini', copy)
    return copy


@pytest.fixture(scope='session')
def lab(checkout, tmp_path_factory):
    "`har lab` as on the first day: nobody has chosen any settings. Address, port, process id."
    folder = tmp_path_factory.mktemp('lab')
    own = {f'JUPYTER_{name}_DIR': str(folder/name.lower()) for name in ('CONFIG', 'DATA', 'RUNTIME')} | dict(
        IPYTHONDIR=str(folder/'ipython'), MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db'
    )
    imported = subprocess.run([sys.executable, '-c', 'import har_nb; print(har_nb.__file__)'], cwd=checkout,
                              env=os.environ | dict(PYTHONPATH=str(checkout)),
                              capture_output=True, text=True, check=True).stdout
    assert str(checkout) in imported, 'the real notebooks would be run and saved'
    with serving(['lab', '--no-browser'], r'http://127\.0\.0\.1:\d+/lab\S*', checkout,
                 PYTHONPATH=str(checkout), **own) as server:
        yield server


@pytest.fixture(scope='session')
def table(built_set, tmp_path_factory):
    "A tiny table, run: what `compare` says of it, and the store it is in. Three epochs: a curve is drawn."
    from har_nb.experiments.tables import run
    from har_nb.papers.mei.tables import table2
    folder = tmp_path_factory.mktemp('table')
    uri = f'sqlite:///{folder}/mlflow.db'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MLFLOW_TRACKING_URI', uri)
        yield (run(table2, built_set,
                   rows=['two-stream'], preset='demo', size=32, epochs=3, cache=folder/'cache', progress=False), uri)


@pytest.fixture(scope='session')
def ui(table, tmp_path_factory):
    "`har ui` on that store. Address, port, process id."
    with serving(['ui'], r'http://127\.0\.0\.1:\d+', tmp_path_factory.mktemp('ui'),
                 MLFLOW_TRACKING_URI=table[1]) as server:
        yield server
