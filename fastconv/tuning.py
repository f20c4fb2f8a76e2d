"""Algorithms that were measured: what `ConvPlan.tune` times, and its answers in memory and in files.

Nothing here runs by itself. What a process knows comes from calls of ``tune`` and from files that the program
or its environment names, so that results are the same bits wherever these are the same.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv import advice
from fastconv.arguments import file_path, must_be, must_be_said, whole_number
from fastconv.config import cpu
from fastconv.engine.algorithm import PASSES, Algorithm, Pass
from fastconv.engine.select import candidates, choose
from fastconv.geometry import Geometry
from fastconv.kernels.vectors import VECTOR_BITS
from fastconv.threads import get_num_threads

if TYPE_CHECKING:
    from fastconv.plan import ConvPlan

# Names a file that is loaded when fastconv is imported.
VARIABLE = "FASTCONV_TUNING"

# A turn is as many calls as take this long, or one; their mean counts as one time.
_TURN_SECONDS = 0.001
_MOST_REPEATS = 500
# However long they take: middle halves of fewer times say little.
_LEAST_ROUNDS = 5
# An algorithm whose shortest time is so many times that of another is not timed again, after the first time
# and later on: the first may have been held up, which seldom happens to all of several.
_FAR_BEHIND = 1.5, 1.2

_WRITTEN = "a file that fastconv.save_tuning or `fastconv tune` wrote"


class Answer(NamedTuple):
    """What was found for one layer."""

    algorithms: Mapping[Pass, type[Algorithm]]
    threads: int  # that it was measured with; it holds for any number of them


_known: dict[Geometry, Answer] = {}
_files: list[str] = []
# Another object after each change. A cache of plans has it in its keys, so that a plan which a thread makes
# while another one learns is not what later calls find.
edition = object()


def learn(answers: Mapping[Geometry, Answer]) -> None:
    """Know these from now on; plans that there are stay as they are."""
    global edition
    _known.update(answers)
    edition = object()


def tuned(geometry: Geometry) -> Mapping[Pass, type[Algorithm]]:
    """The algorithms that were found for a layer; none where it was not tuned."""
    answer = _known.get(geometry)
    return {} if answer is None else answer.algorithms


def description() -> str:
    """What this process knows, in a few words."""
    layers = "no layers" if not _known else f"{len(_known)} layer{'s' if len(_known) > 1 else ''}"
    return f"{layers}, from {', '.join(_files)}" if _files else layers


# --- measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """Algorithms that were timed for one pass.

    Attributes
    ----------
    own : type
        What "auto" chooses without a measurement.
    times : dict
        Algorithm to its times in seconds a call, those of the same round at the same place.
    """

    own: type[Algorithm]
    times: Mapping[type[Algorithm], list[float]]

    def seconds(self, kind: type[Algorithm]) -> float:
        """The typical time of a call."""
        return median(self.times[kind])

    @property
    def best(self) -> type[Algorithm]:
        """The fastest; "auto"'s own where the middle halves of their times overlap."""
        fastest = min(self.times, key=self.seconds)
        first, _, _ = quantiles(self.times[self.own], n=4, method="inclusive")
        _, _, third = quantiles(self.times[fastest], n=4, method="inclusive")
        return fastest if third < first else self.own


def tune(plan: ConvPlan, seconds: float) -> dict[Pass, Contest]:
    """Time the algorithms of every pass of a plan that is not empty, and know the fastest from now on."""
    geometry, rng = plan._geometry, np.random.default_rng(0)
    x, w, dy = (
        rng.random(size, geometry.compute_dtype).astype(geometry.dtype, copy=False)
        for size in (plan.input_size, plan.weight_size, plan.output_size)
    )

    def call(which: Pass, kind: type[Algorithm]) -> Callable[[], object]:
        alone = type(plan)(geometry, "auto", {which: kind})
        calls = {
            "forward": partial(alone, x, w),
            "backward_input": partial(alone.backward_input, dy, w),
            "backward_weight": partial(alone.backward_weight, dy, x),
        }
        return calls[which]

    contests: dict[Pass, Contest] = {}
    for which in PASSES:
        own = choose(geometry, which)
        assert not isinstance(own, str)
        kinds = dict.fromkeys((own, *candidates(geometry, which)))
        contests[which] = _contest(own, {kind: call(which, kind) for kind in kinds}, seconds / len(PASSES))
    learn({geometry: answer(contests)})
    return contests


