"""No measured accuracy is typed: what came out stands in results/ or in the output of a cell, and text shows only what
a paper printed."""
import json
import re
from pathlib import Path

import pytest
from later import collecting

if not collecting:
    from recorded import NOW

NOTEBOOKS = Path(__file__).resolve().parent.parent/'nbs'

# what papers print beside their tables: notebook -> number, and where it stands
PRINTED = {'data/06_catalog': {'98.3': 'TransNet on UCF101, Table IV, as it is quoted'},
           'models/08_kpsem': {'1.38': 'what the module adds, section 4.3'},
           'papers/kpsem/01_tables': {'1.5': 'by so much printed rows differ, section 4.4 and figure 5a',
                                      '1.38': 'what the module adds, section 4.3', '1.3': 'caption of figure 5'}}


def typed(text):
    "Decimals in a table's cells, before %, ± or 'points', and behind ±; code in it is left out."
    found = []
    for line in re.sub(r'```.*?```', '', text, flags=re.DOTALL).splitlines():
        bare = re.sub(r'`[^`]*`', '', line)
        if bare.lstrip().startswith('|'): found += re.findall(r'(?<![\w.])\d+\.\d+(?![\w.]*\d)', bare)
        else: found += re.findall(r'(?<![\w.])\d+\.\d+(?=\s?(?:\\?%|±|points?\b|percent\b))|(?<=±\s)\d+\.\d+', bare)
    return found


def printed(name):
    "Numbers that a notebook may show: those of its paper's tables, and those listed above."
    known = set(map(float, PRINTED.get(name, {})))
    if not name.startswith('papers/'): return known
    for table in NOW.values():
        paper = table.name.partition('.')[0].removesuffix('_ablations')
        if name.split('/')[1].endswith(paper):
            known |= {row.printed for row in table.rows} | {
                cell for line in table.context for cell in line.values() if isinstance(cell, (int, float))
            }
    return known


def typed_in(path):
    name = path.relative_to(NOTEBOOKS).with_suffix('').as_posix()
    cells = [''.join(cell['source'])
             for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
             if cell['cell_type'] == 'markdown']
    known = printed(name)
    return [number for cell in cells for number in typed(cell) if float(number) not in known]


def named(path): return path.relative_to(NOTEBOOKS).with_suffix('').as_posix()


PATHS = [path for path in sorted(NOTEBOOKS.rglob('*.ipynb')) if '.ipynb_checkpoints' not in path.parts]


@pytest.mark.parametrize('path', PATHS, ids=named)
def test_no_measured_number_is_typed(path):
    remedy = 'publish the run (har compare TABLE --publish) and render it; or list here what a paper prints'
    assert typed_in(path) == [], remedy


@pytest.mark.parametrize('text, numbers', [
    ('| early fusion | 97.1 ± 1.9 | 95.4 to 98.8 |', ['97.1', '1.9', '95.4', '98.8']),
    ('it reached 87.5% in', ['87.5']),
    ('10.8 points above', ['10.8']),
    ('69.2 ± 3.8 on', ['69.2', '3.8']),
    ('a mean of 12.3 percent', ['12.3']),
    (r'about 44.1 \% of', ['44.1']),
    ('torch 2.11 is there', []),
    ('| `--validation 0.3` | a share |', []),
    ('```\n| 97.1 | 95.4 |\n```', []),
    ('above 0.9 a fit ends', []),
])
def test_what_counts_as_typed(text, numbers): assert typed(text) == numbers


def test_a_number_that_a_paper_prints_may_be_shown_with_it_and_nowhere_else():
    assert 98.32 in printed('papers/transnet/01_tables') and 75 in printed('papers/dual_action/01_tables')
    assert 98.32 not in printed('papers/kpsem/01_tables') and not printed('index')
