"Downloads against a server that does everything wrong, and archives that try to get out."
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from stopped import Child

from har_nb.data import download as module
from har_nb.data.download import ArchiveError, DownloadError, Member, download, fetch_video, refused, unpack, unpacked
from har_nb.data.video import probe, write_video

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = dict(progress=False, pause=.01, timeout=5)


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_GET(self):
        self.close_connection = True
        self.begin = int(self.headers.get('Range', 'bytes=0-')[6:-1])
        self.server.asked.append((self.path[1:], self.begin))
        try: self.server.files.get(self.path[1:], status(404))(self)
        except (BrokenPipeError, ConnectionResetError): pass
    do_HEAD = do_GET
    def answer(self, code, headers, body=b''):
        self.send_response(code)
        for name, value in headers.items(): self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *_): pass
    def __getitem__(self, name): return f'http://127.0.0.1:{self.server_address[1]}/{name}'
    def begins(self, name): return [begin for asked, begin in self.asked if asked == name]


@pytest.fixture
def server():
    server = Server(('127.0.0.1', 0), Handler)
    server.files, server.asked = {}, []
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def status(*codes, then=None):
    "Answers one code after the other, then the file."
    left = list(codes)
    def respond(handler):
        if len(left) > (then is None): handler.answer(left.pop(0), {'Content-Length': 0})
        elif then: then(handler)
        else: handler.answer(left[0], {'Content-Length': 0})
    return respond


def serve(content=CONTENT, upto=None, ranges=True, piece=None, wait=None, **headers):
    """A file; `upto`: bytes before the connection ends; `piece`: bytes sent at a time; `wait`: called with the number
    of bytes that are sent, before each piece."""
    def respond(handler):
        validator, asked = headers.get('ETag', headers.get('Last_Modified')), handler.headers.get('If-Range')
        begin = handler.begin if ranges and (asked is None or asked == validator) else 0
        about = {name.replace('_', '-'): value for name, value in headers.items()}
        if begin >= len(content) > 0:
            return handler.answer(416, {'Content-Range': f'bytes */{len(content)}', 'Content-Length': 0})
        if begin: about['Content-Range'] = f'bytes {begin}-{len(content) - 1}/{len(content)}'
        body = content[begin:begin + upto if upto else None]
        handler.answer(206 if begin else 200, {'Content-Length': len(content) - begin} | about, b'' if piece else body)
        for place in range(0, len(body), piece or len(body) + 1) if piece else ():
            if wait: wait(begin + place)
            handler.wfile.write(body[place:place + piece])
            handler.wfile.flush()
    return respond


def visible(folder): return sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))


def test_a_broken_connection_goes_on_where_it_ended(server, tmp_path):
    server.files['a'] = serve(upto=100_000, ETag='"1"')
    assert download(server['a'], tmp_path/'deep'/'a', size=len(CONTENT), sha256=SHA256, **QUICK).read_bytes() == CONTENT
    assert server.begins('a') == [0, 100_000, 200_000]
    assert visible(tmp_path/'deep') == ['a']


@pytest.mark.parametrize('validator', [
    dict(ETag='"1"'),
    dict(Last_Modified='Mon, 01 Jan 2024 00:00:00 GMT'),
    dict(ETag='W/"1"'),
    {},
], ids=['etag', 'date', 'weak', 'none'])
def test_a_new_process_goes_on(server, tmp_path, validator):
    server.files['a'] = serve(upto=120_000, **validator)
    with pytest.raises(DownloadError, match='120000 bytes are kept'):
        download(server['a'], tmp_path/'a', attempts=1, **QUICK)
    assert visible(tmp_path) == ['a.part', 'a.part.json']
    server.files['a'] = serve(**validator)
    Child(fetch_in_a_child, server['a'], tmp_path/'a', len(CONTENT) + 1).finish()
    assert (tmp_path/'a').read_bytes() == CONTENT and server.begins('a') == [0, 120_000]
    assert visible(tmp_path) == ['a']


