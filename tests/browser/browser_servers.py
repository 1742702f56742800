"The two servers, started as a user starts them."
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import psutil
from children import free_port, until


def answers(port):
    with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) == 0


@contextmanager
def serving(words, ready, folder, **environment):
    """`har WORDS`, started in `folder` (Python looks there first), on a free port, once it has said what `ready`
    matches; yields what matched, the port and the process id. All it started ends with it."""
    # tests draw into nothing, a notebook onto its page
    port, inherited = free_port(), {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    process = subprocess.Popen([sys.executable, '-c', 'from har_nb.tools.cli import main; main()',
                                *words, '--port', str(port)], cwd=folder, env=inherited | environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    said, found = [], []
    def read():
        for line in process.stdout:
            said.append(line)
            if not found and (match := re.search(ready, line)): found.append(match[0])
    reader = threading.Thread(target=read)
    reader.start()
    try:
        try: until(lambda: found and answers(port), process)
        except AssertionError as error:
            raise AssertionError(f'har {words[0]} did not start:\n' + ''.join(said)) from error
        yield found[0], port, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try: process.wait(20)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL), process.wait()
        reader.join()


def listening(process_id):
    "Addresses that a process and its children listen on."
    processes = [psutil.Process(process_id), *psutil.Process(process_id).children(recursive=True)]
    return {c.laddr.ip
            for process in processes
            for c in process.net_connections(kind='tcp')
            if c.status == psutil.CONN_LISTEN}


def status(port, path, host):
    "HTTP status of a page asked for by somebody who says that the server is called `host`."
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    try:
        connection.request('GET', path, headers=dict(Host=host))
        return connection.getresponse().status
    finally: connection.close()
