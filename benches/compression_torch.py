#!/usr/bin/env python3
"""CPU (or GPU) time of LAVIDA's token compression in PyTorch, to put beside ours.

The equations of section 3.4 as the reference computes them, written anew: a full distance matrix, a top-k over it,
dense softmax attention from each background token to all tokens. Prints one line of JSON like
crates/lavida-kernels/benches/compression.rs, whose `--write FILE` makes the tokens.

    python3 benches/compression_torch.py --file tokens.f32 --tokens 4096 --width 3584 --threads 1

Needs PyTorch and installs nothing; `--install` runs `pip install torch` first.
"""
import argparse
import json
import resource
import subprocess
import sys
import time


def compress(tokens, keep_ratio, k, density):
    """[L, D] -> merged [L_r, D], kept [L_r], assignment [L]; all in f32, without a tape."""
    import torch

    n_tokens, width = tokens.shape
    n_kept = max(1, int(n_tokens * keep_ratio))
    distance = torch.cdist(tokens, tokens) / width**0.5  # [L, L]
    nearest, neighbors = distance.topk(k + 1, dim=1, largest=False)
    nearest, neighbors = nearest[:, 1:], neighbors[:, 1:]  # column 0 is the token itself
    if density == "knn":
        rho = k / ((nearest * width**0.5).square().sum(1) + 1e-10)
    else:
        reach = torch.maximum(nearest[:, -1][neighbors], nearest)
        rho = k / (reach.sum(1) + 1e-10)
    kept = rho.topk(n_kept).indices.sort().values
    background = tokens[kept]
    assignment = torch.cdist(tokens, background).argmin(1)  # [L]
    scores = -(background @ tokens.T) / width**0.5  # [L_r, L]
    outside = assignment[None, :] != torch.arange(n_kept, device=tokens.device)[:, None]
    weights = scores.masked_fill(outside, float("-inf")).softmax(1)
    return weights @ tokens, kept, assignment


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", help="raw f32 tokens, row by row; without it, noise")
    parser.add_argument("--tokens", type=int, default=1564)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--neighbors", type=int, default=8)
    parser.add_argument("--density", choices=["reachability", "knn"], default="reachability")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="as stored; compressed in f32")
    parser.add_argument("--print-kept", action="store_true", help="add the kept tokens to the output")
    parser.add_argument("--install", action="store_true", help="pip install torch first")
    options = parser.parse_args()
    if options.install:
        subprocess.run([sys.executable, "-m", "pip", "install", "torch"], check=True)

    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.file:
        count = options.tokens * options.width
        tokens = torch.from_file(options.file, size=count, dtype=torch.float32)
        tokens = tokens.reshape(options.tokens, options.width).clone()
    else:
        tokens = torch.rand(options.tokens, options.width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokens = tokens.to(options.device, getattr(torch, options.dtype))
    on_gpu = tokens.is_cuda

    def cpu_seconds():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    cpu, wall = [], []
    with torch.no_grad():
        for _ in range(options.runs + 1):  # the first is not counted
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            before, start = cpu_seconds(), time.perf_counter()
            found = compress(tokens.float(), options.keep, options.neighbors, options.density)
            if on_gpu:
                torch.cuda.synchronize()
            cpu.append(cpu_seconds() - before)
            wall.append(time.perf_counter() - start)
    cpu, wall = cpu[1:], wall[1:]
    line = {
        "what": f"torch {torch.__version__}",
        "tokens": options.tokens,
        "width": options.width,
        "threads": torch.get_num_threads(),
        "cpu_median": round(sorted(cpu)[len(cpu) // 2], 4),
        "cpu_least": round(min(cpu), 4),
        "wall_median": round(sorted(wall)[len(wall) // 2], 4),
        "cpu": [round(t, 4) for t in cpu],
    }
    if on_gpu:
        line["device"] = torch.cuda.get_device_name()
        line["peak_bytes"] = torch.cuda.max_memory_allocated()
    if options.print_kept:
        line["kept"] = found[1].tolist()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
