"Servers that the tests start and end by themselves: MLflow's, and PostgreSQL."
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from children import until

from har_nb.learning.tracking import QUIET


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


class MLflow:
    "`mlflow server` on 127.0.0.1, which hands out artifacts itself; can be killed and started again."
    def __init__(self,
        store:str, # address of the backend store
        artifacts:Path, # folder that only the server knows
    ):
        self.port, self.process = free_port(), None
        self.uri = f'http://127.0.0.1:{self.port}'
        self.command = [sys.executable, '-m', 'mlflow', 'server', '--backend-store-uri', store,
                        '--artifacts-destination', str(artifacts), '--serve-artifacts', '--host', '127.0.0.1',
                        '--port', str(self.port), '--workers', '1']
        self.log = artifacts.with_name(f'{artifacts.name}.log')
    def start(self):
        environment = {k: v for k, v in os.environ.items() if k != 'MLFLOW_TRACKING_URI'} | QUIET | dict(
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION='false'
        )
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(self.command,
                                            env=environment, stdout=log, stderr=log, start_new_session=True)
        try: until(self.answers, self.process)
        except AssertionError as error: raise AssertionError(self.log.read_text()[-3000:]) from error
        return self
    def answers(self):
        with suppress(OSError): return urlopen(f'{self.uri}/health', timeout=5).status == 200
    def kill(self):
        if self.process:
            with suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None
    def get(self, path):
        try: return urlopen(f'{self.uri}{path}', timeout=20).status
        except HTTPError as e: return e.code


@contextmanager
def mlflow_server(store, artifacts):
    server = MLflow(store, artifacts)
    try: yield server.start()
    finally: server.kill()


def postgres_programs():
    "Folder of PostgreSQL's programs, the newest, or None."
    found = [Path(path).parent for path in [shutil.which('initdb')] if path] + sorted(
        Path('/usr/lib/postgresql').glob('*/bin'), key=lambda p: float(p.parent.name), reverse=True
    )
    return next((folder for folder in found if (folder/'initdb').exists() and (folder/'pg_ctl').exists()), None)


def driver():
    """Name of a driver that is installed, or None. It belongs into the address: what `postgresql://` alone means
    changes between versions of SQLAlchemy."""
    return next((name for name in ('psycopg', 'psycopg2') if find_spec(name)), None)


@contextmanager
def postgres():
    """A PostgreSQL of its own on 127.0.0.1, in a folder of its own: address for SQLAlchemy. It refuses to be root's, so
    root runs it as `nobody`, who may not look into pytest's folders."""
    programs, port = postgres_programs(), free_port()
    with tempfile.TemporaryDirectory(prefix='postgres') as place:
        folder, become = Path(place), ['runuser', '-u', 'nobody', '--'] if os.geteuid() == 0 else []
        (folder/'password').write_text('secret')
        if become:
            for path in (folder, folder/'password'): shutil.chown(path, 'nobody')
        def call(name, *words):
            subprocess.run([*become, programs/name, *words],
                           cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        call('initdb', '-D', folder/'data', '-U', 'har', '-A', 'scram-sha-256', '--pwfile', folder/'password', '-E',
             'UTF8', '--no-sync')
        call('pg_ctl', '-D', folder/'data', '-l', folder/'log', '-w', '-o', f'-h 127.0.0.1 -p {port} -k {folder} -F',
             'start')
        try: yield f'postgresql+{driver()}://har:secret@127.0.0.1:{port}/postgres'
        finally: call('pg_ctl', '-D', folder/'data', '-m', 'immediate', 'stop')