def fetch_in_a_child(url, to, least, here):
    "Stops when so many bytes have been written."
    real = module.progress_bar
    def watched(**settings):
        bar = real(**settings)
        update, came = bar.update, [0]
        def counted(n):
            came[0] += n
            update(n)
            if came[0] >= least: here(came[0])
        bar.update = counted
        return bar
    module.progress_bar = watched
    return download(url, to, progress=False)


@pytest.mark.parametrize('least', [0, 100_000])
def test_killed_in_the_middle(server, tmp_path, least):
    gate, part = threading.Event(), tmp_path/'a.part'
    server.files['a'] = serve(piece=100_000, wait=lambda sent: sent < 100_000 or gate.wait(), ETag='"1"')
    child = Child(fetch_in_a_child, server['a'], tmp_path/'a', least)
    assert child.arrive() and child.stop() == -signal.SIGKILL
    gate.set()
    kept = part.stat().st_size if part.exists() else 0
    assert kept <= least and (kept > 0) == (least > 0) and not (tmp_path/'a').exists()
    assert download(server['a'], tmp_path/'a', sha256=SHA256, **QUICK).read_bytes() == CONTENT
    assert server.begins('a') == [0, kept]


def test_a_server_without_ranges_is_asked_again_from_the_beginning(server, tmp_path):
    answers = [serve(upto=100_000, ranges=False, ETag='"1"'), serve(ranges=False, ETag='"1"')]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', **QUICK).read_bytes() == CONTENT
    assert server.begins('a') == [0, 100_000]


@pytest.mark.parametrize('old,new', [
    (dict(ETag='"1"'), dict(ETag='"2"')),
    (dict(Last_Modified='Mon, 01 Jan 2024 00:00:00 GMT'), dict(Last_Modified='Tue, 02 Jan 2024 00:00:00 GMT')),
    (dict(ETag='W/"1"'), dict(ETag='W/"2"')),
], ids=['etag', 'date', 'weak'])
def test_versions_are_never_glued_together(server, tmp_path, old, new):
    answers = [serve(upto=100_000, **old), *[serve(CONTENT[::-1], **new)]*3]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', **QUICK).read_bytes() == CONTENT[::-1]


def test_an_answer_to_if_range_may_leave_out_the_date(server, tmp_path):
    def later(handler):
        about = {
            'Content-Range': f'bytes {handler.begin}-299999/300000',
            'Content-Length': 300_000 - handler.begin,
        }
        handler.answer(206, about, CONTENT[handler.begin:])
    answers = [serve(upto=100_000, Last_Modified='Mon, 01 Jan 2024 00:00:00 GMT'), later]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', sha256=SHA256, **QUICK) and server.begins('a') == [0, 100_000]


def test_a_longer_file_without_any_mark_is_another_version(server, tmp_path):
    answers = [serve(upto=100_000), *[serve(b'new' + CONTENT)]*3]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', **QUICK).read_bytes() == b'new' + CONTENT


def test_a_mixture_that_no_mark_betrays_fails_its_checksum_and_is_fetched_again(server, tmp_path):
    answers = [serve(CONTENT[::-1], upto=100_000), *[serve()]*3]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', sha256=SHA256, **QUICK).read_bytes() == CONTENT
    assert server.begins('a') == [0, 100_000, 0]


def test_a_shorter_file_than_the_part(server, tmp_path):
    answers = [serve(upto=100_000, ETag='"1"'), *[serve(CONTENT[:50], ETag='"1"')]*3]
    server.files['a'] = lambda handler: answers.pop(0)(handler)
    assert download(server['a'], tmp_path/'a', **QUICK).read_bytes() == CONTENT[:50]


