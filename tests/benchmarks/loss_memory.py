"""Peak memory of loss, entropy and backward pass, against the dense way, which holds the full logits.

    python -m tests.benchmarks.loss_memory [--json FILE] [--quick]

2,048 tokens, a vocabulary of 152,000 words, width 1,024 (about Qwen3-0.6B), bfloat16. Each side runs in a process of
its own; its peak is what the process held at most beyond the inputs. The gradient of the output matrix (311 MB) is part
of both.

Keys: ours_bytes, dense_bytes, ratio.
"""

import json
import multiprocessing
import resource
import sys

import torch
from torch import Tensor

from tests.scripts import parse, parser_of, write_results
from trainables.entropy import entropy_of_logits
from trainables.loss import token_loss


def ours(hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    result = token_loss(hidden_ND, output_VD, label_N, entropy=True)
    return result.loss_N, result.entropy_N


def dense(hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    logit_NV = (hidden_ND @ output_VD.T).float()
    loss_N = torch.nn.functional.cross_entropy(logit_NV, label_N, reduction="none")
    with torch.no_grad():
        entropy_N = entropy_of_logits(logit_NV)
    return loss_N, entropy_N


def _measured(
    name: str, shape: tuple[int, int, int], result: "multiprocessing.SimpleQueue[tuple[int, float, float]]"
) -> None:
    N, V, D = shape
    torch.manual_seed(0)
    hidden_ND = torch.randn(N, D).bfloat16().requires_grad_()
    output_VD = torch.empty(V, D, dtype=torch.bfloat16)
    for rows_D in output_VD.split(10_000):
        rows_D.copy_(torch.randn(rows_D.shape) * 0.02)
    output_VD.requires_grad_()
    label_N = torch.randint(V, (N,))
    # The kernels are loaded before the count begins.
    ours(hidden_ND[:8], output_VD[:64].detach(), label_N[:8] % 64)[0].sum().backward()
    hidden_ND.grad = None
    # Linux counts in KiB. The peak so far, of making the inputs, is little above what they take.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss_N, entropy_N = {"ours": ours, "dense": dense}[name](hidden_ND, output_VD, label_N)
    loss_N.sum().backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result.put((1024 * (peak - before), float(loss_N.detach().mean()), float(entropy_N.mean())))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(2048, 152_000, 1024), metavar=("N", "V", "D"))
    options = parse(parser, shape=(512, 40_000, 64))
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in ("ours", "dense"):
        queue = context.SimpleQueue()
        process = context.Process(target=_measured, args=(name, tuple(options.shape), queue))
        process.start()
        found[name] = queue.get()
        process.join()
        peak, loss, entropy = found[name]
        print(f"{name}: {peak / 1e6:,.0f} MB, mean loss {loss:.4f}, mean entropy {entropy:.4f}")
    results = {
        "ours_bytes": found["ours"][0],
        "dense_bytes": found["dense"][0],
        "ratio": found["ours"][0] / found["dense"][0],
    }
    print(json.dumps(results, indent=1))
    write_results(options, results)
    return int(results["ratio"] > 0.1 and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
