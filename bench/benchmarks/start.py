"""Import, the first call with a warm cache, and cold compilation, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile

FIRST_CALL = """
import numpy as np, fastconv
x, w = np.ones((1, 3, 8, 8), 'float32'), np.ones((4, 3, 3, 3), 'float32')
fastconv.conv2d(x, w)
"""
ALL = """
import json, time, numpy as np, fastconv
start = time.perf_counter()
x, w = np.ones((1, 3, 8, 8), 'float32'), np.ones((4, 3, 3, 3), 'float32')
y = fastconv.conv2d(x, w)
fastconv.conv2d_backward(y, x, w)
v, i = fastconv.max_pool2d(y, 2, return_indices=True)
fastconv.max_pool2d_backward(v, i, y.shape)
a = fastconv.avg_pool2d(y, 2)
fastconv.avg_pool2d_backward(a, y.shape, 2)
print(json.dumps(time.perf_counter() - start))
"""


class Start:
    """A process of its own, with compiled kernels in the cache."""

    number = 1

    def timeraw_import(self):
        """Seconds of the import."""
        return "import fastconv"

    timeraw_import.pretty_name = "Import"

    def timeraw_first_call(self):
        """Seconds of the import and a first convolution."""
        return FIRST_CALL

    timeraw_first_call.pretty_name = "Import and first call"


class ColdCompilation:
    """One dtype, all passes and pooling, with an empty cache folder."""

    timeout = 300
    unit = "seconds"
    pretty_name = "Cold compilation"

    def setup_cache(self):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "FASTCONV_CACHE_DIR": folder}
            command = [sys.executable, "-c", ALL]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def track_cold_compilation(self, seconds):
        """Seconds of the first calls."""
        return seconds
