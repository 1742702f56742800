"The builder of SEAGS-form sets: faults of tables and sources, builds that are stopped, and real clips."
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from footage import drawn, encode, numbers
from stopped import Child, at

from har_nb.data import cutting, seags
from har_nb.data.cutting import has_h264
from har_nb.data.lists import ListError, from_csv, from_lists, open_dataset
from har_nb.data.seags import Rule, add_effects, build_seags, open_seags, plan, read_sources
from har_nb.data.synthetic import BuildError, edit, long_take
from har_nb.data.synthetic import build as build_set
from har_nb.data.video import VideoError, frames, probe, write_video

quiet = dict(duplicates=False, progress=False)
needs_h264 = pytest.mark.skipif(not has_h264(), reason='PyAV with libx264 is not installed')


def moving(n_frames, seed=0, size=(32, 48)):
    "A bright bar over noise that stands still; every frame differs from every other."
    clip = np.broadcast_to(np.random.default_rng(seed).integers(0, 200, (*size, 1), dtype=np.uint8),
                           (n_frames, *size, 3)).copy()
    for number, frame in enumerate(clip):
        frame[number % size[0]] = 255
        frame[:, number*3 % size[1]] = 230 - number % 200
    return clip


def written(path, n_frames, seed=0, fps=10, codec='FFV1', size=(32, 48)):
    write_video(path, moving(n_frames, seed, size), fps=fps, codec=codec)
    return path


@pytest.fixture(scope='module')
def raw_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp('raw')
    for number, n_frames in enumerate((60, 80, 250, 450, 300)): written(folder/f's{number}.avi', n_frames, number)
    return folder


@pytest.fixture
def raw(raw_once, tmp_path):
    "Five sources of two classes: short, short, 25 s, 45 s, 30 s."
    return Path(shutil.copytree(raw_once, tmp_path/'raw'))


def table_of(raw, **more):
    names = sorted(path.name for path in raw.iterdir())
    classes = ['Long Jump', 'Boxing', 'Boxing', 'Long Jump', 'Boxing', 'Boxing']
    return pd.DataFrame({'video': names, 'class': classes[:len(names)]} | more)


def published(root):
    "All files of a set but those of the workshop."
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in Path(root).rglob('*')
            if path.is_file() and '.seags' not in path.parts}


def clips_of(files): return sum('/' in name for name in files)


def times(root):
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns
            for path in Path(root).rglob('*')
            if path.is_file() and path.name != 'lock'}


def report_of(root): return pd.read_csv(root/'report.csv', keep_default_na=False)


def manifest_of(root): return pd.read_csv(root/'manifest.csv', keep_default_na=False)


def settled(root):
    "Nothing half-written and nothing without a place is left."
    hidden = [path.name for path in Path(root).rglob('.*') if path.name != '.seags']
    assert not hidden and not list((root/'.seags'/'bench').iterdir())
    return True


def test_every_fault_of_a_table_is_told_with_its_line(tmp_path):
    path = tmp_path/'sources.csv'
    lines = ['video,class,start,end,intro,outro,platform,has_effects', 'a.mp4,Run,0,10,,,TikTok,yes',
             'a.mp4,Run,9.5,20,,,,no', '', ',Run,,,,,,', 'b.mp4,,,,,,,', 'c.mp4,a/b,-1,,,,,', 'd.mp4,run,,,,,,',
             'e.mp4,Run,5,8,2,1.5,,', 'f.mp4,Run,,nan,,,,maybe', 'g.mp4,sources,inf,,,,,', 'h.mp4,.hidden,one,,,,,',
             'i.mp4,Run,1', './a.mp4,Run,30,,,,,', 'a.mp4,Run,31,32,,,,']
    path.write_bytes(('\ufeff' + '\r\n'.join(lines)).encode())
    with pytest.raises(ListError) as caught: read_sources(path)
    told = [(line, message) for _, line, message in caught.value.problems]
    assert all(file == str(path) for file, _, _ in caught.value.problems)
    for line, words in [
        (3, 'in line 2'),
        (5, 'no video'),
        (6, 'no class'),
        (7, "'a/b'"),
        (7, "start '-1'"),
        (8, 'run is Run'),
        (9, 'nothing is left'),
        (10, "end 'nan'"),
        (10, "'maybe'"),
        (11, "'sources'"),
        (11, "start 'inf'"),
        (12, "'.hidden'"),
        (12, "start 'one'"),
        (13, '3 cells'),
        (15, 'in line 14'),
    ]:
        assert any(number == line and words in message for number, message in told), (line, words)
    assert {line for line, _ in told} == {3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}


@pytest.mark.parametrize('text, words', [
    ('', 'empty'),
    ('video,label\na.mp4,Run\n', 'no column class'),
    ('video,class,has_efects\na.mp4,Run,yes\n', 'has_efects'),
    ('video,class\n', 'empty'),
])
def test_tables_that_are_none(tmp_path, text, words):
    (tmp_path/'sources.csv').write_text(text)
    with pytest.raises(ListError, match=words): read_sources(tmp_path/'sources.csv')
    assert not (tmp_path/'set').exists()


def test_no_table_and_an_empty_frame(tmp_path):
    with pytest.raises(ListError, match='cannot be opened'): read_sources(tmp_path/'none.csv')
    with pytest.raises(ListError, match='empty'): read_sources(pd.DataFrame({'video': [], 'class': []}))