@pytest.mark.parametrize('code', [500, 502, 503, 429, 408])
def test_a_fault_that_passes(server, tmp_path, code):
    server.files['a'] = status(code, code, then=serve())
    assert download(server['a'], tmp_path/'a', sha256=SHA256, **QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize('code,message', [(404, '404 Not Found'), (403, '403 Forbidden'), (410, '410 Gone')])
def test_a_fault_that_does_not_pass_is_asked_for_once(server, tmp_path, code, message):
    server.files['a'] = status(code)
    with pytest.raises(DownloadError, match=message) as caught: download(server['a'], tmp_path/'a', **QUICK)
    assert caught.value.url == server['a']
    assert caught.value.remedy
    assert len(server.asked) == 1
    assert visible(tmp_path) == []


def test_a_server_that_stays_down(server, tmp_path):
    server.files['a'] = status(503)
    with pytest.raises(DownloadError, match='503 Service Unavailable; 3 attempts in a row'):
        download(server['a'], tmp_path/'a', attempts=3, **QUICK)
    assert len(server.asked) == 3


def test_a_length_that_never_comes(server, tmp_path):
    server.files['a'] = lambda handler: handler.answer(
        206 if handler.begin else 200,
        {'Content-Length': 900_000 - handler.begin}
        | ({'Content-Range': f'bytes {handler.begin}-899999/900000'} if handler.begin else {}),
        CONTENT[handler.begin:],
    )
    with pytest.raises(DownloadError, match='the connection (ends after 300000 of 900000 bytes|broke)'):
        download(server['a'], tmp_path/'a', attempts=3, **QUICK)
    assert len(server.asked) <= 4 and 'a' not in visible(tmp_path)


def test_a_wrong_size_is_known_before_the_first_byte_is_kept(server, tmp_path):
    server.files['a'] = serve()
    with pytest.raises(DownloadError, match='announces 300000 bytes, expected are 7'):
        download(server['a'], tmp_path/'a', size=7, **QUICK)
    assert visible(tmp_path) == []


def test_a_length_that_is_not_announced(server, tmp_path):
    server.files['a'] = lambda handler: handler.answer(200, {'Connection': 'close'}, CONTENT)
    assert download(server['a'], tmp_path/'a', size=len(CONTENT), **QUICK).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match='has 300000 bytes, expected are 7'):
        download(server['a'], tmp_path/'b', size=7, **QUICK)
    assert visible(tmp_path) == ['a']


@pytest.mark.parametrize('name', ['sha256', 'sha1', 'md5'])
def test_checksums(server, tmp_path, name):
    server.files['a'] = serve()
    right = hashlib.new(name, CONTENT).hexdigest()
    with pytest.raises(DownloadError, match=f'what came has the {name} {right}'):
        download(server['a'], tmp_path/'a', **{name: '0'*len(right)}, **QUICK)
    assert visible(tmp_path) == []
    download(server['a'], tmp_path/'a', **{name: right.upper()}, **QUICK)


def test_what_is_there_is_checked_and_not_fetched(server, tmp_path):
    (tmp_path/'a').write_bytes(CONTENT)
    assert download(server['a'], tmp_path/'a', size=len(CONTENT), sha256=SHA256, **QUICK) == tmp_path/'a'
    with pytest.raises(DownloadError, match='is there already, but has 300000 bytes'):
        download(server['a'], tmp_path/'a', size=7, **QUICK)
    assert server.asked == [] and (tmp_path/'a').read_bytes() == CONTENT


def test_a_web_page_in_the_place_of_a_file(server, tmp_path):
    server.files['set.zip'] = serve(b'<html>sign in</html>', Content_Type='text/html; charset=utf-8')
    with pytest.raises(DownloadError, match='a web page, not a file'):
        download(server['set.zip'], tmp_path/'set.zip', **QUICK)
    assert visible(tmp_path) == []


def test_silence_and_patience(server, tmp_path):
    gate = threading.Event()
    server.files['silent'] = lambda handler: gate.wait()
    with pytest.raises(DownloadError, match='no answer for 0.02 s; 2 attempts'):
        download(server['silent'], tmp_path/'a', attempts=2, pause=.01, timeout=.02, progress=False)
    gate.set()
    server.files['slow'] = serve(CONTENT[:30_000], piece=3000)
    assert download(server['slow'], tmp_path/'b', **QUICK).read_bytes() == CONTENT[:30_000]


