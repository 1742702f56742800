"""Flow that others computed lies in folders of pictures: MARS's names and denseflow's in one folder, or a folder for
each axis; truncated codes and rounded ones, read back as they are."""
from pathlib import Path

import numpy as np
import pytest
from later import collecting

from har_nb.data.video import VideoError

if not collecting:
    import cv2
    import torch

    from har_nb.data.lists import from_folders
    from har_nb.samples.flow import AXES, FlowPictures, axis_folders, flow_files, write_flow
    from har_nb.samples.modalities import Frames, sample_video
    from har_nb.samples.pairs import Pair
    from har_nb.samples.samplers import AllClips, EveryKth
    from har_nb.samples.store import decode_samples

SIZE, BOUND = (24, 32), 20.
FIRST = dict(mars=('TVL1jpg_x_00001', 'TVL1jpg_y_00001', '00001.png'),
             denseflow=('flow_x_00000', 'flow_y_00000', 'img_00000.png'))


@pytest.fixture
def flow():
    "Four fields of five frames, some of it beyond the bound."
    return torch.from_numpy(np.random.default_rng(0).uniform(-25, 25, (4, 2, *SIZE)).astype(np.float32))


def theirs(flow, rounding):
    "Codes as MARS's script makes them: cut at the bound, 0 to 255, the rest dropped; or the nearest, as ours."
    scaled = (np.clip(flow.numpy().astype(float), -BOUND, BOUND) + BOUND)*255/(2*BOUND)
    return (np.floor(scaled) if rounding == 'truncated' else np.rint(scaled)).astype(np.uint8)


@pytest.mark.parametrize('layout', FIRST)
@pytest.mark.parametrize('rounding', ['truncated', 'nearest'])
def test_flow_is_read_as_it_was_written(tmp_path, flow, layout, rounding):
    write_flow(tmp_path/'clip', flow, layout, rounding, '.png', BOUND)
    x, y, _ = FIRST[layout]
    assert [file.stem for file in flow_files(tmp_path/'clip')[0]] == [x, y]
    modality = FlowPictures(EveryKth(1), bound=BOUND)
    found = np.stack(list(modality.read(tmp_path/'clip', SIZE)))
    expected = theirs(flow, rounding).transpose(0, 2, 3, 1)
    off = np.abs(found[:4].astype(int) - expected)
    assert off.max() <= 1 and (off > 0).mean() < .001 # a value that lies on a border, in 32 bits
    np.testing.assert_array_equal(found[4], found[3]) # the last frame moves as the one before it
    assert modality.n_frames(tmp_path/'clip') == 5


def test_truncated_codes_are_half_a_code_lower(tmp_path, flow):
    codes = {}
    for rounding in ('truncated', 'nearest'):
        folder = write_flow(tmp_path/rounding, flow, 'mars', rounding, '.png', BOUND)
        codes[rounding] = np.stack(list(FlowPictures(EveryKth(1)).read(folder, SIZE)))[:4].astype(int)
    step = codes['nearest'] - codes['truncated']
    inside = (flow.abs() < BOUND).numpy().transpose(0, 2, 3, 1)
    assert set(np.unique(step)) == {0, 1} and .45 < step[inside].mean() < .55


@pytest.mark.parametrize('layout', FIRST)
def test_frames_and_flow_of_one_folder_stay_together(tmp_path, flow, layout):
    folder, picture = write_flow(tmp_path/'clip', flow, layout, suffix='.png'), FIRST[layout][2]
    prefix, digits = picture.removesuffix('.png')[:-5], int(picture.removesuffix('.png')[-5:])
    for number in range(5):
        cv2.imwrite(str(folder/f'{prefix}{digits + number:05d}.png'), np.full((*SIZE, 3), 10*number, np.uint8))
    (codes, pictures), n_frames = sample_video(folder, [FlowPictures(AllClips(2)), Frames(AllClips(2))], SIZE)
    assert n_frames == 5 and codes.shape == (2, 2, *SIZE, 2) and pictures.shape == (2, 2, *SIZE, 3)
    assert pictures[..., 0].mean((2, 3)).round().tolist() == [[0, 10], [20, 30]]


def test_what_is_missing_is_named(tmp_path, flow):
    with pytest.raises(VideoError, match='no pictures of flow'): flow_files(tmp_path)
    write_flow(tmp_path, flow, 'denseflow')
    (tmp_path/'flow_y_00002.jpg').unlink()
    with pytest.raises(VideoError, match='flow_x_00002 or flow_y_00002 is missing'): flow_files(tmp_path)


AXIS_NAMES = [('TVL1jpg_x', 'TVL1jpg_y'), ('flow_x', 'flow_y'), ('u', 'v')]


@pytest.fixture
def apart(tmp_path):
    """A set of two clips of five frames, whose flow lies in a folder for each axis above the classes: root, and what
    the samples of each clip are."""
    random, truth = np.random.default_rng(1), {}
    for name in ('Running/one', 'Sitting/two'):
        (tmp_path/'frames'/name).mkdir(parents=True)
        for number in range(5):
            cv2.imwrite(str(tmp_path/'frames'/name/f'{number + 1:05d}.png'), np.full((*SIZE, 3), 9*number, np.uint8))
        field = torch.from_numpy(random.uniform(-19, 19, (4, 2, *SIZE)).astype(np.float32))
        write_flow(tmp_path, field, 'mars_axes', suffix='.png', clip=name)
        truth[name] = theirs(field, 'truncated').transpose(0, 2, 3, 1)
    return tmp_path, truth


