"Statistics: numbers against the files they come from, sound, faults, and files of every kind."
import shutil
from fractions import Fraction

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from footage import cut, trimmed

from har_nb.data.audit import audit
from har_nb.data.dataset import ActionDataset
from har_nb.data.lists import from_folders
from har_nb.data.look import look, parts_of
from har_nb.data.statistics import (
    SEAGS_V1_PRINTED,
    media,
    plot_clips_per_class,
    plot_durations,
    plot_flips_and_effects,
    table1,
)
from har_nb.data.video import write_video


def with_sound(path, seconds=2, rate=10):
    "An H.264 video with a tone."
    with av.open(str(path), 'w') as container:
        video, audio = container.add_stream('libx264', rate=rate), container.add_stream('aac', rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, 'yuv420p'
        for t in range(seconds*rate):
            picture = np.full((48, 64, 3), 10*t % 255, np.uint8)
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')): container.mux(packet)
        for t in range(seconds*16000//1024):
            frame = av.AudioFrame.from_ndarray(np.sin(np.arange(1024)/20, dtype=np.float32)[None],
                                               format='fltp', layout='mono')
            frame.sample_rate, frame.pts = 16000, 1024*t
            for packet in audio.encode(frame): container.mux(packet)
        for stream in (video, audio):
            for packet in stream.encode(): container.mux(packet)


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    "Sound and silence, two rates, two sizes, a broken file."
    root = tmp_path_factory.mktemp('statistics')/'set'
    for name in ('jump', 'run'): (root/name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for i, n_frames in enumerate((25, 50, 75)):
        write_video(root/'jump'/f'{i}.avi', random.integers(0, 256, (n_frames, 32, 48, 3), dtype=np.uint8),
                    fps=25, codec='MJPG')
    write_video(root/'run'/'slow.mp4', random.integers(0, 256, (40, 64, 32, 3), dtype=np.uint8), fps=10)
    with_sound(root/'run'/'talk.mp4')
    (root/'run'/'broken.mp4').write_text('not a video\n'*20)
    return from_folders(root, group=lambda path: path)


@pytest.fixture(scope='module')
def clips(mixed): return media(mixed, workers=1, progress=False)


def test_media(clips):
    told = clips.set_index('path')
    assert told.duration.dropna().to_dict() == pytest.approx({'jump/0.avi': 1, 'jump/1.avi': 2, 'jump/2.avi': 3,
                                                              'run/slow.mp4': 4, 'run/talk.mp4': 2})
    assert told.frames['run/slow.mp4'] == 40
    assert told.fps['run/slow.mp4'] == 10
    assert (told.height['run/slow.mp4'], told.width['run/slow.mp4']) == (64, 32)
    assert told.audio[['run/talk.mp4', 'run/slow.mp4', 'jump/0.avi']].tolist() == [True, False, False]
    assert told.problem['run/broken.mp4'] == 'unreadable'
    assert np.isnan(told.duration['run/broken.mp4'])
    assert told.problem.notna().sum() == 1


def test_table1(mixed, clips):
    table = table1(mixed, clips)
    assert table.columns[0] == 'set, measured'
    assert table.iloc[:, 0].to_dict() == {'Actions': '2', 'Clips': '6', 'Total Duration': '0.20 m',
                                          'Mean Clip Length': '2.40 s', 'Min Clip Length': '1.0 s',
                                          'Max Clip Length': '4.0 s', 'Audio': '1 of 6 clips',
                                          'Not measured': '1 clips'}
    assert table.iloc[:7, 1].to_dict() == SEAGS_V1_PRINTED.to_dict()
    assert table1(mixed.subset(['jump']), clips[clips.label == 'jump'], printed=None).shape == (7, 1)
    none = table1(mixed.without(mixed.clips.path), clips[:0], printed=None).iloc[:, 0]
    assert none['Clips'] == '0' and none['Mean Clip Length'] == '-' and none['Audio'] == 'No'
    with pytest.raises(ValueError, match='other clips'): media(mixed, clips[:2])


def test_figures(mixed, clips):
    assert [bar.get_height() for bar in plot_clips_per_class(mixed).axes[0].patches] == [3, 3]
    total, mean = plot_durations(mixed, clips).axes
    assert np.allclose([bar.get_height() for bar in total.patches], [6, 6])
    assert np.allclose([bar.get_height() for bar in mean.patches], [2, 3])
    many = pd.DataFrame([(f'c{c}/{i}.avi', f'class{c:03d}', f'{c}.{i}', 'train' if i else 'test')
                         for c in range(20)
                         for i in range(c % 7 + 1)], columns=['path', 'label', 'group', 'split'])
    big = ActionDataset('.', sorted(set(many.label)), many, 'big')
    plot_clips_per_class(big, by_split=True).canvas.draw()
    long = plot_durations(big, many.assign(duration=600.))
    long.canvas.draw()
    assert long.axes[0].get_ylabel() == 'minutes'
    assert [bar.get_height() for bar in long.axes[0].patches][:3] == [10, 20, 30]


def test_flips_and_effects(mixed):
    (path, other) = mixed.paths[0], mixed.paths[1]
    figure = plot_flips_and_effects([path, other], titles=['a', 'b'])
    images = [ax.images[0].get_array() for ax in figure.axes]
    assert len(images) == 4
    assert np.array_equal(images[2], images[0][:, ::-1])
    assert np.array_equal(images[3], images[1][:, ::-1])
    film = np.stack([np.full((8, 8, 3), t, np.uint8) for t in range(5)])
    figure = plot_flips_and_effects([film], [film + 100], moment=1)
    assert [ax.images[0].get_array()[0, 0, 0] for ax in figure.axes] == [4, 4, 104, 104]
    assert plot_flips_and_effects([cv2.flip(film[0], 1)[None]]).axes[0].images[0].get_array().shape == (8, 8, 3)


def test_camera_clips_and_every_kind_of_file(footage, made, tmp_path):
    """Real footage, a decoder of its own, a rate that slows down, a film trimmed by an edit list, sound longer than the
    picture."""
    slowing = [number/30 if number < 20 else (2*number - 20)/30 for number in range(40)]
    files = {
        'car.mp4': footage['carphone_pristine'],
        'new.mp4': made('av1'),
        'phone.mp4': made('h264', times=tuple(map(Fraction, slowing))),
        'cut.mp4': trimmed(tmp_path/'cut.mp4', made('h264'), 15),
        'talk.mkv': made('h264', '.mkv', sound=5),
        'half.avi': cut(tmp_path/'half.avi', made('mpeg4', '.avi'), .8),
    }
    (tmp_path/'clip').mkdir()
    for name, path in files.items(): shutil.copy(path, tmp_path/'clip'/name)
    dataset = from_folders(tmp_path, group=lambda path: path)
    told = media(dataset, workers=1).set_index('path')
    told.index = told.index.str.removeprefix('clip/')
    assert told.frames.drop('half.avi').to_dict() == {'car.mp4': 120, 'new.mp4': 40,
                                                      'phone.mp4': 40, 'cut.mp4': 25, 'talk.mkv': 40}
    assert told.frames['half.avi'] < 40
    assert told.duration.drop('half.avi').to_dict() == pytest.approx(
        {'car.mp4': 4.004, 'new.mp4': 1.6, 'phone.mp4': 2, 'cut.mp4': 1, 'talk.mkv': 1.6}, abs=1e-3
    )
    assert told.varies[told.varies == True].index.tolist() == ['phone.mp4'] # noqa: E712
    assert told.fps['phone.mp4'] == pytest.approx(20)
    assert told.problem.dropna().to_dict() == {'half.avi': 'truncated'}
    assert told.index[told.audio == True].tolist() == ['talk.mkv'] # noqa: E712
    table = table1(dataset, told.reset_index()).iloc[:, 0]
    assert table['Clips'] == '6' and table['Variable rate'] == '1 clips' and table['Audio'] == '1 of 6 clips'
    found = audit(dataset, workers=1).findings
    assert found.check.tolist().count('variable rate') == 1
    assert found.set_index('check').detail['variable rate'].startswith('1 of 6 clips')
    assert 'truncated' in set(found.check)


def test_spans_are_as_long_as_their_time_stamps_say(made):
    slowing = tuple(Fraction(number if number < 20 else 2*number - 20, 30) for number in range(40))
    about, _ = look(made('h264', times=slowing), ((0, None), (0, 20), (20, 30), (30, 50), (45, 50)))
    assert about['varies'] and about['seconds'] == pytest.approx([2, 20/30, 20/30, 20/30, 0], abs=1e-3)
    steady, _ = look(made('h264'), ((0, None), (10, 20), (30, 50)))
    assert not steady['varies'] and steady['seconds'] == pytest.approx([1.6, .4, .4])


def test_parts_of_a_clip_are_its_files(tmp_path):
    for name in ('2.jpg', '1.jpg'): (tmp_path/name).touch()
    (tmp_path/'thumbs').mkdir()
    assert [path.name for path in parts_of(tmp_path)] == ['1.jpg', '2.jpg']