def test_no_server_and_no_address(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match='the connection broke, or there is none'):
        download(server['a'], tmp_path/'a', attempts=2, **QUICK)
    for address in ('nowhere', 'ftp://127.0.0.1/a', 'http://'):
        with pytest.raises(DownloadError, match='Check the address'): download(address, tmp_path/'a', **QUICK)
    with pytest.raises(DownloadError, match='is a folder'): download(server['a'], tmp_path, **QUICK)


def test_progress_wins_more_attempts(server, tmp_path):
    large = CONTENT*12
    server.files['a'] = serve(large, upto=1_100_000, ETag='"1"')
    assert download(server['a'], tmp_path/'a', attempts=1 + 1, **QUICK).read_bytes() == large


def test_a_full_disk(server, tmp_path, monkeypatch):
    server.files['a'] = serve(upto=100_000, ETag='"1"')
    with pytest.raises(DownloadError): download(server['a'], tmp_path/'a', attempts=1, **QUICK)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(1, 1, 150_000))
    with pytest.raises(DownloadError,
                       match=r'0.00 GB are needed, 0.00 GB are free.*Make room on the disk; what has arrived is kept'):
        download(server['a'], tmp_path/'a', **QUICK)
    monkeypatch.undo()
    assert download(server['a'], tmp_path/'a', sha256=SHA256, **QUICK)
    assert server.begins('a') == [0, 100_000, 100_000, 200_000]


@pytest.mark.skipif(sys.platform == 'win32', reason='limits of a process are POSIX')
def test_a_disk_that_fills_up_while_writing(server, tmp_path):
    server.files['a'] = serve(ETag='"1"')
    code = '''
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from har_nb.data.download import DownloadError, download
try: download(sys.argv[1], sys.argv[2], progress=False)
except DownloadError as error: print(error.reason, error.remedy)
'''
    said = subprocess.run([sys.executable, '-c', code, server['a'], tmp_path/'a'],
                          capture_output=True, text=True, check=True).stdout
    assert 'cannot be written (File too large)' in said and not (tmp_path/'a').exists()
    assert download(server['a'], tmp_path/'a', **QUICK).read_bytes() == CONTENT


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(DownloadError, match='cannot be written'): download(server['a'], tmp_path/'file'/'a', **QUICK)


def test_two_processes_at_once(server, tmp_path):
    gate = threading.Event()
    server.files['a'] = serve(piece=100_000, wait=lambda sent: sent < 100_000 or gate.wait(), ETag='"1"')
    first = Child(fetch_in_a_child, server['a'], tmp_path/'a', 100_000)
    assert first.arrive() # it has the file, and more is to come
    second = Child(fetch_in_a_child, server['a'], tmp_path/'a', len(CONTENT) + 1)
    gate.set()
    first.pipe.send('go on')
    assert first.finish() == second.finish() == tmp_path/'a'
    assert server.begins('a') == [0] and (tmp_path/'a').read_bytes() == CONTENT and visible(tmp_path) == ['a']


def test_an_empty_file(server, tmp_path):
    server.files['a'] = serve(b'')
    assert download(server['a'], tmp_path/'a', size=0, **QUICK).read_bytes() == b''


# Archives. There is no free program that writes RAR: the two formats are written by hand, uncompressed.

def vint(number):
    "Seven bits a byte, as RAR5 writes numbers."
    groups = []
    while number > 127: groups.append(number & 127 | 128); number >>= 7
    return bytes([*groups, number])


def rar5_block(kind, rest, data=None, extra=b''):
    flags = vint(bool(extra) | 2*(data is not None))
    of_extra = vint(len(extra)) if extra else b''
    of_data = vint(len(data)) if data is not None else b''
    head = vint(kind) + flags + of_extra + of_data + rest + extra
    head = vint(len(head)) + head
    return struct.pack('<I', zlib.crc32(head)) + head + (data or b'')


