"""The program of the page about MPI: its processes train as one process does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PROGRAM = Path(__file__).resolve().parents[1] / "docs" / "howto" / "mpi_step.py"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_page_s_program_trains_as_one_process_does(processes, tmp_path):
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    if not shutil.which("mpirun"):
        pytest.skip("needs MPI's mpirun")
    if not PROGRAM.is_file():
        pytest.skip("the documentation stands in the repository")
    places = [str(Path(fastconv.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    # Open MPI starts neither as root nor more processes than cores, unless it is told to.
    allowed = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",  # up to release 4
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # since release 5
    }
    run = subprocess.run(
        ["mpirun", "-n", str(processes), sys.executable, str(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **allowed, "PYTHONPATH": os.pathsep.join(filter(None, places))},
    )
    assert run.returncode == 0, run.stderr
    assert f"{processes} processes: the parameters of one process" in run.stdout