def test_a_table_that_was_read_and_a_frame_are_the_same(tmp_path):
    frame = pd.DataFrame({
        'video': ['a.mp4', 'https://example.org/b'],
        'class': ['Run', 'Run'],
        'start': [1.5, None],
        'has_effects': [True, False],
    })
    frame.to_csv(tmp_path/'sources.csv', index=False)
    one, two = read_sources(tmp_path/'sources.csv'), read_sources(frame, folder=tmp_path)
    assert one.drop(columns=['file', 'line']).equals(two.drop(columns=['file', 'line']))
    assert one.has_effects.tolist() == ['yes', 'no']
    assert one.path.tolist() == [tmp_path/'a.mp4', None]
    assert one.line.tolist() == [2, 3]


@pytest.mark.parametrize('fps', [5, 12.5, 24000/1001, 25, 30000/1001, 60])
def test_no_clip_is_longer_than_20_s_or_shorter_than_5_s_unless_whole(fps):
    rule = Rule()
    for n_frames in [*range(1, 300), *range(300, int(130*fps), 11)]:
        spans = rule.spans(n_frames, fps)
        lengths = [stop - start for start, stop in spans]
        assert spans[0][0] >= 0
        assert spans[-1][1] <= n_frames
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
        if n_frames < 20*fps: assert spans == [(0, n_frames)]
        else:
            assert 2 <= len(spans) <= 4 and max(lengths) <= 20*fps and min(lengths) >= 5*fps
            if n_frames <= 80*fps - 4: assert sum(lengths) == n_frames
    for wrong in (dict(most=1), dict(least=15), dict(shortest=0)):
        with pytest.raises(ValueError): Rule(**wrong)


def test_the_plan_reads_no_file_and_drops_nothing_unsaid():
    rows = [('a', 0, None, 0, 0, 250), ('b', 0, None, 30, 0, 250), ('c', 5, 60, 0, 0, 250),
            ('d', 0, None, 0, 0, 2000), ('e', 3, 4, 0, 0, 250), ('f', 10, 20, 1, 2, 250)]
    columns = ['video', 'start', 'end', 'intro', 'outro', 'class']
    sources = read_sources(pd.DataFrame([(*row[:5], 'Run') for row in rows], columns=columns))
    sources = sources.assign(n_frames=[row[-1] for row in rows], fps=10.)
    segments = plan(sources)
    assert set(segments.video) == set('abcdef')
    assert segments.drop_duplicates('video').problem.tolist() == ['', 'short', 'ends early', 'long', '', '']
    assert segments[segments.video == 'e'][['start', 'stop']].to_numpy().tolist() == [[30, 40]]
    assert segments[segments.video == 'f'][['start', 'stop']].to_numpy().tolist() == [[110, 180]]
    assert (segments[segments.parts == 0].start == segments[segments.parts == 0].stop).all()


def test_every_frame_of_a_lossless_build_is_the_frame_of_the_source(raw, tmp_path):
    rows = [
        ('s3.avi', 20, 30.1, 0, 0),
        ('s3.avi', 1.3, 8.7, .5, .2),
        ('s3.avi', 40, None, 0, 1),
        ('s2.avi', 0, None, 2.1, 1.1),
        ('s0.avi', 0, None, 0, 0),
        ('s4.avi', 0, None, 0, 0),
    ]
    sources = pd.DataFrame([(*row, 'Run') for row in rows],
                           columns=['video', 'start', 'end', 'intro', 'outro', 'class'])
    dataset = build_seags(sources, tmp_path/'set', folder=raw, codec='FFV1', workers=2, **quiet)
    manifest = manifest_of(dataset.root)
    assert manifest.start.tolist() == [200, 18, 400, 21, 130, 0, 0, 100, 200]
    assert manifest.stop.tolist() == [301, 85, 440, 130, 239, 60, 100, 200, 300]
    for cut in manifest.itertuples():
        assert np.array_equal(frames(dataset.root/cut.path), frames(raw/cut.source)[cut.start:cut.stop])
        assert cut.start_s == pytest.approx(cut.start/10) and cut.end_s == pytest.approx(cut.stop/10)
    assert sorted(path.name for path in (dataset.root/'Run').iterdir()) == sorted(
        f'v_Run_{i}.mp4' for i in range(1, 10)
    )
    assert settled(dataset.root)


@pytest.mark.parametrize('codec', ['FFV1', pytest.param('H264', marks=needs_h264)])
def test_a_source_whose_frames_come_unevenly_is_cut_by_its_time_stamps(codec, tmp_path):
    times = np.concatenate([np.arange(60)/30, 2 + np.arange(40)/10]) # two seconds at 30 a second, four at 10
    encode(tmp_path/'phone.mp4', drawn(100), times=times, bf='0')
    rows = [('phone.mp4', 0, 1.5, 'Run'), ('phone.mp4', 3, 5, 'Run')]
    sources = pd.DataFrame(rows, columns=['video', 'start', 'end', 'class'])
    dataset = build_seags(sources, tmp_path/'set', codec=codec, folder=tmp_path, workers=1, **quiet)
    manifest = manifest_of(dataset.root)
    for row, span, rate in zip(manifest.itertuples(), ((0, 45), (70, 90)), (30, 10), strict=True):
        assert (row.start, row.stop) == span # numbered by 16.6 a second, it would be (0, 25) and (50, 83)
        assert numbers(frames(dataset.root/row.path)) == [*range(*span)]
        info = probe(dataset.root/row.path)
        assert info.fps == pytest.approx(rate, rel=.02)
        assert info.duration == pytest.approx(row.end_s - row.start_s, rel=.02)
    report = report_of(dataset.root)
    uneven = report[report.problem == 'uneven']
    assert uneven.line.tolist() == [1, 2] and uneven.detail.str.contains('cut by time').all()
    assert build_seags(sources, tmp_path/'set', codec=codec, folder=tmp_path, **quiet).digest == dataset.digest


