"""Flow that others computed lies in folders of pictures: MARS's names and denseflow's, truncated codes and rounded
ones, read back as they are."""
import numpy as np
import pytest
from later import collecting

from har_nb.data.video import VideoError

if not collecting:
    import cv2
    import torch

    from har_nb.samples.flow import FlowPictures, flow_files, write_flow
    from har_nb.samples.modalities import Frames, sample_video
    from har_nb.samples.samplers import AllClips, EveryKth

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