def answer(contests: Mapping[Pass, Contest]) -> Answer:
    """What contests that were held here and now say of their layer."""
    return Answer({which: contest.best for which, contest in contests.items()}, get_num_threads())


def _contest(
    own: type[Algorithm], calls: Mapping[type[Algorithm], Callable[[], object]], seconds: float
) -> Contest:
    """Time calls in rounds, each in another order: what one leaves in caches meets all others alike."""
    shortest: dict[type[Algorithm], float] = {}
    spent = 0.0
    for kind, call in calls.items():
        call()  # may compile
        shortest[kind] = _turn(call, 1)
        if shortest[kind] < _TURN_SECONDS:
            shortest[kind] = min(shortest[kind], _turn(call, 1), _turn(call, 1))
        spent += shortest[kind]
    least = _TURN_SECONDS / _MOST_REPEATS
    repeats = {kind: max(1, round(_TURN_SECONDS / max(time, least))) for kind, time in shortest.items()}
    times: dict[type[Algorithm], list[float]] = {kind: [] for kind in calls}
    order, near = Random(0), list(calls)
    while len(times[own]) < _LEAST_ROUNDS or (spent < seconds and len(near) > 1):
        limit = _FAR_BEHIND[bool(times[own])] * min(shortest.values())
        near = [kind for kind in near if kind is own or shortest[kind] <= limit]
        for kind in order.sample(near, len(near)):
            times[kind].append(_turn(calls[kind], repeats[kind]))
            spent += times[kind][-1] * repeats[kind]
            shortest[kind] = min(shortest[kind], times[kind][-1])
    return Contest(own, {kind: times[kind] for kind in near})