def test_seconds_without_a_new_picture_are_no_clip(tmp_path):
    encode(tmp_path/'screen.mp4', drawn(42), times=[*np.arange(40)/20, 6, 9], bf='0') # a screen that stands still
    rows = [('screen.mp4', 0, 2, 'Run'), ('screen.mp4', 3, 5, 'Run')]
    dataset = build_seags(pd.DataFrame(rows, columns=['video', 'start', 'end', 'class']), tmp_path/'set',
                          folder=tmp_path, **quiet)
    assert len(dataset.clips) == 1
    report = report_of(dataset.root)
    assert report[report.problem == 'still'][['line', 'severity']].to_numpy().tolist() == [[2, 'error']]


def test_the_moving_part_of_a_source_that_stands_still_for_a_while_is_used():
    times = [*np.arange(200)/20, 29., 30.] # ten seconds that move, twenty that do not
    source = read_sources(pd.DataFrame([('screen.mp4', 'Run')], columns=['video', 'class']))
    segments = plan(source.assign(n_frames=len(times), fps=len(times)/30, times=[times]))
    assert segments[['start', 'stop', 'part', 'parts']].to_numpy().tolist() == [[0, 199, 1, 1]], 'ten seconds of thirty'
    assert segments.problem.tolist() == ['still'] and segments.detail[0].startswith('2 of 3 clips')