def rar5(members):
    blocks = [b'Rar!\x1a\x07\x01\x00', rar5_block(1, vint(0))]
    for name, data in members.items():
        extra, name = b'', name.encode()
        if isinstance(data, tuple):
            kind, target = data
            record = vint(5) + vint(dict(link=1, hard=4)[kind]) + vint(0) + vint(len(target)) + target.encode()
            extra, data = vint(len(record)) + record, b''
        about = vint(4) + vint(len(data)) + vint(0o100644) + struct.pack('<I', zlib.crc32(data)) + vint(0) + vint(1)
        blocks.append(rar5_block(2, about + vint(len(name)) + name, data, extra))
    return b''.join([*blocks, rar5_block(5, vint(0))])


def rar4_block(kind, flags, rest, data=b''):
    head = struct.pack('<BHH', kind, flags, 7 + len(rest)) + rest
    return struct.pack('<H', zlib.crc32(head) & 0xffff) + head + data


def rar4(members):
    blocks = [b'Rar!\x1a\x07\x00', rar4_block(0x73, 0, bytes(6))]
    for name, data in members.items():
        mode = 0o100644
        if isinstance(data, tuple): mode, data = 0o120777, data[1].encode()
        name = name.encode()
        sizes = len(data), len(data)
        about = struct.pack('<IIBIIBBHI', *sizes, 3, zlib.crc32(data), 0, 20, 0x30, len(name), mode)
        blocks.append(rar4_block(0x74, 0x8000, about + name, data))
    return b''.join([*blocks, rar4_block(0x7b, 0x4000, b'')])


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            if isinstance(data, tuple): info.external_attr, data = (stat.S_IFLNK | 0o777) << 16, data[1]
            file.writestr(info, data)
    return out.getvalue()


def tarred(members, mode='w'):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                types = dict(link=tarfile.SYMTYPE, hard=tarfile.LNKTYPE, device=tarfile.CHRTYPE)
                info.type, info.linkname = types[data[0]], data[1]
                data = b''
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


KINDS = dict(
    zip=zipped,
    tar=tarred,
    targz=lambda members: tarred(members, 'w:gz'),
    tarbz2=lambda members: tarred(members, 'w:bz2'),
    tarxz=lambda members: tarred(members, 'w:xz'),
    rar4=rar4,
    rar5=rar5,
)
CLIPS = {'run/one.avi': b'first', 'run/two words.avi': b'second'*1000,
         'empty.avi': b'', '#20_Rhythm;[clap]!.avi': b'third'}


@pytest.fixture(params=KINDS)
def pack(request): return KINDS[request.param]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob('*')
            if path.is_file() and not path.relative_to(folder).as_posix().startswith('.')}


def test_every_kind_by_its_bytes_and_not_its_name(tmp_path, pack):
    (tmp_path/'archive.bin').write_bytes(pack(CLIPS))
    files = unpack(tmp_path/'archive.bin', tmp_path/'out', progress=False)
    assert contents(tmp_path/'out') == CLIPS
    assert sorted(path.relative_to(tmp_path/'out').as_posix() for path in files) == sorted(CLIPS)
    assert [path.name for path in (tmp_path/'out').iterdir() if path.name.startswith('.')] == ['.unpacked']


@pytest.mark.parametrize('name', ['../evil.avi', 'run/../../evil.avi', '/evil.avi', '//host/evil.avi', r'C:\evil.avi',
                                  'C:evil.avi', r'..\evil.avi', r'run\..\..\evil.avi', r'\\host\share\evil.avi', '..'])