def _turn(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one of so many calls."""
    begin = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - begin) / repeats


# --- files --------------------------------------------------------------------------------------------


def save_tuning(path: str | os.PathLike[str]) -> None:
    """Write all tuned layers that this process knows to a file, for `load_tuning` and ``FASTCONV_TUNING``.

    The file says for which CPU and version it holds, and with how many threads each layer was measured.
    Layers of an earlier file that is to be added to are loaded first.

    Parameters
    ----------
    path : str or path-like
        Of a JSON file; one that is there is replaced as a whole.

    Raises
    ------
    TypeError, ValueError
        If ``path`` is not that of a file that can be written.

    Examples
    --------
    >>> import tempfile
    >>> import fastconv
    >>> plan = fastconv.plan_conv2d((1, 2, 6, 6), (2, 2, 3, 3)).tune(0.01)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastconv.save_tuning(f"{folder}/tuning.json")
    ...     fastconv.load_tuning(f"{folder}/tuning.json")
    """
    write("path", file_path("path", path), _known.copy())


def load_tuning(path: str | os.PathLike[str]) -> None:
    """Choose from now on as a file says that `save_tuning` or ``fastconv tune`` wrote.

    Its layers replace those that this process knows; plans that there are keep their algorithms. The
    environment variable ``FASTCONV_TUNING`` names a file that is loaded when fastconv is imported; what is
    wrong with it is then a warning.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    TypeError, ValueError
        If the file can't be read, is something else, or was written on another CPU or by another version
        of fastconv.

    Warns
    -----
    UserWarning
        If some of its algorithms are unknown, or can't serve their layers; "auto" chooses for these.
    """
    _load("path", file_path("path", path))


def load_from_environment() -> None:
    """Load the file that the environment names, if it does; never fail."""
    path = os.environ.get(VARIABLE)
    if path:
        try:
            _load(VARIABLE, Path(path))
        except ValueError as error:
            warnings.warn(f"{error}; it is not used", stacklevel=2)


def _load(name: str, path: Path) -> None:
    learn(read(name, path))
    if str(path) not in _files:
        _files.append(str(path))


def _machine() -> dict[str, Any]:
    """What an answer depends on, besides its layer."""
    from fastconv import __version__

    return {"fastconv": __version__, "cpu": cpu(), "vector_bits": VECTOR_BITS}


def write(name: str, path: Path, answers: Mapping[Geometry, Answer]) -> None:
    """Write answers to a file, which is whole at any time; ``name`` is what the caller calls it."""
    rows = [
        {
            **geometry.to_json(),
            "threads": threads,
            "algorithms": {
                which: algorithms[which].label if which in algorithms else None for which in PASSES
            },
        }
        for geometry, (algorithms, threads) in answers.items()
    ]
    rows.sort(key=lambda row: list(map(str, row.values())))
    head = json.dumps(_machine(), indent=1).removesuffix("\n}")
    lines = ",".join(f"\n  {json.dumps(row)}" for row in rows)
    text = f'{head},\n "layers": [{lines}\n ]\n}}\n'
    try:
        target = Path(os.path.realpath(path))  # of a link, the file that it leads to
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")  # a device takes it, a folder does not
        else:
            _replace(target, text)
    except (OSError, ValueError) as error:
        came = f"{advice.shown(str(path))}: {_why(error)}"
        must_be_said(ValueError, name, "a file that can be written", came)


def _replace(path: Path, text: str) -> None:
    """Write a file of its own first, so that a reader never meets half of one."""
    unfinished = path.with_name(f".{os.getpid()}.{threading.get_ident()}.fastconv")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(name: str, path: Path) -> dict[Geometry, Answer]:
    """The answers of a file, without those that can't serve; ``name`` is what the caller calls it.

    Raises
    ------
    ValueError
        If it is no such file, or one for other circumstances.
    """
    shown = advice.shown(str(path))
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("not a file")  # a device may never end
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        must_be_said(ValueError, name, _WRITTEN, f"{shown}: {_why(error)}")
    except (ValueError, RecursionError) as error:
        must_be_said(ValueError, name, _WRITTEN, f"{shown}: not JSON: {_why(error)}")
    here = _machine()
    if not isinstance(content, dict) or not {*here, "layers"} <= set(content):
        must_be_said(ValueError, name, _WRITTEN, f"{shown}: not with {', '.join(here)} and layers")
    for what, wanted in here.items():
        if content[what] != wanted:
            came = f"{shown} of {what} {advice.shown(content[what])}: tune again, with `fastconv tune`"
            must_be_said(ValueError, name, f"a tuning of {what} {wanted!r}", came)
    if not isinstance(content["layers"], list):
        must_be_said(ValueError, name, _WRITTEN, f"{shown}: layers are {advice.shown(content['layers'])}")
    answers: dict[Geometry, Answer] = {}
    useless: list[str] = []
    for i, row in enumerate(content["layers"]):
        try:
            if not isinstance(row, dict) or not isinstance(row["algorithms"], dict):
                must_be(TypeError, "a layer", "an object with another one of algorithms", row)
            geometry, threads = Geometry.from_json(row), whole_number("threads", row["threads"], 1)
            labels = {which: row["algorithms"][which] for which in PASSES}
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{error} is missing" if isinstance(error, KeyError) else _why(error)
            must_be_said(ValueError, name, _WRITTEN, f"{shown}: layers[{i}]: {problem}")
        found = labelled(geometry, labels)
        useless += [
            f"layers[{i}] {which}: {advice.shown(label)}"
            for which, label in labels.items()
            if which not in found and label is not None
        ]
        if found:
            answers[geometry] = Answer(found, threads)
    if useless:
        others = f" and {len(useless) - 1} more" if len(useless) > 1 else ""
        text = f"{path}: algorithms that can't serve here are left out: {useless[0]}{others}"
        warnings.warn(text, stacklevel=4)
    return answers


def labelled(geometry: Geometry, labels: Mapping[Pass, object]) -> dict[Pass, type[Algorithm]]:
    """The algorithms of labels, without those that can't serve."""
    found: dict[Pass, type[Algorithm]] = {}
    if not geometry.is_empty:
        for which, label in labels.items():
            found.update((which, kind) for kind in candidates(geometry, which) if kind.label == label)
    return found


def _why(error: Exception) -> str:
    """An error in a few words."""
    return getattr(error, "strerror", None) or str(error)
