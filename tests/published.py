"""Lists of the form and size of the published ones (UCF101, HMDB51, KTH), which may not be passed on: other names, the
same counts."""
from pathlib import Path

from har_nb.data.catalog import KTH_PEOPLE

UCF101_CLASSES = [f'Class{number:03d}' for number in range(101)]


def _write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def ucf101(folder):
    """101 classes of 25 videos, 13,320 clips; split n tests seven of the videos: 3,783, 3,734 and 3,696 clips. The
    folder."""
    clips = {}
    for first, last, total in ((1, 7, 3783), (8, 14, 3734), (15, 21, 3696), (22, 25, 2107)):
        videos = [(name, group) for name in UCF101_CLASSES for group in range(first, last + 1)]
        for place, video in enumerate(videos): clips[video] = total//len(videos) + (place < total % len(videos))
    _write(folder/'classInd.txt', [f'{place} {name}' for place, name in enumerate(UCF101_CLASSES, 1)])
    for number in (1, 2, 3):
        tested = range(7*number - 6, 7*number + 1)
        paths = [(group in tested, place, f'{name}/v_{name}_g{group:02d}_c{clip:02d}.avi')
                 for place, name in enumerate(UCF101_CLASSES, 1)
                 for group in range(1, 26)
                 for clip in range(1, clips[name, group] + 1)]
        _write(folder/f'trainlist0{number}.txt', [f'{path} {place}' for test, place, path in paths if not test])
        _write(folder/f'testlist0{number}.txt', [path for test, _, path in paths if test])
    return Path(folder)


def hmdb51(folder):
    """51 classes, 6,766 clips, two of a film in each class; 70 and 30 clips of a class in every split, 1,666 in
    neither. The folder."""
    for place in range(51):
        name, n_clips = f'act_{place:02d}', 132 + (place < 34)
        clips = [(clip//2, f'Film{clip//2}_{name}_u_nm_np1_fr_goo_{clip % 2}.avi') for clip in range(n_clips)]
        for number in (1, 2, 3):
            turned = [(film + 15*number + 7*place) % 66 if film < 66 else 66 for film, _ in clips]
            _write(folder/f'{name}_test_split{number}.txt', [
                f'{path} {1 if at < 35 else 2 if at < 50 else 0} ' for at, (_, path) in zip(turned, clips, strict=True)
            ])
    return Path(folder)


def kth(folder):
    "599 videos of 25 people, four sequences each but for five: 760, 768 and 863. The folder."
    lines = ['The sequences of the database:', '']
    three = {(person, 'boxing', 1) for person in (*KTH_PEOPLE['train'][:4], KTH_PEOPLE['test'][0])}
    for action in ('boxing', 'handclapping', 'handwaving', 'jogging', 'running', 'walking'):
        for person in range(1, 26):
            for scene in range(1, 5):
                spans = ', '.join(f'{100*place + 1}-{100*place + 95}'
                                  for place in range(3 if (person, action, scene) in three else 4))
                missing = (person, action, scene) == (13, 'handclapping', 3)
                about = '*missing*' if missing else f'frames\t{spans}'
                lines.append(f'person{person:02d}_{action}_d{scene}\t{about}')
    _write(folder/'00sequences.txt', lines)
    return Path(folder)