def test_members_that_get_out_are_refused_before_anything_is_written(tmp_path, pack, name):
    (tmp_path/'trap').write_bytes(pack({'good.avi': b'good', name: b'evil', 'more.avi': b'more'}))
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ArchiveError, match='climbs|absolute') as caught:
        unpack(tmp_path/'trap', tmp_path/'deep'/'out', progress=False)
    assert 'evil' in str(caught.value) or "'..'" in str(caught.value)
    assert [path for path in tmp_path.rglob('*') if path.is_file() and not path.name.endswith('.lock')] == [
        path for path in before if path.is_file()
    ]
    assert visible(tmp_path/'deep'/'out') == []


@pytest.mark.parametrize('kind', ['zip', 'tar', 'targz', 'rar4', 'rar5'])
@pytest.mark.parametrize('target', ['../outside', '/etc', 'C:\\', 'run/../../outside'])
def test_links_that_get_out(tmp_path, kind, target):
    (tmp_path/'outside').mkdir()
    (tmp_path/'trap').write_bytes(KINDS[kind]({'run': ('link', target), 'run/evil.avi': b'evil'}))
    with pytest.raises(ArchiveError, match="'run' is a link"): unpack(tmp_path/'trap', tmp_path/'out', progress=False)
    assert not any((tmp_path/'outside').iterdir()) and visible(tmp_path/'out') == []


@pytest.mark.parametrize('kind', ['tar', 'rar5'])
def test_hard_links(tmp_path, kind):
    (tmp_path/'trap').write_bytes(KINDS[kind]({'copy.avi': ('hard', '/etc/passwd')}))
    with pytest.raises(ArchiveError, match="'copy.avi' is a hard link to '/etc/passwd'"):
        unpack(tmp_path/'trap', tmp_path/'out', progress=False)
    (tmp_path/'fine').write_bytes(tarred({'one.avi': b'one', 'copy.avi': ('hard', 'one.avi')}))
    unpack(tmp_path/'fine', tmp_path/'out', progress=False)
    assert contents(tmp_path/'out') == {'one.avi': b'one', 'copy.avi': b'one'}


def test_devices_and_what_lies_behind_a_link(tmp_path):
    (tmp_path/'trap').write_bytes(tarred({'disk': ('device', '')}))
    with pytest.raises(ArchiveError, match="'disk' is a device"):
        unpack(tmp_path/'trap', tmp_path/'out', progress=False)
    chain = [Member('a', 0, 'folder'), Member('a/b', 0, 'link', '.'), Member('a/b/c.avi', 1),
             Member('l', 0, 'link', 'a'), Member('l/b', 0, 'link', 'x')]
    assert refused(chain) == {'a/b/c.avi': 'lies behind a link', 'l/b': 'lies behind a link'}


@pytest.mark.skipif(sys.platform == 'win32', reason='links need rights there')
@pytest.mark.parametrize('kind', ['zip', 'tar', 'rar5'])
def test_links_within(tmp_path, kind):
    (tmp_path/'a').write_bytes(KINDS[kind]({'run/one.avi': b'one', 'latest': ('link', 'run')}))
    unpack(tmp_path/'a', tmp_path/'out', progress=False)
    assert (tmp_path/'out'/'latest'/'one.avi').read_bytes() == b'one' and (tmp_path/'out'/'latest').is_symlink()
    assert unpacked('a', tmp_path/'out') is not None


def test_control_characters_are_refused(tmp_path):
    for kind in (tarred, rar5):
        (tmp_path/'trap').write_bytes(kind({'a\nSize = 1': b'evil'}))
        with pytest.raises(ArchiveError): unpack(tmp_path/'trap', tmp_path/'out', progress=False)
        assert visible(tmp_path/'out') == []


