"What is said of the papers: tables that are counted, figures by command."
import cv2
import pytest
from later import collecting

if not collecting:
    from matplotlib import pyplot as plt

    from har_nb.experiments.results import children
    from har_nb.learning.runs import runs_table
    from har_nb.papers.dual_stream_attention.tables import table1 as attention_table
    from har_nb.papers.kpsem.tables import figure5b, table2b
    from har_nb.tools.figures import drawn


@pytest.fixture(autouse=True)
def closed():
    yield
    if not collecting: plt.close('all')


def test_table_1_of_transnet_is_printed(har):
    said = har('run', 'transnet.table1')
    assert said.code == 0
    for number in (6_444_288, 5_128, 6_449_416, 23_237_824, 18_376, 23_256_200): assert said.out.count(str(number)) >= 2
    assert 'har run transnet.table1' in har('compare', 'transnet.table1').err
    assert '--data' in har('run', 'transnet.table2').err


def legend_stands_apart(figure):
    "Whether no legend of a figure lies over its axes."
    figure.canvas.draw()
    assert figure.legends
    boxes = [legend.get_window_extent() for legend in figure.legends]
    return not any(box.overlaps(ax.get_window_extent()) for box in boxes for ax in figure.axes)


def picture(har, tmp_path, name, *words):
    "A figure as the command draws it."
    said = har('figure', name, *words, '--to', tmp_path/f'{name}.png')
    assert said.code == 0, said.err
    pixels = cv2.imread(str(tmp_path/f'{name}.png'))
    assert pixels is not None and pixels.std() > 5, f'{name} is empty'
    return pixels


@pytest.mark.parametrize('name', ['mei.figure2', 'mei.figure3', 'mei.figure4', 'mei.figure5', 'mei.figure6',
                                  'mei.figure7', 'mei.figure8', 'transnet.figure3'])
def test_figures_of_a_data_set(name, har, small_set, tmp_path):
    picture(har, tmp_path, name, '--data', small_set.root)


def test_what_a_figure_lacks_is_said(har, small_set):
    assert 'needs --data' in har('figure', 'mei.figure7').err
    assert 'needs --run and --against' in har('figure', 'kpsem.figure7').err
    assert 'does not look at --run' in har('figure', 'mei.figure7', '--data', small_set.root, '--run', 'x').err
    assert 'no figure' in har('figure', 'mei.figure1234').err
    assert 'no panel' in har('figure', 'kpsem.figure5').err


def ids(table): return children(table)[0].set_index('tags.row').run_id.to_dict()


def test_figures_of_kpsem_runs(har, small_set, tmp_path):
    asked = ('--data', small_set.root, '--preset', 'demo', '--size', 32, '--n', 6, '--interval', 8, '--epochs', 1,
             '--set', 'clips=2')
    for name in ('kpsem.table2b', 'kpsem.figure5b'):
        rows = ('--rows', 'MFNet', 'MF-KPSEM') if name == 'kpsem.table2b' else ('--rows', 'MFNet', 'K = 1', 'K = 4')
        assert har('run', name, *asked, *rows).code == 0
    runs = ids(table2b)
    pair = ('--run', runs['MF-KPSEM'], '--against', runs['MFNet'])
    picture(har, tmp_path, 'kpsem.figure5')
    assert legend_stands_apart(drawn('kpsem.figure5', {}))
    picture(har, tmp_path, 'kpsem.figure7', *pair)
    picture(har, tmp_path, 'kpsem.figure9', *pair, '--data', small_set.root)
    picture(har, tmp_path, 'kpsem.figure10', *pair[:2], '--data', small_set.root)
    said = har('figure', 'kpsem.figure8', *pair, '--data', small_set.root, '--to', tmp_path/'eight.png')
    assert said.code == 0 or 'no such video' in said.err # two nets of one epoch may be right on the same videos
    assert 'no key points' in har('figure', 'kpsem.figure10', '--run', runs['MFNet'], '--data', small_set.root).err
    assert 'K = 4' in ids(figure5b) and len(runs_table('kpsem.figure5b'))


def test_figures_of_attention_runs(har, small_set, tmp_path):
    words = ('--data', small_set.root, '--preset', 'demo', '--size', 48, '--n', 4, '--epochs', 2,
             '--protocol', 'official')
    assert har('run', 'dual_stream_attention.table1', *words, '--set', 'width=.1', '--set', 'shifts=1').code == 0
    assert set(ids(attention_table)) == {'early fusion', 'late fusion'}
    early, late = (picture(har, tmp_path, f'dual_stream_attention.figure{number}') for number in (4, 5))
    assert early.shape == late.shape and (early != late).any()
    assert legend_stands_apart(drawn('dual_stream_attention.figure4', {}))
