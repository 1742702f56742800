"Video files with damage of every kind, the same ones for the same seed."
import random

from har_nb.data.video import frames, write_video

# codecs and containers that can be written
FORMS = (('mp4v', '.mp4'), ('XVID', '.avi'), ('MJPG', '.avi'), ('FFV1', '.mkv'), ('mp4v', '.mov'))
KINDS = ('bits', 'bits of the head', 'bytes', 'cut', 'wrong head', 'zeros', 'swapped', 'hole', 'sizes', 'joined')


def mutated(
    content:bytes, # of a sound file
    kind:str, # one of `KINDS`
    chance:random.Random,
    other:bytes, # content of another file
)->bytes:
    "The content with one kind of damage."
    data, n = bytearray(content), len(content)
    def place(length=1): return chance.randrange(max(1, n - length))
    if kind == 'bits':
        for _ in range(chance.choice((1, 10, 100, 1000))): data[place()] ^= 1 << chance.randrange(8)
    elif kind == 'bits of the head':
        for _ in range(chance.choice((1, 5, 20))): data[chance.randrange(min(n, 600))] ^= 1 << chance.randrange(8)
    elif kind == 'bytes':
        for _ in range(chance.choice((1, 20, 300))): data[place()] = chance.randrange(256)
    elif kind == 'cut': del data[place():]
    elif kind == 'wrong head': data[:chance.choice((4, 16, 64, 512))] = other[:chance.choice((4, 16, 64, 512))]
    elif kind == 'zeros':
        length = chance.choice((16, n//20, n//4))
        start = place(length)
        data[start:start + length] = bytes(length)
    elif kind == 'swapped':
        length = n//5
        one, two = place(length), place(length)
        data[one:one + length], data[two:two + length] = data[two:two + length], data[one:one + length]
    elif kind == 'hole':
        start = place()
        del data[start:start + chance.choice((1, 7, 512, n//10))]
    elif kind == 'sizes': # a number of 32 bits that promises too much
        for _ in range(chance.choice((1, 4))):
            start = chance.randrange(min(n - 4, 3000))
            data[start:start + 4] = chance.choice((b'\xff'*4, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'\0'*4))
    elif kind == 'joined': data[place():] = other[chance.randrange(len(other)):]
    return bytes(data)


def mutate_set(
    folder, # to write to; made
    dataset, # ActionDataset of sound clips
    count:int, # of files
    seed:int=0,
)->list: # paths
    "Files below folders of classes, each a damaged copy of a clip in one of the forms."
    chance, sound = random.Random(seed), []
    for number, (codec, suffix) in enumerate(FORMS):
        clip = frames(dataset.paths[number*len(dataset)//len(FORMS)])
        file = folder/f'sound{number}{suffix}'
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, clip, codec=codec)
        sound.append((file.read_bytes(), suffix))
        file.unlink()
    paths = []
    for number in range(count):
        (content, suffix), (other, _) = sound[number % len(sound)], chance.choice(sound)
        turn = number//len(sound)
        kind = KINDS[turn % len(KINDS)]
        path = folder/'ab'[turn % 2]/f'{number:03d}_{kind.replace(" ", "_")}{suffix}'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutated(content, kind, chance, other))
        paths.append(path)
    return paths