@pytest.mark.parametrize('form', [rar4, rar5])
def test_archives_within(tmp_path, form):
    classes = {label: {f'{label}/clip_{i}.avi': f'{label} {i}'.encode() for i in range(3)}
               for label in ('brush_hair', 'cartwheel')}
    (tmp_path/'org.rar').write_bytes(form({f'{label}.rar': form(clips) for label, clips in classes.items()}))
    unpack(tmp_path/'org.rar', tmp_path/'out', progress=False)
    assert contents(tmp_path/'out') == classes['brush_hair'] | classes['cartwheel']
    unpack(tmp_path/'org.rar', tmp_path/'flat', nested=0, progress=False)
    assert visible(tmp_path/'flat') == ['brush_hair.rar', 'cartwheel.rar']
    (tmp_path/'trap.rar').write_bytes(form({
        'good.rar': form({'good.avi': b'good'}),
        'bad.rar': form({'../../evil.avi': b'evil'}),
    }))
    with pytest.raises(ArchiveError, match='bad.rar.*climbs'):
        unpack(tmp_path/'trap.rar', tmp_path/'trapped', progress=False)
    assert visible(tmp_path/'trapped') == [] and not list(tmp_path.rglob('evil*'))


@pytest.mark.parametrize('cut', [.3, .6, .9])
def test_a_cut_archive_leaves_nothing(tmp_path, pack, cut):
    whole = pack({f'{i}.avi': CONTENT[:20_000] for i in range(5)})
    (tmp_path/'cut').write_bytes(whole[:int(len(whole)*cut)])
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'mine.txt').write_text('mine')
    with pytest.raises(ArchiveError): unpack(tmp_path/'cut', tmp_path/'out', progress=False)
    assert visible(tmp_path/'out') == ['mine.txt'] and not (tmp_path/'out'/'.cut.unpacking').exists()


@pytest.mark.parametrize('kind', ['zip', 'rar4', 'rar5'])
def test_a_changed_byte_is_noticed(tmp_path, kind):
    whole = bytearray(KINDS[kind]({'one.avi': CONTENT[:20_000]}))
    whole[len(whole)//2] ^= 1
    (tmp_path/'changed').write_bytes(whole)
    with pytest.raises(ArchiveError, match='damaged'): unpack(tmp_path/'changed', tmp_path/'out', progress=False)
    assert visible(tmp_path/'out') == []


def test_what_is_no_archive(tmp_path):
    (tmp_path/'page.zip').write_text('<html>too many requests</html>')
    (tmp_path/'empty.rar').touch()
    for name in ('page.zip', 'empty.rar'):
        with pytest.raises(ArchiveError, match='neither zip, tar nor rar'):
            unpack(tmp_path/name, tmp_path/'out', progress=False)
    with pytest.raises(ArchiveError, match='no such file'): unpack(tmp_path/'gone.zip', tmp_path/'out', progress=False)
    locked = bytearray(zipped({'one.avi': b'one'}))
    for place in (6, locked.index(b'PK\x01\x02') + 8): locked[place] |= 1
    (tmp_path/'locked.zip').write_bytes(locked)
    with pytest.raises(ArchiveError, match='encrypted'): unpack(tmp_path/'locked.zip', tmp_path/'out', progress=False)


def test_more_than_the_disk_holds(tmp_path, pack, monkeypatch):
    (tmp_path/'bomb').write_bytes(pack({'zeros.avi': bytes(1_000_000)}))
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(1, 1, 900_000))
    with pytest.raises(ArchiveError, match='room on the disk'): unpack(tmp_path/'bomb', tmp_path/'out', progress=False)
    assert visible(tmp_path/'out') == []


def test_done_once_and_done_again_where_something_is_missing(tmp_path, pack):
    (tmp_path/'archive').write_bytes(pack(CLIPS))
    files = unpack(tmp_path/'archive', tmp_path/'out', progress=False)
    times = [path.stat().st_mtime_ns for path in files]
    assert [path.stat().st_mtime_ns for path in unpack(tmp_path/'archive', tmp_path/'out', progress=False)] == times
    (tmp_path/'out'/'run'/'one.avi').write_bytes(b'shorter'[:2])
    assert unpacked('archive', tmp_path/'out') is None
    unpack(tmp_path/'archive', tmp_path/'out', progress=False)
    assert contents(tmp_path/'out') == CLIPS
    (tmp_path/'archive').unlink()
    assert unpack(tmp_path/'archive', tmp_path/'out', progress=False) == files
    (tmp_path/'out'/'.unpacked'/'archive.json').write_text('{half')
    assert unpacked('archive', tmp_path/'out') is None


