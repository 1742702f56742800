"""Processes that tests start: they say where they are and are stopped there, so that no test depends on how fast the
machine is."""
import os
import signal
import socket
import sys
import time

LIMIT = 900 # seconds, against hanging for ever; nothing that is tested takes a tenth of them


def until(
    condition, # () -> whether it is so; must become true by what other processes do
    process=None, # Popen that must not end before
):
    "Wait until something is so. The one place where tests wait: what waits has no say in what is found."
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert process is None or process.poll() is None, f'the process ended by itself, with {process.returncode}'
        assert time.monotonic() < deadline, 'it never became so'
        time.sleep(.02)
    return found


def free_port()->int:
    "A port of this machine that nobody listens on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def says(
    process, # Popen with a pipe of text for its output
    word:str='here',
)->str: # the line
    """Read what a process prints up to the line that holds a word; it must not end before. One that prints, and then
    waits, is stopped exactly there."""
    lines = []
    for line in process.stdout:
        if word in line: return line
        lines.append(line)
    raise AssertionError(f'the process ended by itself, with {process.wait()}: {"".join(lines)[-3000:]}')


HERE = '''
def here(word='here'): # say it, and stay: whoever waits for the word ends this process at this very step
    import signal
    print(word, flush=True)
    while True: signal.pause()
'''


def die():
    "The end, as `kill -9` makes it."
    os.kill(os.getpid(), signal.SIGKILL)


def dying(
    function, # to be called
    before:int|None=None, # die in this call, counted from 0, instead of it
    after:int|None=None, # die when this call is done
):
    "The same function, which ends its process at a named step."
    calls = []
    def called(*args, **kwargs):
        calls.append(1)
        if before is not None and len(calls) > before: die()
        result = function(*args, **kwargs)
        if after is not None and len(calls) > after: die()
        return result
    return called


def in_child(work)->int:
    """Run a function in a forked process, which has all imports already; its exit status, negative for a signal. It
    must not share a store that is open here."""
    if (child := os.fork()) == 0:
        try:
            # OpenMP's threads are not forked, and a loop that is divided among them would wait for ever
            if 'torch' in sys.modules: sys.modules['torch'].set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
