"JupyterLab as a newcomer meets it: the quickstart opens, runs from top to bottom, and shows its pictures."
import json

from children import until

PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.innerText)"
TOO_WIDE = """[...document.querySelectorAll('.jp-CodeCell .cm-scroller, .jp-OutputArea-output')]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 2)
    .map(e => (e.innerText.trim() || e.outerHTML).slice(0, 160))"""
SCROLL = (
    "y => { const view = document.querySelector('.jp-WindowedPanel-outer'); view.scrollTop = y; "
    "return view.scrollTop + view.clientHeight >= view.scrollHeight - 2 }"
)


SETTLED = """() => {
    const cells = [...document.querySelectorAll('.jp-WindowedPanel-outer .jp-Cell')];
    const boxes = cells.map(e => e.getBoundingClientRect().top + ' ' + e.clientHeight).join();
    const images = [...document.querySelectorAll('.jp-OutputArea img')].every(i => i.complete);
    const same = window.boxes === boxes;
    window.boxes = boxes;
    return images && same }"""


def ran(page):
    "Every prompt is numbered and the kernel idle."
    prompts = page.evaluate(PROMPTS)
    return (
        prompts
        and not any('*' in prompt or prompt.strip() == '[ ]:' for prompt in prompts)
        and page.get_by_text('| Idle').count()
    )


def code(file): return [cell for cell in json.loads(file.read_text())['cells'] if cell['cell_type'] == 'code']
def images(cells): return sum('image/png' in output.get('data', ()) for cell in cells for output in cell['outputs'])


def saved(file):
    "The code cells of a notebook on disk, once all of them have run; else nothing."
    cells = code(file)
    return [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1)) and cells


def test_quickstart_runs_in_jupyterlab(lab, page, checkout):
    file = checkout/'nbs'/'tutorials'/'quickstart.ipynb'
    stored = images(code(file))
    page.goto(lab[0])
    page.wait_for_selector('.jp-Notebook .jp-Cell')
    page.get_by_text('| Idle').wait_for()
    page.keep('lab_opened')
    assert 'Quickstart' in page.locator('.jp-Notebook h1').first.inner_text()
    assert not page.locator('.jp-Dialog').count()
    assert not page.locator('.Toastify__toast').count(), 'a newcomer is asked something first'

    page.locator('.lm-MenuBar-itemLabel', has_text='Run').first.click()
    page.locator('.lm-Menu-itemLabel', has_text='Run All Cells').first.click()
    until(lambda: ran(page))
    # every cell ran once, in order
    cells = until(lambda: page.keyboard.press('Control+s') or saved(file))
    outputs = [output for cell in cells for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error' or output.get('name') == 'stderr']
    assert images(cells) == stored > 0, 'as many as in the notebook that everybody reads'

    seen, wide, view, end = set(), [], 0, False
    while not end:
        end = page.evaluate(SCROLL, 700*view)
        page.wait_for_function(SETTLED, polling='raf') # two frames in a row look the same
        seen |= set(page.evaluate("[...document.querySelectorAll('.jp-OutputArea img')]"
                                  ".filter(i => i.complete && i.naturalWidth > 50)"
                                  ".map(i => i.src.length + i.src.slice(-60))"))
        wide += page.evaluate(TOO_WIDE)
        page.keep(f'lab_ran_{view:02d}')
        view += 1
    assert len(seen) >= stored, 'the pictures are on the page'
    assert not wide, f'wider than the window: {set(wide)}'
