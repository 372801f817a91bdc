#!/usr/bin/env python3
"""How fast training data streams: ours beside MosaicML Streaming, WebDataset and Hugging Face datasets.

The same 20,000 samples (1 to 4 JPEG frames of 480 x 360 px, 1 to 3 objects with a COCO mask in every frame) in each one's own
format, shuffled as its documentation recommends, decoded to RGB and to 0/1 rasters by two threads (ours) or by a PyTorch
DataLoader with two workers (theirs), from a folder and from an S3 on loopback (benches/read_only_s3.py).

    pip install torch torchdata mosaicml-streaming webdataset datasets s3fs pillow pycocotools psutil
    python benches/data_streaming.py --dir DIR            [--rounds 3] [--only ours,wds] [--places disk,s3]

Makes the data in DIR where it is not there yet (8 GB), builds our benchmark in release, runs every reader in processes of its own,
prints a table of medians and leaves each run in DIR/runs.jsonl. What is measured of a run:

    samples/s      after the first batch
    first          from making the dataset object, imports done, to the first batch of 32 out of the loader, seconds
    memory         most of the proportional set size, summed over its processes, MiB (pages that forked workers share count once)
    CPU            user and system time of all its processes, milliseconds a sample, starting included
    resume         a new process goes on in mid-epoch: from making the dataset object to the first batch after sample 9,984
                   (--resume-at), seconds
    exact          whether that batch is the one that the uninterrupted run had there
"""

import argparse
import importlib.metadata
import io
import json
import os
import pickle
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HEIGHT, WIDTH = 360, 480
BATCH, WORKERS = 32, 2
FILE_BYTES = 64 << 20  # MosaicML's default; the others are given the same
LIBRARIES = ["ours", "mds", "wds", "hf"]
NAMES = {"ours": "lavida", "mds": "MosaicML Streaming", "wds": "WebDataset", "hf": "Hugging Face datasets"}
HERE = Path(__file__).resolve().parent


# The data


def prepare(root):
    """The samples as a pool of pictures and a list, then in every format."""
    source = root / "source"
    if not (source / "samples.jsonl").exists():
        make_source(source)
    samples = [json.loads(line) for line in open(source / "samples.jsonl")]
    pictures = json.load(open(source / "pool.json"))
    frames = [(source / f"pool/{i:05}.jpg").read_bytes() for i in range(len(pictures))]

    def rows():
        for sample in samples:
            masks = [[pictures[f]["masks"][o] for f in sample["frames"]] for o in range(sample["n_objects"])]
            yield sample["id"], [frames[f] for f in sample["frames"]], json.dumps(masks).encode()

    for name, write in [("mds", write_mds), ("wds", write_wds), ("hf", write_hf)]:
        folder = root / "store" / name
        if not folder.exists():
            print(f"making {folder}", file=sys.stderr)
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished, rows())
            unfinished.rename(folder)


