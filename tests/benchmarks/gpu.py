"""All that waits for a GPU, in order of worth; each part runs alone, and its results are written as soon as it ends.

    python -m tests.benchmarks.gpu [--json FILE] [--quick] [--parts NAME ...]

It needs no network, and at most eight minutes. Without a GPU, --quick runs each part in miniature on the CPU: it shows
that it starts. The parts, and the keys of each beside `seconds` and `error` (its last line, where it failed or took
longer than its share; else null):

tests: summary (of the tests marked gpu).
loss: parity (of liger-kernel, by precision: the greatest relative error, see trainables/liger.py; null without it), and
    of liger-kernel, of trainables.loss and of the dense way: seconds, bytes (the peak beyond the inputs) of a forward
    and backward pass over 8,192 tokens, 152,000 words, width 1,024, bfloat16.
training: as `throughput` has them, for qwen3-0.6b.
compile: eager_s, compiled_s (median step), compile_s (the first step).
memory: planned_bytes, measured_bytes, ratio; the training of qwen3-0.6b.
slots: search_s (wall time of spaces/math.yaml with 1, 2 and 4 slots on the GPU).
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from search.space import load
from tests import ROOT, tiny
from tests.benchmarks import throughput
from tests.benchmarks.loss_memory import dense, ours
from tests.benchmarks.main_job import run as run_search
from tests.benchmarks.throughput import ON_GPU, QUICK, our_steps, prepare_rows, settings
from tests.scripts import parse, parser_of, write_results
from trainables import liger
from trainables.forward import PRECISIONS
from trainables.models.configurations import config_of
from trainables.settings import ModelSettings
from trainables.training.memory_estimate import memory_of
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_THE_GPU = DEVICE.type == "cuda"
# Median of so many tries.
TRIES = 5


def run_tests(scratch: Path, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "tests", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "--collect-only"] if quick else command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    # 5: none of them was chosen.
    assert done.returncode in ((0, 5) if quick else (0,)), done.stdout[-2000:]
    return {"summary": done.stdout.strip().splitlines()[-1]}


def measure_loss(scratch: Path, quick: bool) -> dict[str, Any]:
    N, V, D = (64, 1000, 64) if quick else (8192, 152_000, 1024)
    hidden_ND = torch.randn(N, D, device=DEVICE).bfloat16().requires_grad_()
    output_VD = (torch.randn(V, D, device=DEVICE) * 0.02).bfloat16().requires_grad_()
    label_N = torch.randint(V, (N,), device=DEVICE)

    def fused(hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
        return liger.fused_loss(hidden_ND, output_VD, label_N, 0.0)

    usable = liger.usable(hidden_ND)
    found: dict[str, Any] = {
        "parity": {str(dtype): liger.parity(DEVICE, dtype) for dtype in liger.TOLERANCE} if usable else None
    }
    for name, loss in {"liger": fused, "ours": ours, "dense": dense}.items():
        if name != "liger" or usable:
            found[name] = _cost(lambda loss=loss: loss(hidden_ND, output_VD, label_N)[0].sum().backward())
            print(name, found[name], flush=True)
    return found


def _cost(work: Callable[[], object]) -> dict[str, float | None]:
    """Seconds and peak bytes of `work`, after a first time."""
    work()
    seconds, peak = [], None
    for _ in range(TRIES):
        if ON_THE_GPU:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        work()
        if ON_THE_GPU:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "bytes": peak}


def measure_training(scratch: Path, quick: bool) -> dict[str, Any]:
    ((name, case),) = (QUICK if quick else ON_GPU).items()
    return throughput.measured(name, case, 1, DEVICE, scratch)


def measure_compile(scratch: Path, quick: bool) -> dict[str, Any]:
    ((name, case),) = (QUICK if quick else ON_GPU).items()
    prepared = prepare_rows(name, case, DEVICE, scratch)
    eager = statistics.median(our_steps(WarmModel(prepared, DEVICE), case, {})["ours"])
    # The compiler of a CPU may be missing.
    warm = WarmModel(prepared, DEVICE, ModelSettings(compile=ON_THE_GPU))
    began = time.perf_counter()
    Run(warm, settings(case))._optimizer_step()
    first = time.perf_counter() - began
    return {
        "eager_s": eager,
        "compiled_s": statistics.median(our_steps(warm, case, {})["ours"]),
        "compile_s": first,
    }


def measure_memory(scratch: Path, quick: bool) -> dict[str, Any]:
    ((name, case),) = (QUICK if quick else ON_GPU).items()
    prepared, how = prepare_rows(name, case, DEVICE, scratch), ModelSettings()
    planned = memory_of(
        config_of(str(prepared.folder), scratch / "cache"),
        how,
        rows=case.batch,
        sequence_length=case.length,
        precision=PRECISIONS[case.precision],
        ranks=1,
        sharding="ddp",
        device=DEVICE.type,
    ).total
    measured = None
    if ON_THE_GPU:
        torch.cuda.reset_peak_memory_stats()
    run = Run(WarmModel(prepared, DEVICE, how), settings(case))
    for _ in range(3):
        run._optimizer_step()
    if ON_THE_GPU:
        measured = torch.cuda.max_memory_allocated()
    return {"planned_bytes": planned, "measured_bytes": measured, "ratio": planned / measured if measured else None}


def measure_slots(scratch: Path, quick: bool) -> dict[str, Any]:
    content: dict[str, Any] = tiny.space(scratch) if quick else yaml.safe_load((ROOT / "spaces/math.yaml").read_text())
    found = {}
    for slots in (1,) if quick else (1, 2, 4):
        content["resources"] = {"slots": slots, "gpus_per_worker": 1 / slots if ON_THE_GPU else 0}
        space = scratch / f"{slots}.yaml"
        space.write_text(yaml.safe_dump(content))
        load(space)
        found[str(slots)], *_ = run_search(space, scratch, f"slots-{slots}")
    return {"search_s": found}


# Each with the seconds that it may take.
PARTS: Mapping[str, tuple[Callable[[Path, bool], dict[str, Any]], float]] = {
    "tests": (run_tests, 60),
    "loss": (measure_loss, 45),
    "training": (measure_training, 120),
    "compile": (measure_compile, 60),
    "memory": (measure_memory, 45),
    "slots": (measure_slots, 150),
}


def run_part(name: str, quick: bool, scratch: Path) -> dict[str, Any]:
    """The results of a part, from a process of its own."""
    limit = 600.0 if quick else PARTS[name][1]
    file = scratch / f"{name}.json"
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--alone", "--parts", name, "--json", str(file)]
    began, error = time.perf_counter(), None
    process = subprocess.Popen(
        [*command, *(["--quick"] if quick else [])], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, err = process.communicate(timeout=limit)
        if process.returncode:
            print(err, file=sys.stderr)
            error = err.strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        error = f"not done within {limit:.0f} s"
        # With the search that it may have started.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    found = json.loads(file.read_text()) if file.exists() else {}
    return {"seconds": time.perf_counter() - began, "error": error, **found}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME")
    parser.add_argument("--alone", action="store_true", help="in this process")
    options = parse(parser)
    with tempfile.TemporaryDirectory() as scratch:
        if options.alone:
            (name,) = options.parts
            write_results(options, PARTS[name][0](Path(scratch), options.quick))
            return 0
        results: dict[str, Any] = {"device": torch.cuda.get_device_name() if ON_THE_GPU else "cpu"}
        for name in options.parts:
            # One in a process of its own shows that this works; the others need not import everything again.
            if options.quick and name != "loss":
                results[name] = {"error": None, **PARTS[name][0](Path(scratch), True)}
            else:
                results[name] = run_part(name, options.quick, Path(scratch))
            print(name, json.dumps(results[name]), flush=True)
            write_results(options, results)
    return int(any(results[name]["error"] for name in options.parts))


if __name__ == "__main__":
    sys.exit(main())
