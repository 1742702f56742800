"""Work in a process of its own that says where it is and waits there until it may go on or is killed: what is tested
depends on the step, and on no machine's speed."""
import multiprocessing
import os
import signal
import threading

SERVER = multiprocessing.get_context('forkserver') # children begin with the libraries imported, and without threads
SERVER.set_forkserver_preload(['pytest', 'har_nb.samples.store', 'har_nb.data.seags'])


def at(owner, name, here, after=False):
    "Let a function stop at its beginning, or before it returns."
    real = getattr(owner, name)
    def watched(*arguments, **settings):
        if not after: here(name)
        result = real(*arguments, **settings)
        if after: here(name)
        return result
    setattr(owner, name, watched)


def _run(work, arguments, pipe):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    alone = threading.Lock()
    def here(step):
        with alone:
            pipe.send(step)
            pipe.recv()
    try: pipe.send(('returned', work(*arguments, here)))
    except KeyboardInterrupt: pipe.send(('interrupted', ''))
    except Exception as error: pipe.send(('raised', f'{type(error).__name__}: {error}'))


class Child:
    "A process that does `work(*arguments, here)`; it stops wherever that calls `here(step)`."
    def __init__(self, work, *arguments):
        self.pipe, theirs = SERVER.Pipe()
        self.process = SERVER.Process(target=_run, args=(work, arguments, theirs))
        self.process.start()
        theirs.close()
        self.end = None
    def arrive(self, times=1):
        "Let it go on to its next stop, so many times; False where it ended before."
        for n in range(times):
            if n: self.pipe.send('go on')
            self.end = self.pipe.recv()
            if isinstance(self.end, tuple): return False
        return True
    def finish(self):
        "Let it go on to its end: what it returned, or ('raised', text)."
        while self.arrive(): self.pipe.send('go on')
        self.process.join()
        return self.end[1] if self.end[0] == 'returned' else self.end
    def interrupt(self):
        "Ctrl-C where it stands, and its end."
        os.kill(self.process.pid, signal.SIGINT)
        self.pipe.send('go on') # a thread that stood may go home
        return self.finish()
    def stop(self, how=signal.SIGKILL):
        """Send a signal where it stands, or is on its way, and wait for its end; the exit code, 0 where it had come to
        its end before."""
        # it has said nothing of its end; a child that has not been waited for has its number still
        if not isinstance(self.end, tuple): os.kill(self.process.pid, how)
        self.process.join()
        return self.process.exitcode