@needs_h264
def test_the_published_form_has_h264_even_sizes_the_rate_of_the_source_and_no_sound(tmp_path):
    import av
    source, tone = tmp_path/'sound.mp4', (np.sin(np.arange(48000)*.05)*8000).astype(np.int16)
    with av.open(str(source), 'w') as container:
        video = container.add_stream('libx264', rate=25, options=dict(bf='2'))
        sound = container.add_stream('aac', rate=48000)
        video.height, video.width, video.pix_fmt = 33, 47, 'yuv444p'
        for frame in moving(50, size=(33, 47)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(tone[None], format='s16', layout='mono')
        samples.sample_rate = 48000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with av.open(str(source)) as container: assert container.streams.audio
    dataset = build_seags(pd.DataFrame({'video': [source.name], 'class': ['Run']}), tmp_path/'set',
                          folder=tmp_path, **quiet)
    with av.open(str(dataset.paths[0])) as container:
        stream, = container.streams
        assert (stream.type, stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == (
            'video', 'h264', 'yuv420p', 25
        )
        assert [packet.dts == packet.pts for packet in container.demux() if packet.pts is not None] == [True]*50
    assert manifest_of(dataset.root)[['height', 'width', 'cropped']].to_numpy().tolist() == [[32, 46, '1 x 1 pixels']]
    assert np.abs(frames(dataset.paths[0]).astype(int) - frames(source)[:, :32, :46]).mean() < 12


def test_a_second_build_changes_nothing_and_changes_make_only_what_they_must(raw, tmp_path):
    root, sources = tmp_path/'set', table_of(raw)
    first = build_seags(sources, root, folder=raw, **quiet)
    assert report_of(root).empty and len(first) == 2 + 2 + 4 + 3
    before = times(root)
    again = build_seags(sources, root, folder=raw, **quiet)
    assert times(root) == before and again.digest == first.digest
    clips = {manifest.clip_sha256: manifest.path for manifest in manifest_of(root).itertuples()}
    build_seags(sources, root, protocol='by clip', folder=raw, **quiet)
    of_clips = lambda times: {name: when for name, when in times.items() if name.endswith('.mp4')}
    assert of_clips(times(root)) == of_clips(before)
    written(raw/'s2.avi', 420, 2)
    changed = build_seags(sources, root, folder=raw, **quiet)
    assert len(changed) == len(first) + 2
    after = manifest_of(root)
    made = {name: when for name, when in times(root).items() if name.endswith('.mp4') and when not in before.values()}
    assert set(made) == set(after.path[after.source == 's2.avi']) and len(made) == 4
    kept = after[after.source != 's2.avi']
    assert set(kept.clip_sha256) < set(clips) and (kept.path != kept.clip_sha256.map(clips)).any()
    fresh = build_seags(sources, tmp_path/'fresh', folder=raw, **quiet)
    assert published(root) == published(fresh.root)
    touched = raw/'s0.avi'
    os.utime(touched)
    build_seags(sources, root, folder=raw, **quiet)
    assert published(root) == published(fresh.root)
    other = build_seags(sources, root, codec='mp4v', folder=raw, **quiet)
    assert set(manifest_of(root).encoder) == {'OpenCV mp4v'} and len(other) == len(fresh) and settled(root)


def test_a_source_that_leaves_the_table_leaves_the_set(raw, tmp_path):
    root, sources = tmp_path/'set', table_of(raw)
    build_seags(sources, root, folder=raw, **quiet)
    build_seags(sources[sources['class'] == 'Boxing'], root, folder=raw, **quiet)
    assert not (root/'Long Jump').exists() and (root/'classInd.txt').read_text() == '1 Boxing\n'
    assert published(root) == published(
        build_seags(sources[sources['class'] == 'Boxing'], tmp_path/'fresh', folder=raw, **quiet).root
    )


def test_bad_sources_are_rows_of_the_report_and_the_rest_is_built(raw, tmp_path):
    (raw/'t_empty.mp4').touch()
    (raw/'t_page.mp4').write_text('<html>429</html>'*200)
    whole = (raw/'s3.avi').read_bytes()
    (raw/'t_half.avi').write_bytes(whole[:len(whole)//2])
    (raw/'t_text.txt').write_text('no video')
    written(raw/'t_blink.avi', 5)
    names = [*sorted(path.name for path in raw.iterdir()), 't_lost.mp4']
    dataset = build_seags(pd.DataFrame({'video': names, 'class': 'Run'}), tmp_path/'set', folder=raw, **quiet)
    report = report_of(dataset.root).set_index('source')
    assert set(report.index) == {name for name in names if name.startswith('t_')} and set(report.severity) == {'error'}
    assert report.problem['t_blink.avi'] == 'short' and (report.problem.drop('t_blink.avi') == 'unreadable').all()
    for name, words in [
        ('t_empty.mp4', 'empty'),
        ('t_page.mp4', 'not a video'),
        ('t_half.avi', 'cut off'),
        ('t_text.txt', 'does not name a video'),
        ('t_lost.mp4', 'no such file'),
    ]:
        assert words in report.detail[name]
    assert report.line['t_lost.mp4'] == len(names)
    assert str(tmp_path) not in (dataset.root/'report.csv').read_text() + (dataset.root/'manifest.csv').read_text()
    assert set(dataset.clips.group) == {f's{i}.avi' for i in range(5)} and settled(dataset.root)
    written(raw/'t_empty.mp4', 30)
    mended = build_seags(pd.DataFrame({'video': names, 'class': 'Run'}), dataset.root, folder=raw, **quiet)
    assert 't_empty.mp4' in set(mended.clips.group)


def test_nothing_to_build_is_an_error_that_tells_all_and_leaves_the_old_set_alone(raw, tmp_path):
    root = build_seags(table_of(raw), tmp_path/'set', folder=raw, **quiet).root
    before = published(root)
    (raw/'page.mp4').write_text('<html>')
    with pytest.raises(ListError) as caught:
        build_seags(pd.DataFrame({'video': ['lost.mp4', 'page.mp4'], 'class': 'Run'}), root, folder=raw, **quiet)
    assert [line for _, line, _ in caught.value.problems] == [1, 2] and 'lost.mp4' in str(caught.value)
    after = published(root)
    assert len(report_of(root)) == 2
    of_the_set = lambda files: {name: content for name, content in files.items() if name != 'report.csv'}
    assert of_the_set(after) == of_the_set(before)


def test_sources_may_be_deleted_after_the_build(raw, tmp_path):
    root, sources = tmp_path/'set', table_of(raw)
    build_seags(sources, root, folder=raw, **quiet)
    before = published(root)
    (raw/'s2.avi').unlink()
    build_seags(sources, root, folder=raw, **quiet)
    after = published(root)
    assert {name for name in after if after[name] != before[name]} == {'report.csv'}
    assert report_of(root)[['source', 'problem', 'severity']].to_numpy().tolist() == [['s2.avi', 'gone', 'note']]
    (root/'Boxing'/'v_Boxing_2.mp4').unlink()
    build_seags(sources, root, folder=raw, **quiet)
    assert report_of(root).problem.tolist() == ['not cut'] and 's2.avi' not in set(manifest_of(root).source)


def test_the_same_bytes_under_two_names_are_one_source(raw, tmp_path):
    shutil.copy(raw/'s3.avi', raw/'t.avi')
    shutil.copy(raw/'s2.avi', raw/'u.avi')
    rows = [('s3.avi', 0, 10), ('t.avi', 20, 30), ('s2.avi', 0, 10), ('u.avi', 5, 20), ('s0.avi', 0, None)]
    dataset = build_seags(pd.DataFrame([(*row, 'Run') for row in rows], columns=['video', 'start', 'end', 'class']),
                          tmp_path/'set', folder=raw, **quiet)
    assert manifest_of(dataset.root).source.tolist() == ['s3.avi', 's3.avi', 's2.avi', 's0.avi']
    assert report_of(dataset.root)[['source', 'line', 'problem']].to_numpy().tolist() == [['u.avi', 4, 'duplicate']]


def test_one_pass_over_a_source_with_four_clips(raw, tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(
        cutting, 'iter_frames',
        lambda path, *span: passes.append((Path(path).name, span)) or iter(frames(path, start=span[0], stop=span[1])),
    )
    build_seags(pd.DataFrame({'video': ['s3.avi'], 'class': 'Run'}), tmp_path/'set', folder=raw, **quiet)
    assert passes == [('s3.avi', (0, 450))]


def test_a_source_that_fails_in_the_middle_leaves_nothing(raw, tmp_path, monkeypatch):
    real = cutting.iter_frames

    def breaking(path, *span):
        for number, picture in enumerate(real(path, *span)):
            if number == 150 and Path(path).name == 's3.avi':
                raise VideoError(path, 'the disk has a bad sector', 'Copy it from elsewhere')
            yield picture
    monkeypatch.setattr(cutting, 'iter_frames', breaking)
    root = build_seags(table_of(raw), tmp_path/'set', folder=raw, **quiet).root
    report = report_of(root)
    assert report.detail[report.severity == 'error'].tolist() == ['the disk has a bad sector. Copy it from elsewhere']
    assert 's3.avi' not in set(manifest_of(root).source)
    assert settled(root)
    monkeypatch.undo()
    build_seags(table_of(raw), root, folder=raw, **quiet)
    assert published(root) == published(build_seags(table_of(raw), tmp_path/'fresh', folder=raw, **quiet).root)


def test_a_full_disk_stops_the_build_and_what_is_made_stays(raw, tmp_path, monkeypatch):
    real = cutting.write_clip

    def full(path, pictures, *how):
        if len(list(Path(path).parent.glob('*'))) > 4: raise VideoError(path, 'cannot be written', 'Is the disk full?')
        return real(path, pictures, *how)
    monkeypatch.setattr(cutting, 'write_clip', full)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=1000)))
    with pytest.raises(BuildError, match='disk is full'):
        build_seags(table_of(raw), tmp_path/'set', folder=raw, workers=1, **quiet)
    assert not (tmp_path/'set'/'trainlist.txt').exists()
    with pytest.raises(ListError, match='build it'): open_seags(tmp_path/'set')
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path/'set'/'.seags'/'bench').iterdir()}
    assert len(kept) == 5
    monkeypatch.undo()
    root = build_seags(table_of(raw), tmp_path/'set', folder=raw, **quiet).root
    assert set(kept.values()) < set(times(root).values())