def near(found, expected): return np.abs(np.asarray(found).astype(int) - expected).max() <= 1


@pytest.mark.parametrize('layout, names', zip(['mars_axes', 'denseflow_axes', 'uv'], AXIS_NAMES, strict=True))
def test_each_axis_may_have_a_folder(tmp_path, flow, layout, names):
    assert AXES[layout] == names
    inside = write_flow(tmp_path/'clip', flow, layout, suffix='.png')
    write_flow(tmp_path/'set', flow, layout, suffix='.png', clip='Running/one')
    (tmp_path/'set'/'videos'/'Running').mkdir(parents=True)
    video = tmp_path/'set'/'videos'/'Running'/'one.avi'
    video.touch()
    assert sorted(str(file.relative_to(tmp_path)) for file in (tmp_path/'set').rglob('*00004.png')) == [
        f'set/{axis}/Running/one/00004.png' for axis in names]
    expected = theirs(flow, 'truncated').transpose(0, 2, 3, 1)
    for clip in (inside, video, tmp_path/'set'/'videos'/'Running'/'one', tmp_path/'set'/names[0]/'Running'/'one'):
        assert near(list(FlowPictures(EveryKth(1)).read(clip, SIZE))[:4], expected), clip
    assert axis_folders(tmp_path/'set'/'videos'/'Running'/'other') is None


def test_names_of_frames_do_not_matter_in_folders_of_axes(tmp_path, flow):
    "The published flow of UCF101 calls them frame000001.jpg; others keep the axis in the name."
    root = write_flow(tmp_path, flow, 'uv', suffix='.png', clip='one')
    for axis in ('u', 'v'):
        for file in sorted((root/axis/'one').iterdir()): file.rename(file.with_name(f'frame0{file.name}'))
    (root/'jpegs_256'/'one').mkdir(parents=True)
    assert [file.name for pair in flow_files(root/'jpegs_256'/'one') for file in pair][::2] == [
        f'frame00000{number}.png' for number in (1, 2, 3, 4)]


def test_flow_above_the_classes_goes_into_the_store(apart):
    root, truth = apart
    dataset = from_folders(root/'frames')
    pair = Pair(Frames(EveryKth(1)), FlowPictures(EveryKth(1)))
    (samples,), report = decode_samples(dataset, [pair], SIZE, root/'cache', workers=1, progress=False)
    assert not len(report) and samples.shape == (*SIZE, 5) and list(dataset.classes) == ['Running', 'Sitting']
    for row, name in enumerate(truth): assert near(samples.read(samples.of([row]))[:4, ..., 3:], truth[name])


def test_the_store_notices_that_flow_has_changed(apart):
    root, _ = apart
    dataset, flow = from_folders(root/'frames'), FlowPictures(EveryKth(1))
    def read(): return decode_samples(dataset, [flow], SIZE, root/'cache', workers=1, progress=False)[0][0]
    before, again = read(), read()
    assert before.key == again.key
    write_flow(root, torch.zeros(4, 2, *SIZE), 'mars_axes', suffix='.png', clip='Running/one')
    assert set(np.unique(read().read(read().of([0])))) == {127} and read().key != before.key


def test_frames_keep_their_key_when_flow_lies_in_their_folder(apart, flow):
    "A clip's folder may hold folders of axes; frames alone are read past them."
    root, _ = apart
    write_flow(root/'frames'/'Running'/'one', flow, 'denseflow_axes', suffix='.png')
    dataset = from_folders(root/'frames')
    (frames,), report = decode_samples(dataset, [Frames(EveryKth(1))], SIZE, root/'cache', workers=1, progress=False)
    assert len(dataset) == 2 and len(frames) == 10 and not len(report)


def test_what_an_axis_lacks_is_named(apart):
    root, _ = apart
    clip = root/'frames'/'Running'/'one'
    (root/'TVL1jpg_y'/'Running'/'one'/'00003.png').unlink()
    with pytest.raises(VideoError, match='00003 is missing. Write both'): flow_files(clip)
    (root/'TVL1jpg_y').rename(root/'lost')
    with pytest.raises(VideoError, match='TVL1jpg_y/Running/one: is missing.*Write both axes') as raised:
        flow_files(clip)
    assert str(root/'TVL1jpg_x') in str(raised.value)
    (root/'TVL1jpg_x').rename(root/'gone')
    with pytest.raises(VideoError, match='no pictures of flow.*flow_x and flow_y, u and v.*above the classes'):
        flow_files(clip)
    _, report = decode_samples(from_folders(root/'frames'), [FlowPictures(EveryKth(1))], SIZE, root/'cache', workers=1,
                               progress=False)
    assert list(report.severity) == ['error', 'error'] and 'no pictures of flow' in report.problem[0]


def test_a_layout_that_is_none_is_refused(tmp_path, flow):
    with pytest.raises(ValueError, match='none of mars, denseflow, mars_axes'): write_flow(tmp_path, flow, 'gluon')
    with pytest.raises(ValueError, match='no folders of axes'): write_flow(tmp_path, flow, 'mars', clip='Running/one')
    assert not list(Path(tmp_path).iterdir())