def test_interrupted_it_shows_nothing_and_goes_on(tmp_path, monkeypatch):
    clips = {f'run/{i}.avi': f'clip {i}'.encode() for i in range(10)}
    (tmp_path/'set.zip').write_bytes(zipped(clips))
    copied, copy = [], shutil.copyfileobj
    def tired(source, target, length):
        copied.append(target.name)
        if len(copied) == 6: raise KeyboardInterrupt
        copy(source, target, length)
    monkeypatch.setattr(module.shutil, 'copyfileobj', tired)
    with pytest.raises(KeyboardInterrupt): unpack(tmp_path/'set.zip', tmp_path/'out', progress=False)
    assert visible(tmp_path/'out') == []
    unpack(tmp_path/'set.zip', tmp_path/'out', progress=False)
    assert contents(tmp_path/'out') == clips and len(copied) == 6 + 5


def test_two_processes_unpack_at_once(tmp_path):
    clips = {f'run/{i}.avi': f'clip {i}'.encode()*100 for i in range(300)}
    (tmp_path/'set.zip').write_bytes(zipped(clips))
    code = 'import sys; from har_nb.data.download import unpack; unpack(sys.argv[1], sys.argv[2], progress=False)'
    both = [subprocess.Popen([sys.executable, '-c', code, tmp_path/'set.zip', tmp_path/'out']) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert contents(tmp_path/'out') == clips
    assert len(json.loads((tmp_path/'out'/'.unpacked'/'set.zip.json').read_text())) == 300


# Videos

@pytest.fixture
def site(server, tmp_path):
    pytest.importorskip('yt_dlp')
    write_video(tmp_path/'source.mp4', np.random.default_rng(0).integers(0, 256, (25, 48, 64, 3), dtype=np.uint8))
    server.files |= {
        'clip.mp4': serve((tmp_path/'source.mp4').read_bytes(), Content_Type='video/mp4'),
        'page.html': serve(b'<html><video src="clip.mp4"></video></html>', Content_Type='text/html'),
        'empty.html': serve(b'<html>no video</html>', Content_Type='text/html'),
    }
    return server


@pytest.mark.parametrize('name', ['clip.mp4', 'page.html'])
def test_a_video_by_its_address_or_its_page(site, tmp_path, name):
    path = fetch_video(site[name], tmp_path/'out', 'v_100%_(1)', progress=False)
    assert path == tmp_path/'out'/'v_100%_(1).mp4' and probe(path).n_frames == 25
    n = len(site.asked)
    assert fetch_video(site[name], tmp_path/'out', 'v_100%_(1)', progress=False) == path and len(site.asked) == n
    assert visible(tmp_path/'out') == [path.name]
    assert [entry for entry in os.listdir(tmp_path/'out') if entry.endswith('.fetching')] == []


@pytest.mark.parametrize('name', ['gone.mp4', 'empty.html'])
def test_no_video_there(site, tmp_path, name):
    with pytest.raises(DownloadError, match='yt-dlp: ') as caught:
        fetch_video(site[name], tmp_path/'out', 'one', progress=False, attempts=1)
    assert '\x1b' not in str(caught.value) and visible(tmp_path/'out') == []


def test_a_name_that_is_a_path(tmp_path):
    for name in ('../evil', 'a/b', '/evil', '', 'C:\\evil'):
        with pytest.raises(ValueError, match='not the name of a file'): fetch_video('http://127.0.0.1/', tmp_path, name)


def test_without_yt_dlp(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'yt_dlp', None)
    with pytest.raises(DownloadError, match=r'pip install har_nb\[collect\]'):
        fetch_video('http://127.0.0.1/', tmp_path, 'one')