def build_in_a_child(sources, root, prepare, here):
    prepare(here)
    return len(build_seags(sources, root, workers=2, **quiet))


def at_a_source(here): at(seags, 'probe', here)
def before_a_clip(here): at(cutting, 'write_clip', here)
def after_a_clip(here): at(cutting, 'write_clip', here, after=True)
def in_the_ledger(here): at(cutting.Workshop, 'made', here, after=True)
def at_the_lists(here): at(seags, 'settle', here)
def on_its_way(here): at(seags, 'read_sources', here)


@pytest.fixture(scope='module')
def four(tmp_path_factory):
    "Four sources of nine clips in a table, and the set of a build that nothing disturbed."
    raw = tmp_path_factory.mktemp('four')
    for number, n_frames in enumerate((250, 60, 250, 350)): written(raw/f's{number}.avi', n_frames, number)
    table_of(raw).assign(**{'class': ['Run', 'Box', 'Run', 'Box']}).to_csv(raw/'sources.csv', index=False)
    return raw/'sources.csv', published(build_seags(raw/'sources.csv', raw/'whole', **quiet).root)


@pytest.mark.parametrize('prepare', [at_a_source, before_a_clip, after_a_clip, in_the_ledger, at_the_lists])
def test_stopped_at_any_step_and_finished_it_equals_a_build_in_one_go(four, tmp_path, prepare):
    (sources, whole), root, counts = four, tmp_path/'set', []
    bench = root/'.seags'/'bench'
    for times in (1, 2):
        child = Child(build_in_a_child, sources, root, prepare)
        if child.arrive(times): assert child.stop() == -signal.SIGKILL # finished before: what is looked at comes once
        else: assert child.stop() == 0
        counts.append(len(list(bench.glob('[!.]*'))))
    assert counts == sorted(counts) or not counts[-1]
    child = Child(build_in_a_child, sources, root, prepare)
    if child.arrive(): assert child.interrupt() in (('interrupted', ''), clips_of(whole))
    assert not list(bench.glob('.*'))
    build_seags(sources, root, **quiet)
    assert settled(root) and published(root) == whole


def test_stopped_at_random_moments_it_equals_a_build_in_one_go(four, tmp_path):
    (sources, whole), root, draw = four, tmp_path/'set', random.Random(5)
    for _ in range(4):
        child = Child(build_in_a_child, sources, root, in_the_ledger)
        child.arrive(draw.randrange(1, 4))
        if not isinstance(child.end, tuple): child.pipe.send('go on') # killed on its way, or when it is done
        child.stop()
    build_seags(sources, root, **quiet)
    assert settled(root) and published(root) == whole


def test_a_crash_at_any_move_of_the_last_step_is_mended(raw, tmp_path, monkeypatch):
    sources = table_of(raw)
    build_seags(sources, tmp_path/'old', folder=raw, **quiet)
    fresh = published(build_seags(sources.iloc[1:], tmp_path/'fresh', folder=raw, protocol='clip', **quiet).root)
    real, crashes = {name: getattr(Path, name) for name in ('replace', 'unlink', 'rmdir')}, 0

    class Crash(BaseException): pass
    for survives in range(0, 200, 3):
        root, left = tmp_path/'set', [survives]
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path/'old', root)

        def counted(path, *arguments, name, left=left, **keywords):
            left[0] -= 1
            if left[0] < 0: raise Crash
            return real[name](path, *arguments, **keywords)
        for name in real:
            monkeypatch.setattr(
                Path, name,
                lambda path, *arguments, name=name, **keywords: counted(path, *arguments, name=name, **keywords),
            )
        try: build_seags(sources.iloc[1:], root, folder=raw, protocol='clip', **quiet)
        except Crash: crashes += 1
        finally: monkeypatch.undo()
        if left[0] >= 0: break
        build_seags(sources.iloc[1:], root, folder=raw, protocol='clip', **quiet)
        assert published(root) == fresh and settled(root), survives
    assert crashes > 7


