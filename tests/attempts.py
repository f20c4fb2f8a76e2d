"""One call with arguments of any kind: what may come of it, and what may not happen beside it."""

import contextlib
import faulthandler
import os
import re
import warnings

import numpy as np

# The most address space that a call may ask for.
ROOM = 2**30
# Seconds for one call; the first compiles.
DEADLINE = 120

# What an error may speak of that is no argument but follows from several.
FOLLOWING = ("the output", "the columns", "the matrix", "the weight")
PYTHON_S_OWN = re.compile(r"got an unexpected keyword argument|missing \d+ required|takes .* positional")


@contextlib.contextmanager
def limited_memory(room=ROOM):
    """Let the process have so much more address space than it has now (on Linux)."""
    try:
        import resource

        with open("/proc/self/statm") as counts:
            now = int(counts.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Attempts:
    """Calls under a limit of memory and of time; made by the fixture `attempts`."""

    def __init__(self, capfd):
        with capfd.disabled():
            self.stderr = os.dup(2)  # where pytest's own goes is lost when the process ends

    def __call__(self, call, arguments, named, lacks_memory):
        """What a call returns, or None after an error that names one of ``named``.

        ``lacks_memory`` is asked after a MemoryError: whether the call was for more than there is.
        """
        before, result = contents(arguments), None
        with warnings.catch_warnings(record=True) as caught, self.deadline():
            warnings.simplefilter("always")
            try:
                result = call(**arguments)
            except (ValueError, TypeError) as error:
                assert_message(error, named)
            except MemoryError:
                assert lacks_memory(), "out of memory"
        assert not caught, [str(warning.message) for warning in caught]
        if result is None or "out" not in arguments:
            assert_untouched(before)
        return result

    @contextlib.contextmanager
    def deadline(self):
        """End the process, with a traceback, where a call hangs."""
        faulthandler.dump_traceback_later(DEADLINE, exit=True, file=self.stderr)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def root(array):
    """The array whose memory a view looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def contents(arguments):
    """Copies of all memory that the arguments look at."""
    values = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    return [(root(value), root(value).tobytes()) for value in values]


def assert_untouched(before):
    for array, bytes_before in before:
        assert array.tobytes() == bytes_before, "an argument was written to"


def assert_message(error, named):
    """It begins with the name of an argument, unless Python itself refused the call."""
    text, names = str(error), "|".join(map(re.escape, (*named, *FOLLOWING)))
    own = isinstance(error, TypeError) and PYTHON_S_OWN.search(text)
    assert own or re.match(rf"(?s)({names})(\[.*?\])* must be .+, got .+", text), text