def make_source(source, n_samples=20000, n_pictures=2000):
    """Pictures with the spectrum of photographs, more or less: soft shapes, texture, and grain."""
    import numpy as np
    from PIL import Image
    from pycocotools import mask as coco

    print(f"making {source}", file=sys.stderr)
    (source / "pool").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pictures = []
    for i in range(n_pictures):
        image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for cells, contrast in [(4, 90), (16, 40), (60, 22), (180, 9)]:
            noise = rng.normal(0, 1, (cells * 3 // 4, cells, 3)).astype(np.float32)
            scaled = [Image.fromarray(noise[..., c]).resize((WIDTH, HEIGHT), Image.BICUBIC) for c in range(3)]
            image += contrast * np.stack([np.asarray(s) for s in scaled], -1)
        image += rng.normal(0, 2.5, image.shape)
        masks = []
        for _ in range(3):
            cx, cy, rx, ry = rng.uniform(60, 420), rng.uniform(50, 310), rng.uniform(15, 90), rng.uniform(15, 70)
            shape = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1 + 0.2 * np.sin(np.arctan2(y - cy, x - cx) * 5)
            image[shape] += rng.uniform(-80, 80, 3)
            masks.append(coco.encode(np.asfortranarray(shape.astype(np.uint8)))["counts"].decode())
        pixels = np.clip(image + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(source / f"pool/{i:05}.jpg", quality=80)
        pictures.append({"masks": masks})
    json.dump(pictures, open(source / "pool.json", "w"))
    with open(source / "samples.jsonl.unfinished", "w") as file:
        for i in range(n_samples):
            frames = rng.integers(0, n_pictures, rng.integers(1, 5)).tolist()
            sample = {"id": f"{i:08}", "frames": frames, "n_objects": int(rng.integers(1, 4))}
            file.write(json.dumps(sample) + "\n")
    os.rename(source / "samples.jsonl.unfinished", source / "samples.jsonl")


def write_mds(folder, rows):
    from streaming import MDSWriter

    columns = {"id": "str", "masks": "bytes", **{f"frame_{t}": "bytes" for t in range(4)}}
    with MDSWriter(out=str(folder), columns=columns, size_limit=FILE_BYTES) as out:
        for name, frames, masks in rows:
            padded = frames + [b""] * (4 - len(frames))
            out.write({"id": name, "masks": masks, **{f"frame_{t}": frame for t, frame in enumerate(padded)}})


def write_wds(folder, rows):
    import webdataset as wds

    with wds.ShardWriter(str(folder / "train-%06d.tar"), maxsize=FILE_BYTES, maxcount=10**9, verbose=0) as out:
        for name, frames, masks in rows:
            out.write({"__key__": name, "masks.json": masks, **{f"frame_{t}.jpg": f for t, f in enumerate(frames)}})


def write_hf(folder, rows):
    """Row groups of 100 rows, as `push_to_hub` makes them of pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"id": pa.string(), "frames": pa.list_(pa.binary()), "masks": pa.binary()})
    part, n_bytes, writer, group = 0, 0, None, []

    def flush():
        columns = [list(column) for column in zip(*group)]
        writer.write_table(pa.table(columns, schema=schema), row_group_size=100)
        group.clear()

    for row in rows:
        writer = writer or pq.ParquetWriter(folder / f"train-{part:05}.parquet", schema)
        group.append(row)
        n_bytes += sum(map(len, row[1]))
        if len(group) == 100:
            flush()
        if n_bytes >= FILE_BYTES:
            if group:
                flush()
            writer.close()
            part, n_bytes, writer = part + 1, 0, None
    if group:
        flush()
    if writer:
        writer.close()


# Their readers


def decode(name, frames, masks):
    """Frames to [H, W, 3] and masks to [H, W], all bytes, in tensors (which workers hand over in shared memory)."""
    import numpy as np
    import torch
    from PIL import Image
    from pycocotools import mask as coco

    rles = [{"size": [HEIGHT, WIDTH], "counts": counts} for track in json.loads(masks) for counts in track]
    rasters = coco.decode(rles)  # [H, W, N], column-major
    return {
        "id": name,
        "frames": [torch.from_numpy(np.array(Image.open(io.BytesIO(frame)))) for frame in frames],
        "masks": torch.from_numpy(np.ascontiguousarray(rasters.transpose(2, 0, 1))),
    }


def collate(samples):
    """One tensor for all frames of a batch and one for all masks, in shared memory as PyTorch's own collation makes them: as many
    small ones cost a sixth more. A dict, since MosaicML's loader counts the samples of a list wrongly and then resumes elsewhere."""
    import torch

    def joined(tensors):
        out = None
        if torch.utils.data.get_worker_info() is not None:
            storage = tensors[0]._typed_storage()._new_shared(sum(one.numel() for one in tensors))
            out = tensors[0].new(storage).resize_(sum(map(len, tensors)), *tensors[0].shape[1:])
        return torch.cat(tensors, out=out)

    return {
        "id": [sample["id"] for sample in samples],
        "frames": joined([frame[None] for sample in samples for frame in sample["frames"]]),
        "masks": joined([sample["masks"] for sample in samples]),
    }


def mds(place, root, start, state):
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Frames(StreamingDataset):
        def __getitem__(self, index):
            row = super().__getitem__(index)
            frames = [row[f"frame_{t}"] for t in range(4)]
            return decode(row["id"], [frame for frame in frames if frame], row["masks"])

    clean_stale_shared_memory()
    began = time.perf_counter()
    where = {"local": str(root / "store/mds")}
    if place == "s3":
        where = {"remote": "s3://store/mds", "local": state + ".mds"}
        shutil.rmtree(where["local"], ignore_errors=True)
    dataset = Frames(**where, shuffle=True, shuffle_seed=1, batch_size=BATCH)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)
    if start:
        loader.load_state_dict(pickle.load(open(state, "rb")))
    return began, iter(loader), lambda: pickle.dump(loader.state_dict(), open(state, "wb"))


def wds(place, root, start, state):
    import webdataset
    from itertools import islice

    began = time.perf_counter()
    names = sorted(path.name for path in (root / "store/wds").glob("*.tar"))
    base = f"{os.environ['AWS_ENDPOINT_URL']}/store/wds" if place == "s3" else str(root / "store/wds")
    urls = [f"{base}/{name}" for name in names]
    # It keeps no state: the way back is the same seeds, and to skip before decoding.
    skip = start // WORKERS
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=100, detshuffle=True, seed=1)
        .compose(webdataset.detshuffle(1000, seed=1))
        .compose(lambda samples: islice(samples, skip, None))
        .map(lambda row: decode(row["__key__"], [row[k] for k in sorted(row) if k.endswith(".jpg")], row["masks.json"]))
        .batched(BATCH, collation_fn=collate)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS)
    return began, iter(loader), lambda: None


