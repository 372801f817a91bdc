#!/usr/bin/env python3
"""CPU time of LAVIDA's real-size parts, ours beside PyTorch's, alternately on the same machine.

    python3 benches/parts_torch.py --install        # once: torch, transformers and sam2 from PyPI, 6 GB
    python3 benches/parts_torch.py --threads 1

Parts: `hiera` (Hiera-S, pyramid, finer levels narrowed, one 1024 px picture), `clip_text` (CLIP-B/32 text, 10 x 12
tokens), `projector` (8 frames of 4096 cells, 10 categories), all forward without gradients; `step` (the training step
of the golden folder `full`: forward, backward, AdamW). Both sides get the same number of threads; each round starts
either side afresh, warms it up once and takes the median of its runs; the table has the median over rounds.
`--install` makes a virtual environment in a cache folder and runs there from then on; without it the Python that runs
this script must have the packages.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lavida" / "venv-bench"
PARTS = ["hiera", "clip_text", "projector", "step"]
BENCHES = {"parts": "lavida-model", "step": "lavida-tests"}


def install():
    python = CACHE / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE], check=True)
    pip = [python, "-m", "pip", "install"]
    subprocess.run([*pip, "torch", "transformers==4.49.0", "safetensors", "setuptools", "wheel"], check=True)
    # sam2 would compile a CUDA kernel that nothing here uses.
    subprocess.run([*pip, "--no-build-isolation", "sam2"], check=True, env={**os.environ, "SAM2_BUILD_CUDA": "0"})


def work_of(part, golden):
    """What to time, as a function."""
    import torch

    from lavida_torch import Projector, Step, forward_image, sam2_parts

    torch.manual_seed(1)
    if part == "step":
        Step(golden).check()
        return Step(golden)
    if part == "hiera":
        parts = sam2_parts(1024, 96, 1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], [7, 7], 256, 2048, 256).eval()
        image = torch.randn(1, 3, 1024, 1024)
        return lambda: forward_image(parts, image)
    if part == "clip_text":
        from transformers import CLIPTextConfig, CLIPTextModel

        tower = CLIPTextModel(CLIPTextConfig(hidden_act="quick_gelu", eos_token_id=2)).eval()
        ids = torch.randint(1, 40000, (10, 12))
        ids[:, -1] = 49407
        return lambda: tower(input_ids=ids).pooler_output
    projector = Projector(768, 3584, 512, 256, 8, 12, 2048, 5, 48).eval()
    answer, categories = torch.randn(3584), torch.randn(10, 512)
    cells, positions = torch.randn(8, 4096, 256), torch.randn(1, 4096, 256)
    return lambda: projector(answer, categories, cells, positions)


def worker(options):
    """PyTorch's side: one line of JSON."""
    import torch

    torch.set_num_threads(options.threads)
    work = work_of(options.worker, options.golden)
    cpu, wall = [], []
    with torch.set_grad_enabled(options.worker == "step"):
        work()
        for _ in range(options.runs):
            before, start = time.process_time(), time.perf_counter()
            work()
            cpu.append(time.process_time() - before)
            wall.append(time.perf_counter() - start)
    print(json.dumps({"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall), "torch": torch.__version__}))


def executables(profile):
    """Builds our side; its benchmarks by name."""
    found = {}
    for bench, package in BENCHES.items():
        command = ["cargo", "bench", "-p", package, "--bench", bench, "--profile", profile, "--no-run", "--message-format=json"]
        built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        for line in built.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable") and message["target"]["name"] == bench:
                found[bench] = message["executable"]
    return found


def run(command, env):
    finished = subprocess.run([str(word) for word in command], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def compare(options, python):
    ours = dict(pair.split("=") for pair in options.exe) if options.exe else executables(options.profile)
    threads = str(options.threads)
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **{name: threads for name in names}, "LAVIDA_GOLDEN_DIR": str(Path(options.golden).resolve().parent)}
    seen = {(part, side): [] for part in options.parts for side in ("ours", "torch")}
    for _ in range(options.rounds):
        for part in options.parts:
            bench = ours["step" if part == "step" else "parts"]
            runs = ["--runs", options.runs]
            seen[part, "ours"].append(run([bench, part, *runs], env))
            command = [python, __file__, "--worker", part, "--threads", threads, "--golden", options.golden]
            seen[part, "torch"].append(run([*command, *runs], env))
    print(f"PyTorch {seen[options.parts[0], 'torch'][0]['torch']}, {threads} threads, {options.rounds} rounds of {options.runs} runs, medians\n")
    print("| part | ours, CPU s | PyTorch, CPU s | ratio | ours, wall s | PyTorch, wall s |\n|---|---|---|---|---|---|")
    for part in options.parts:
        figure = {
            (side, name): statistics.median(one[name] for one in seen[part, side])
            for side in ("ours", "torch")
            for name in ("cpu_s", "wall_s")
        }
        cells = [figure["ours", "cpu_s"], figure["torch", "cpu_s"], figure["ours", "cpu_s"] / figure["torch", "cpu_s"]]
        cells += [figure["ours", "wall_s"], figure["torch", "wall_s"]]
        print(f"| {part} | {cells[0]:.3f} | {cells[1]:.3f} | {cells[2]:.2f} | {cells[3]:.3f} | {cells[4]:.3f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the packages from PyPI into a cache folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="in each round")
    parser.add_argument("--golden", default=str(ROOT / "tests/golden/fixtures/full"), help="folder of the training step")
    parser.add_argument("--profile", default="bench", help="cargo profile of our side")
    parser.add_argument("--exe", nargs="+", metavar="NAME=PATH", help="built benchmarks, instead of building them")
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.install:
        install()
    if options.worker:
        worker(options)
    else:
        compare(options, CACHE / "bin" / "python" if (CACHE / "bin" / "python").exists() else sys.executable)


if __name__ == "__main__":
    main()