def test_two_builds_in_one_folder_do_not_harm_each_other(four, tmp_path):
    (sources, whole), root = four, tmp_path/'set'
    first = Child(build_in_a_child, sources, root, before_a_clip)
    assert first.arrive()
    second = Child(build_in_a_child, sources, root, on_its_way) # the first one has the folder
    assert second.arrive()
    second.pipe.send('go on')
    first.pipe.send('go on')
    assert first.finish() == second.finish() == clips_of(whole)
    assert published(root) == whole and settled(root)
    threads = [threading.Thread(target=build_seags, args=(sources, tmp_path/'third'), kwargs=quiet) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert published(tmp_path/'third') == whole


def test_files_of_others_are_never_written_over_and_damaged_clips_are_made_again(raw, tmp_path):
    root, sources = tmp_path/'set', table_of(raw)
    (root/'Boxing').mkdir(parents=True)
    (root/'Boxing'/'v_Boxing_3.mp4').write_bytes(b'mine')
    with pytest.raises(BuildError, match='v_Boxing_3.mp4'): build_seags(sources, root, folder=raw, **quiet)
    assert (root/'Boxing'/'v_Boxing_3.mp4').read_bytes() == b'mine' and not (root/'trainlist.txt').exists()
    (root/'Boxing'/'v_Boxing_3.mp4').rename(root/'Boxing'/'holiday.mp4')
    build_seags(sources, root, folder=raw, **quiet)
    good = published(root)
    assert good.pop('Boxing/holiday.mp4') == b'mine'
    (root/'Boxing'/'v_Boxing_2.mp4').write_bytes(b'damaged')
    (root/'Long Jump'/'v_Long Jump_1.mp4').unlink()
    build_seags(sources, root, folder=raw, **quiet)
    assert {name: data for name, data in published(root).items() if 'holiday' not in name} == good


def test_a_copy_of_a_set_is_still_known(raw, tmp_path):
    root, sources = tmp_path/'set', table_of(raw)
    build_seags(sources, root, folder=raw, **quiet)
    for path in [path for path in root.rglob('*') if path.is_file()]: # as after a copy that does not keep times
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    before = times(root)
    build_seags(sources, root, folder=raw, **quiet)
    assert times(root) == before


def test_without_h264_it_says_so_and_uses_what_there_is(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cutting, 'has_h264', lambda: False) # as with a PyAV that was built without libx264
    root = build_seags(table_of(raw), tmp_path/'set', folder=raw, **quiet).root
    assert 'H.264 cannot be written' in capsys.readouterr().err
    report = report_of(root)
    assert report.problem.tolist() == ['encoder']
    assert report.severity.tolist() == ['note']
    assert set(manifest_of(root).encoder) == {'OpenCV mp4v'}
    with pytest.raises(ValueError, match='install av'):
        build_seags(table_of(raw), tmp_path/'other', folder=raw, codec='H264', **quiet)
    with pytest.raises(ValueError, match='none of H264'):
        build_seags(table_of(raw), tmp_path/'other', folder=raw, codec='VP9', **quiet)
    with pytest.raises(ValueError, match="'source' or 'clip'"):
        build_seags(table_of(raw), tmp_path/'other', folder=raw, protocol='person', **quiet)
    assert not (tmp_path/'other').exists()


def test_what_is_unlike_the_rule_is_told(raw, tmp_path):
    by_hand = pd.DataFrame({
        'video': ['s3.avi']*7 + ['s4.avi'],
        'class': 'Run',
        'start': [*range(0, 42, 6), 0],
        'end': [5, 7.5, 17, 23, 29, 33, 41, 6],
    })
    root = build_seags(by_hand, tmp_path/'set', folder=raw, **quiet).root
    report = report_of(root)
    assert report[['source', 'line', 'problem', 'severity']].to_numpy().tolist() == [
        ['s3.avi', 1, 'brief', 'note'],
        ['s3.avi', 1, 'many', 'note'],
    ]
    assert '2 of its 7 clips last less than 5 s: 1.5, 3.0 s' in report.detail[0]
    assert report.detail[1].startswith('7 clips')
    assert len(manifest_of(root)) == 8


def test_splits_by_source_and_by_clip(raw, tmp_path):
    for number in range(5, 9): written(raw/f's{number}.avi', 220 + number, number)
    sources = pd.DataFrame({'video': sorted(path.name for path in raw.iterdir()), 'class': ['Run', 'Box']*4 + ['Run']})
    dataset = build_seags(sources, tmp_path/'set', folder=raw, seed=3, **quiet)
    unsplit = replace(dataset, clips=dataset.clips.assign(split='train'))
    assert dataset.clips.split.tolist() == unsplit.holdout(.3, 3).clips.split.tolist()
    assert not dataset.leaky
    assert dataset.protocol == 'by source'
    by_clip = open_seags(dataset.root, 'by clip', seed=3)
    assert by_clip.clips.split.tolist() == unsplit.holdout(.3, 3, by='clip').clips.split.tolist()
    assert by_clip.leaky
    assert by_clip.overlap().share['train-test'] > 0
    assert abs((by_clip.clips.split == 'test').mean() - .3) < .1
    assert open_seags(dataset.root).digest == dataset.digest
    assert open_seags(dataset.root, 'source', seed=3).digest == dataset.digest


def test_a_class_with_one_source_stays_in_training_and_the_report_says_so(raw, tmp_path):
    sources = table_of(raw).assign(**{'class': ['Box', 'Box', 'Box', 'Only', 'Box']})
    dataset = build_seags(sources, tmp_path/'set', folder=raw, **quiet)
    assert set(dataset.clips.split[dataset.clips.label == 'Only']) == {'train'} and not dataset.leaky
    assert report_of(dataset.root)[['problem', 'severity']].to_numpy().tolist() == [['not tested', 'note']]
    assert open_dataset(dataset.root).summary()['train'].to_dict() == dataset.summary()['train'].to_dict()


@pytest.fixture
def server(tmp_path):
    "Videos on 127.0.0.1; the paths that were asked for."
    folder, asked = tmp_path/'www', []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()
        def log_message(self, *_): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{running.server_port}', asked
        running.shutdown()


def test_addresses_are_fetched_once_and_failures_are_rows(raw, tmp_path, server):
    pytest.importorskip('yt_dlp')
    folder, address, asked = server
    written(folder/'one.mp4', 40, codec='mp4v')
    sources = pd.DataFrame({
        'video': [f'{address}/one.mp4', f'{address}/none.mp4', 's1.avi'],
        'class': 'Run',
        'platform': ['TikTok', '', ''],
    })
    root = build_seags(sources, tmp_path/'set', folder=raw, **quiet).root
    assert manifest_of(root).source.tolist() == [f'{address}/one.mp4', 's1.avi']
    assert manifest_of(root).stop.tolist() == [40, 80]
    report = report_of(root)
    assert report[['source', 'problem']].to_numpy().tolist() == [
        [f'{address}/one.mp4', 'brief'],
        [f'{address}/none.mp4', 'unreadable'],
    ]
    assert '404' in report.detail[1]
    assert len(list((root/'sources').glob('*.mp4'))) == 1
    n, before = asked.count('/one.mp4'), times(root)
    build_seags(sources, root, folder=raw, **quiet)
    assert asked.count('/one.mp4') == n and times(root) == before
    shutil.rmtree(root/'sources')
    (folder/'one.mp4').unlink()
    build_seags(sources, root, folder=raw, **quiet)
    assert set(report_of(root).problem) == {'gone', 'unreadable', 'brief'} and len(manifest_of(root)) == 2


def test_without_yt_dlp_addresses_are_rows(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'yt_dlp', None)
    root = build_seags(pd.DataFrame({'video': ['http://127.0.0.1:9/a.mp4', 's1.avi'], 'class': 'Run'}), tmp_path/'set',
                       folder=raw, **quiet).root
    report = report_of(root).set_index('source')
    assert 'yt-dlp' in report.detail['http://127.0.0.1:9/a.mp4'] and len(manifest_of(root)) == 1


def test_effects_are_the_same_for_pieces_and_whole_clips():
    clip = moving(45)
    whole = edit(clip, np.random.default_rng(7))
    assert np.array_equal(whole, np.concatenate([seags._painted(7, clip[at:at + 16]) for at in range(0, 45, 16)]))


def test_effects_change_pictures_and_nothing_else(raw, tmp_path):
    sources = table_of(raw, has_effects=['no', 'yes', None, 'no', 'no'])
    clean = build_seags(sources, tmp_path/'set', folder=raw, **quiet)
    for share in (.5, 1):
        dressed = add_effects(clean, tmp_path/f'dressed {share}', share=share, seed=2, progress=False)
        assert (
            dressed.clips.sort_values('path').to_numpy().tolist()
            == clean.clips.sort_values('path').to_numpy().tolist()
        )
        assert (dressed.classes, dressed.protocol, dressed.split_name) == (
            clean.classes, clean.protocol, clean.split_name
        )
        about, old = manifest_of(dressed.root).set_index('path'), manifest_of(clean.root).set_index('path')
        painted = about.effects != ''
        assert not painted[old.has_effects.reindex(about.index) == 'yes'].any()
        assert set(about.has_effects[painted]) == {'yes'}
        for path, row in about.iterrows():
            assert ((dressed.root/path).read_bytes() == (clean.root/path).read_bytes()) == (row.effects == '')
            assert probe(dressed.root/path).n_frames == probe(clean.root/path).n_frames
            assert row.made_from == old.clip_sha256[path]
        assert about.source.to_dict() == old.source.to_dict() and settled(dressed.root)
        assert painted.sum() == (old.has_effects != 'yes').sum() if share == 1 else .2 < painted.mean() < .8
    before = times(dressed.root)
    add_effects(clean, dressed.root, share=1, seed=2, progress=False)
    assert times(dressed.root) == before
    first = published(dressed.root)
    add_effects(clean, dressed.root, share=1, seed=3, progress=False)
    assert all(published(dressed.root)[path] != first[path] for path in about.index[painted])
    assert published(add_effects(clean, tmp_path/'again', share=1, seed=2, progress=False).root) == first
    with pytest.raises(ValueError, match='the set itself'): add_effects(clean, clean.root)
    with pytest.raises(ValueError, match='share'): add_effects(clean, tmp_path/'none', share=0)


def test_the_commands(har, raw, tmp_path):
    table_of(raw).to_csv(raw/'sources.csv', index=False)
    by_hand = har('data', 'seags', raw/'sources.csv', tmp_path/'set', '--codec', 'FFV1', '--seed', 3, '--workers', 1,
                  '--no-duplicates')
    assert by_hand.code == 0
    assert 'train' in by_hand.out
    assert set(manifest_of(tmp_path/'set').encoder) == {'OpenCV FFV1'}
    assert not (tmp_path/'set'/'near_duplicates.csv').exists()
    assert open_seags(tmp_path/'set').split_name == 'seed 3'
    dressed = har('data', 'effects', tmp_path/'set', tmp_path/'dressed', '--share', 1, '--codec', 'FFV1',
                  '--workers', 1)
    assert dressed.code == 0 and set(manifest_of(tmp_path/'dressed').has_effects) == {'yes'}
    assert har('data', 'effects', tmp_path/'set', tmp_path/'none', '--share', 2).code == 1


def test_effects_for_a_set_that_was_not_built_here(tmp_path):
    people = build_set(tmp_path/'set', people=3, takes=1, size=(32, 48), progress=False)
    people.paths[3].write_bytes(b'')
    dressed = add_effects(people, tmp_path/'dressed', share=1, progress=False)
    assert len(dressed) == len(people) - 1 and dressed.classes == people.classes and not dressed.leaky
    assert report_of(dressed.root).source[0] == people.clips.path[3]
    assert from_lists(dressed.root).labels.tolist() == [dressed.class_index[label]
                                                        for label in from_lists(dressed.root).clips.label]
    assert dressed.summary()['test'].sum() == people.summary()['test'].sum() - (people.clips.split[3] == 'test')*2


def test_near_duplicates_are_listed_across_sources_only(tmp_path):
    pytest.importorskip('imagehash')
    raw = tmp_path/'raw'
    raw.mkdir()
    for person in (1, 2):
        write_video(raw/f'{person}.avi', long_take(['Running']*3, person, size=(64, 80), truth=False)[0].frames,
                    fps=10, codec='FFV1')
    again = frames(raw/'1.avi')
    write_video(raw/'reup.mp4', np.clip(again*1.05, 0, 255).astype(np.uint8), fps=10)
    dataset = build_seags(pd.DataFrame({'video': ['1.avi', '2.avi', 'reup.mp4'], 'class': 'Run'}), tmp_path/'set',
                          folder=raw, progress=False)
    pairs = pd.read_csv(dataset.root/'near_duplicates.csv')
    assert {frozenset(pair) for pair in pairs[['first_source', 'second_source']].to_numpy().tolist()} == {
        frozenset(('1.avi', 'reup.mp4'))
    }
    assert set(pairs['first']) | set(pairs['second']) <= set(dataset.clips.path) and len(pairs) >= 2
    before = times(dataset.root)
    build_seags(pd.DataFrame({'video': ['1.avi', '2.avi', 'reup.mp4'], 'class': 'Run'}), dataset.root,
                folder=raw, progress=False)
    assert times(dataset.root) == before


def test_a_script_without_a_guard_ends_and_says_what_was_left_out(tmp_path):
    written(tmp_path/'one.avi', 40)
    (tmp_path/'script.py').write_text(
        "import pandas as pd\n"
        "from har_nb.data.seags import build_seags\n"
        "build_seags(pd.DataFrame({'video': ['one.avi'], 'class': ['Run']}), 'set', progress=False)\n"
    )
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0
    assert '__main__' in report_of(tmp_path/'set').set_index('problem').detail['near-duplicates']
    assert settled(tmp_path/'set')


def test_camera_clips_and_long_takes_become_a_set_that_every_reader_reads(footage, tmp_path):
    from har_nb.data.audit import audit
    rows = [(str(path), 'Everyday', 'Youtube', None, 3) for path in footage.values()]
    for person in (1, 2):
        taken, parts = long_take(['Running', 'StarJump', 'Running'], person, size=(64, 80), truth=False)
        write_video(tmp_path/f'take{person}.avi', taken.frames, fps=10, codec='MJPG')
        rows += [(f'take{person}.avi', part.action, 'drawn', part.start/10, part.end/10) for part in parts.itertuples()]
        write_video(tmp_path/f'runs{person}.avi',
                    long_take(['Running']*3, 10 + person, size=(64, 80), truth=False)[0].frames, fps=10, codec='MJPG')
        rows.append((f'runs{person}.avi', 'Running', 'drawn', None, None))
    sources = pd.DataFrame(rows, columns=['video', 'class', 'platform', 'start', 'end'])
    dataset = build_seags(sources, tmp_path/'set', folder=tmp_path, **quiet)
    assert dataset.classes == ['Everyday', 'Running', 'StarJump']
    assert dataset.clips.group.nunique() == 7
    assert not dataset.leaky
    assert not (report_of(dataset.root).severity == 'error').any()
    manifest = manifest_of(dataset.root)
    for cut in manifest.itertuples():
        assert probe(dataset.root/cut.path).n_frames == cut.stop - cut.start
        if cut.source.endswith('.mp4'): assert cut.stop == round(3*cut.fps)
    told = from_csv(dataset.root/'manifest.csv', 'path', 'class', group='source', split='split')
    assert told.digest == dataset.digest
    for read in (open_dataset(dataset.root), from_lists(dataset.root, group=told.clips.set_index('path').group.get)):
        assert read.classes == dataset.classes
        assert (
            read.clips[['path', 'split']].sort_values('path').to_numpy().tolist()
            == dataset.clips[['path', 'split']].sort_values('path').to_numpy().tolist()
        )
    assert read.overlap().equals(dataset.overlap())
    assert audit(dataset, workers=1, progress=False).ok
    leaking = audit(open_seags(dataset.root, 'clip', seed=1), files=False, progress=False)
    assert not leaking.ok and 'leak' in set(leaking.findings.check)
    exact = build_seags(sources[sources.video.str.endswith('.avi')], tmp_path/'exact',
                        folder=tmp_path, codec='FFV1', **quiet)
    for cut in manifest_of(exact.root).itertuples():
        assert np.array_equal(frames(exact.root/cut.path),
                              frames(tmp_path/cut.source)[cut.start:cut.stop, :cut.height, :cut.width])