def hf(place, root, start, state):
    import datasets
    from torchdata.stateful_dataloader import StatefulDataLoader

    began = time.perf_counter()
    files, storage = str(root / "store/hf/*.parquet"), None
    if place == "s3":
        files = "s3://store/hf/*.parquet"
        storage = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}}
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, storage_options=storage)
    dataset = dataset.shuffle(seed=1, buffer_size=1000).map(lambda row: decode(row["id"], row["frames"], row["masks"]))
    loader = StatefulDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)
    if start:
        loader.load_state_dict(pickle.load(open(state, "rb")))
    return began, iter(loader), lambda: pickle.dump(loader.state_dict(), open(state, "wb"))


def read(library, place, root, start, n_samples, resume_at, state):
    """One run of one of theirs; prints what ours prints."""
    began, batches, save = {"mds": mds, "wds": wds, "hf": hf}[library](place, root, start, state)
    n_read, n_bytes, first, ids_there = 0, 0, None, None
    for batch in batches:
        n_read += len(batch["id"])
        n_bytes += batch["frames"].numel() + batch["masks"].numel()
        if first is None:
            first = (n_read, time.perf_counter())
            print(json.dumps({"first_s": first[1] - began, "ids": batch["id"]}), flush=True)
        if start == 0 and n_read == resume_at:
            save()
        elif start == 0 and n_read == resume_at + BATCH:
            ids_there = batch["id"]
        if n_read >= n_samples:
            break
    seconds = time.perf_counter() - first[1]
    rate = (n_read - first[0]) / seconds if n_read > first[0] else None
    print(json.dumps({"samples": n_read, "decoded_bytes": n_bytes, "samples_per_s": rate, "ids_there": ids_there}))


# Running and measuring


class Failed(Exception):
    """A run that ended early, or not in time."""


def measured(command, environment, limit_s):
    """The command's lines of JSON, most memory of it and all it started (MiB), CPU seconds."""
    import psutil

    most, done = [0], threading.Event()

    def watch(process):
        while not done.wait(0.1):
            n_bytes = 0
            try:
                for one in [process, *process.children(recursive=True)]:
                    try:
                        text = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
                        n_bytes += next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
                    except (OSError, StopIteration):
                        pass  # it has ended
            except psutil.NoSuchProcess:
                return
            most[0] = max(most[0], n_bytes)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    watcher = threading.Thread(target=watch, args=(psutil.Process(child.pid),))
    watcher.start()
    try:
        out, errors = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, errors = child.communicate()
        errors += f"\nnot done after {limit_s} s"
    except KeyboardInterrupt:
        os.killpg(child.pid, signal.SIGKILL)  # in a session of its own it does not get the Ctrl-C
        raise
    finally:
        done.set()
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if child.returncode or len(lines) < 2:
        raise Failed(f"{' '.join(command)}\n{errors[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**lines[0], **lines[-1], "memory_mib": most[0] / 2**20, "cpu_s": cpu}


def run(library, place, root, binary, limit_s, start, n_samples, resume_at, environment):
    state = str(root / f"state.{library}.{place}")
    if library == "ours":
        uri = "s3://store/ours" if place == "s3" else str(root / "store/ours")
        command = [binary, "read", uri, "--threads", WORKERS, "--batch", BATCH, "--start", start, "--samples", n_samples]
        command += ["--note", resume_at]
    else:
        command = [sys.executable, __file__, "--dir", root, "--read", library, "--place", place]
        command += ["--start", start, "--samples", n_samples, "--resume-at", resume_at, "--state", state]
    result = measured([str(part) for part in command], environment, limit_s)
    return {"library": library, "place": place, "start": start, **result}


def build():
    command = ["cargo", "build", "--release", "--locked", "-p", "lavida-data", "--bench", "streaming"]
    out = subprocess.run(
        [*command, "--message-format", "json-render-diagnostics"], cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    return next(message["executable"] for message in messages if message.get("executable"))


def table(runs):
    def median(chosen, key, form):
        values = [one[key] for one in chosen if one.get(key) is not None]
        return form.format(statistics.median(values)) if values else "–"

    print("\n| from | reader | samples/s | first, s | memory, MiB | CPU, ms a sample | resume, s | exact |")
    print("|---|---|---|---|---|---|---|---|")
    for place in ["disk", "s3"]:
        for library in LIBRARIES:
            here = [one for one in runs if one["library"] == library and one["place"] == place]
            whole, resumed = [one for one in here if not one["start"]], [one for one in here if one["start"]]
            if not whole:
                continue
            for one in whole:
                one["cpu_ms"] = 1000 * one["cpu_s"] / one["samples"]
            exact = "yes" if resumed and all(one["exact"] for one in resumed) else "no" if resumed else "–"
            print(
                f"| {place} | {NAMES[library]} | {median(whole, 'samples_per_s', '{:.0f}')} | {median(whole, 'first_s', '{:.2f}')} "
                f"| {median(whole, 'memory_mib', '{:.0f}')} | {median(whole, 'cpu_ms', '{:.2f}')} "
                f"| {median(resumed, 'first_s', '{:.2f}')} | {exact} |"
            )
    packages = ["torch", "torchdata", "mosaicml-streaming", "webdataset", "datasets", "pillow", "pycocotools"]
    print("\n" + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=20000, help="read by a run, of the 20,000 there are")
    parser.add_argument("--resume-at", type=int, default=9984, help="a whole number of batches for each worker")
    parser.add_argument("--limit-s", type=int, default=900, help="a run that takes longer has failed")
    parser.add_argument("--only", default=",".join(LIBRARIES))
    parser.add_argument("--places", default="disk,s3")
    parser.add_argument("--binary", help="our benchmark, if it is built already")
    for hidden in ["--read", "--place", "--state"]:
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.dir.resolve()
    if arguments.read:
        return read(
            arguments.read, arguments.place, root, arguments.start, arguments.samples, arguments.resume_at, arguments.state
        )

    binary = arguments.binary or build()
    prepare(root)
    if not (root / "store/ours").exists():
        subprocess.run([binary, "write", str(root / "source"), str(root / "store/ours")], check=True)
    server = subprocess.Popen([sys.executable, HERE / "read_only_s3.py", root], stdout=subprocess.PIPE, text=True)
    endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    ends = {"AWS_ENDPOINT_URL": endpoint, "S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys, **ends, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    runs, failures = [], {}
    try:
        for i in range(arguments.rounds):
            for place in arguments.places.split(","):
                for library in arguments.only.split(","):
                    common = (library, place, root, binary, arguments.limit_s)
                    try:
                        whole = run(*common, 0, arguments.samples, arguments.resume_at, environment)
                        resumed = run(*common, arguments.resume_at, 2 * BATCH, arguments.resume_at, environment)
                    except Failed as failure:
                        if library == "ours":
                            raise
                        print(f"{NAMES[library]} failed: {failure}", file=sys.stderr, flush=True)
                        failures[place, library] = failures.get((place, library), 0) + 1
                        continue
                    resumed["exact"] = resumed["ids"] == whole["ids_there"]
                    for one in [whole, resumed]:
                        one = {**one, "round": i}
                        runs.append(one)
                        shown = {key: value for key, value in one.items() if "ids" not in key}
                        print(json.dumps(shown), file=sys.stderr, flush=True)
                        with open(root / "runs.jsonl", "a") as file:
                            file.write(json.dumps(one) + "\n")
    finally:
        server.terminate()
    table(runs)
    for (place, library), n in failures.items():
        print(f"{NAMES[library]} from {place}: {n} of {arguments.rounds} runs failed")


if __name__ == "__main__":
    main()
