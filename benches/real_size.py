#!/usr/bin/env python3
"""Memory and time of LAVIDA at its real size: import, export, predict and the start of a run, on random weights of
Qwen2-VL-2B, SAM2.1 Hiera-S and CLIP ViT-B/32 in the layouts they are published in.

    python3 benches/real_size.py --dir DIR --lavida target/release/lavida [--before OLD] [--size 2b|small]

Writes the weights (2b: 4.9 GB), the program's own checkpoints and exports (17 GB while it runs) into DIR and deletes what it made
unless `--keep` says otherwise. `small` has the same layouts and a sixth of the bytes. `--before` is another build of the program
that does the same afterwards. Prints a table: for each command the most memory that was its own (RssAnon of /proc; what is mapped
from files is not counted, and is given back when somebody wants it), that memory beside the model's in its number format, and the
time. Needs Linux and Python's standard library; nothing is downloaded.
"""
import argparse
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "tests/golden/fixtures/import"
VIDEO = HERE.parent / "crates/lavida-data/tests/fixtures/moving_square.mp4"
GIB = 1 << 30

SIZES = {
    "2b": dict(
        language=dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
                      num_key_value_heads=2, vocab_size=151936),
        vision=dict(depth=32, embed_dim=1280, num_heads=16, mlp_ratio=4),
        clip=dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8),
        vocab_size=151658, n_shards=2,
    ),
    "small": dict(
        language=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=8,
                      num_key_value_heads=2, vocab_size=32000),
        vision=dict(depth=4, embed_dim=640, num_heads=8, mlp_ratio=4),
        clip=dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
        vocab_size=31000, n_shards=2,
    ),
}


# Tensors: names and shapes as they are published


def linear(name, n_out, n_in, bias=True):
    yield f"{name}.weight", [n_out, n_in]
    if bias:
        yield f"{name}.bias", [n_out]


def norm(name, width, bias=True):
    yield f"{name}.weight", [width]
    if bias:
        yield f"{name}.bias", [width]


def qwen2_vl(size):
    l, v = size["language"], size["vision"]
    width, hidden = l["hidden_size"], l["intermediate_size"]
    keys = width // l["num_attention_heads"] * l["num_key_value_heads"]
    yield "model.embed_tokens.weight", [l["vocab_size"], width]
    for i in range(l["num_hidden_layers"]):
        at = f"model.layers.{i}"
        yield from linear(f"{at}.self_attn.q_proj", width, width)
        yield from linear(f"{at}.self_attn.k_proj", keys, width)
        yield from linear(f"{at}.self_attn.v_proj", keys, width)
        yield from linear(f"{at}.self_attn.o_proj", width, width, bias=False)
        yield from linear(f"{at}.mlp.gate_proj", hidden, width, bias=False)
        yield from linear(f"{at}.mlp.up_proj", hidden, width, bias=False)
        yield from linear(f"{at}.mlp.down_proj", width, hidden, bias=False)
        yield from norm(f"{at}.input_layernorm", width, bias=False)
        yield from norm(f"{at}.post_attention_layernorm", width, bias=False)
    yield from norm("model.norm", width, bias=False)
    d = v["embed_dim"]
    yield "visual.patch_embed.proj.weight", [d, 3, 2, 14, 14]
    for i in range(v["depth"]):
        at = f"visual.blocks.{i}"
        yield from norm(f"{at}.norm1", d)
        yield from norm(f"{at}.norm2", d)
        yield from linear(f"{at}.attn.qkv", 3 * d, d)
        yield from linear(f"{at}.attn.proj", d, d)
        yield from linear(f"{at}.mlp.fc1", v["mlp_ratio"] * d, d)
        yield from linear(f"{at}.mlp.fc2", d, v["mlp_ratio"] * d)
    yield from norm("visual.merger.ln_q", d)
    yield from linear("visual.merger.mlp.0", 4 * d, 4 * d)
    yield from linear("visual.merger.mlp.2", width, 4 * d)


def clip(size):
    c = size["clip"]
    width, hidden = c["hidden_size"], c["intermediate_size"]
    at = "text_model.embeddings"
    yield f"{at}.token_embedding.weight", [49408, width]
    yield f"{at}.position_embedding.weight", [77, width]
    for i in range(c["num_hidden_layers"]):
        at = f"text_model.encoder.layers.{i}"
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"]:
            yield from linear(f"{at}.self_attn.{part}", width, width)
        yield from linear(f"{at}.mlp.fc1", hidden, width)
        yield from linear(f"{at}.mlp.fc2", width, hidden)
        yield from norm(f"{at}.layer_norm1", width)
        yield from norm(f"{at}.layer_norm2", width)
    yield from norm("text_model.final_layer_norm", width)
    yield "logit_scale", []
    yield "text_projection.weight", [512, width]


def sam2():
    """Hiera-S; the other parts are those of the small file beside the tests, in the published widths."""
    width, stages = 96, [1, 2, 11, 2]
    yield "image_encoder.trunk.pos_embed", [1, width, 7, 7]
    yield "image_encoder.trunk.pos_embed_window", [1, width, 8, 8]
    yield "image_encoder.trunk.patch_embed.proj.weight", [width, 3, 7, 7]
    yield "image_encoder.trunk.patch_embed.proj.bias", [width]
    block, before = 0, width
    for stage, n_blocks in enumerate(stages):
        for _ in range(n_blocks):
            after, at = width << stage, f"image_encoder.trunk.blocks.{block}"
            yield from norm(f"{at}.norm1", before)
            yield from linear(f"{at}.attn.qkv", 3 * after, before)
            yield from linear(f"{at}.attn.proj", after, after)
            yield from norm(f"{at}.norm2", after)
            yield from linear(f"{at}.mlp.layers.0", 4 * after, after)
            yield from linear(f"{at}.mlp.layers.1", after, 4 * after)
            if after != before:
                yield from linear(f"{at}.proj", after, before)
            block, before = block + 1, after
    for name, about in json.load(open(FIXTURES / "sam2.json")).items():
        shape = about["shape"]
        if ".trunk." in name:
            continue
        if ".neck." in name and name.endswith("weight"):
            shape = [256, shape[1] * 96 // 4, 1, 1]  # widths of the trunk's stages
        else:
            wide = 256 if "iou_prediction_head" in name else 2048
            scaled = {16: 256, 8: 128, 4: 64, 2: 32, 24: wide}
            matrix = [scaled.get(n, n) for n in shape[:2]]
            if "mask_tokens" in name or "iou_prediction_head.layers.2" in name:
                matrix[0] = shape[0]  # four masks
            if "gaussian" in name:
                matrix[0] = shape[0]  # two axes
            if ".mask_downscaling." in name:
                # Of the mask prompt, which has two widths of its own.
                matrix = [{4: 4, 1: 1, 16: 16}.get(n, n) for n in shape[:2]]
                if name.endswith(("6.weight", "6.bias")):
                    matrix[0] = 256
            shape = [1, 1, 256] if name == "no_mem_embed" else matrix + shape[2:]
        yield name, shape


# Files


class Values:
    """Random values between 2^-7 and 2^-5 with either sign: finite, and as hard to compress as weights."""

    BLOCK = 32 << 20

    def __init__(self, n_bytes):
        high = bytes(0x3C if b < 128 else 0xBC for b in range(256))
        source = random.Random(44)
        block = bytearray(source.randbytes(self.BLOCK))
        block[n_bytes - 1 :: n_bytes] = bytes(block[n_bytes - 1 :: n_bytes]).translate(high)
        self.block, self.at, self.n_bytes = bytes(block), 0, n_bytes

    def write(self, file, n_values):
        left = n_values * self.n_bytes
        while left:
            piece = self.block[self.at : self.at + left]
            file.write(piece)
            left -= len(piece)
            self.at = (self.at + len(piece)) % self.BLOCK


def count(shape):
    n = 1
    for axis in shape:
        n *= axis
    return n


def write_safetensors(path, tensors, dtype):
    size = {"BF16": 2, "F32": 4}[dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        start, end = end, end + size * count(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = Values(size)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            values.write(file, count(shape))
    return end


def write_torch(path, tensors):
    """What torch.save writes of {"model": state dict}, without torch: names of its functions are all a pickle needs."""
    torch, utils = type(sys)("torch"), type(sys)("torch._utils")
    storage = type("FloatStorage", (), {"__module__": "torch"})
    torch.FloatStorage = storage

    def _rebuild_tensor_v2(*_):
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    sys.modules["torch"], sys.modules["torch._utils"] = torch, utils

    class Storage:
        def __init__(self, key, n):
            self.key, self.n = key, n

    class Tensor:
        def __init__(self, key, shape):
            self.key, self.shape = key, shape

        def __reduce__(self):
            strides, step = [], 1
            for axis in reversed(self.shape):
                strides.insert(0, step)
                step *= axis
            of = Storage(self.key, count(self.shape))
            shape, strides = tuple(self.shape), tuple(strides)
            return _rebuild_tensor_v2, (of, 0, shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", storage, value.key, "cpu", value.n)
            return None

    values = Values(4)
    state = OrderedDict((name, Tensor(str(i), shape)) for i, (name, shape) in enumerate(tensors))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump({"model": state})
        for i, (_, shape) in enumerate(tensors):
            with archive.open(f"archive/data/{i}", "w") as file:
                values.write(file, count(shape))
        archive.writestr("archive/version", "3\n")
    del sys.modules["torch"], sys.modules["torch._utils"]
    return sum(4 * count(shape) for _, shape in tensors)


def write_towers(folder, size):
    """The three published checkpoints. Says how many bytes of tensors they have."""
    qwen, openai = folder / "qwen2_vl", folder / "clip"
    for made, name in [(qwen, "qwen2_vl"), (openai, "clip")]:
        made.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURES / name / "tokenizer.json", made)
    l, v, c = size["language"], size["vision"], size["clip"]
    config = dict(l, model_type="qwen2_vl", hidden_act="silu", rms_norm_eps=1e-6, rope_theta=1e6,
                  rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}, tie_word_embeddings=True,
                  torch_dtype="bfloat16", vision_config=dict(v, hidden_size=l["hidden_size"], patch_size=14))
    (qwen / "config.json").write_text(json.dumps(config, indent=2))
    text = dict(c, vocab_size=49408, max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5)
    (openai / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": text}, indent=2))
    tensors, n_bytes = list(qwen2_vl(size)), 0
    n, weight_map = size["n_shards"], {}
    for shard in range(n):
        file = f"model-{shard + 1:05}-of-{n:05}.safetensors"
        part = tensors[len(tensors) * shard // n : len(tensors) * (shard + 1) // n]
        n_bytes += write_safetensors(qwen / file, part, "BF16")
        weight_map.update({name: file for name, _ in part})
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    (qwen / "model.safetensors.index.json").write_text(json.dumps(index))
    n_bytes += write_safetensors(openai / "model.safetensors", list(clip(size)), "F32")
    return n_bytes + write_torch(folder / "sam2.pt", list(sam2()))


def settings(size):
    l, v, c = size["language"], size["vision"], size["clip"]
    lines = ['extends = "embedded:paper"', 'device = "cpu"', "[model]", 'tokenizer = "qwen2_vl/tokenizer.json"',
             'clip_tokenizer = "clip/tokenizer.json"', "[model.language]"]
    lines += [f"{key} = {value}" for key, value in l.items() if key != "vocab_size"]
    lines += [f"vocab_size = {size['vocab_size']}", "[model.vision]"] + [f"{k} = {n}" for k, n in v.items()]
    lines += ["[model.clip_text]"] + [f"{key} = {value}" for key, value in c.items()]
    # Small views and few frames: it is the weights that are looked at.
    lines += ["[sampler]", "n_frames = 1", "max_categories = 4", "video_pixels = [3136, 12544]", "image_pixels = [3136, 12544]",
              "evaluation_pixels = [3136, 12544]", "weights = {}", "[train]", "steps = 1", "global_batch = 1", "microbatch = 1",
              "[train.policy]", '"model.embed_tokens" = "frozen"', '"lm_head" = "frozen"', "[checkpoint]", "every = 1"]
    return "\n".join(lines) + "\n"


# Measuring


def measured(command, folder):
    """Seconds, most anonymous memory, output."""
    log = open(folder / "log.txt", "w+")
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    most = 0
    while process.poll() is None:
        try:
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("RssAnon:"):
                    most = max(most, int(line.split()[1]) * 1024)
        except OSError:
            pass
        time.sleep(0.01)
    seconds = time.monotonic() - began
    log.seek(0)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {process.returncode}\n{log.read()}")
    return seconds, most


def size_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def run_all(program, folder, only):
    towers = ["--qwen2-vl", "qwen2_vl", "--sam2", "sam2.pt", "--clip", "clip", "--config", "settings.toml"]
    predict = ["predict", "--video", str(VIDEO), "--categories", "square", "--interval", "1000", "--pictures", "0"]
    # (what, arguments, bytes of a value of the model that is held)
    commands = [
        ("import", ["import", *towers, "--out", "first"], None),
        ("export f32", ["export", "--checkpoint", "first", "--out", "exported"], None),
        ("export bf16", ["export", "--checkpoint", "first", "--dtype", "bf16", "--out", "half"], None),
        ("predict f32", [*predict, "--checkpoint", "first", "--set", "train.precision=f32", "--out", "scores"], 4),
        ("predict bf16", [*predict, "--checkpoint", "first", "--set", "train.precision=bf16", "--out", "scores"], 2),
        ("predict, bf16 export", [*predict, "--checkpoint", "half", "--out", "scores"], 2),
        ("train bf16, one step", ["train", "--config", "settings.toml", "--data", "shards", "--out", "run",
                                  "--set", "train.initial=first"], 2),
        ("export of the run", ["export", "--checkpoint", "run", "--out", "of-run"], None),
    ]
    rows = []
    for what, arguments, n_bytes in commands:
        if only and what not in only and what != "import":
            continue
        for made in ["exported", "half", "scores", "of-run"]:
            if arguments[-1] == made or (made in arguments and "--out" in arguments and arguments[arguments.index("--out") + 1] == made):
                shutil.rmtree(folder / made, ignore_errors=True)
        seconds, most = measured([program, *arguments], folder)
        rows.append((what, seconds, most, n_bytes))
        print(f"  {what}: {seconds:.1f} s, {most / GIB:.2f} GiB", file=sys.stderr, flush=True)
        for done in ["exported", "of-run"]:
            shutil.rmtree(folder / done, ignore_errors=True)
    disk = {name: size_of(folder / name) for name in ["first", "run"] if (folder / name).exists()}
    for made in ["first", "half", "scores", "run"]:
        shutil.rmtree(folder / made, ignore_errors=True)
    return rows, disk


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="made where it is not there")
    parser.add_argument("--lavida", type=Path, required=True, help="the program")
    parser.add_argument("--before", type=Path, help="another build of it, to compare with")
    parser.add_argument("--dataset", type=Path, help="lavida-dataset; without it no run is started")
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--only", help="commands of the table, separated by commas")
    parser.add_argument("--keep", action="store_true", help="leave the weights in DIR for the next time")
    options = parser.parse_args()
    size, folder = SIZES[options.size], options.dir.resolve() / options.size
    only = options.only and [name.strip() for name in options.only.split(",")]
    if not (folder / "settings.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        n_bytes = write_towers(folder, size)
        (folder / "settings.toml").write_text(settings(size))
        print(f"wrote {n_bytes / 1e9:.2f} GB of random weights", file=sys.stderr)
    if options.dataset and not (folder / "shards").exists():
        dataset = options.dataset.resolve()
        world = ["synth", "--out", "world", "--seed", "7"]
        subprocess.run([dataset, *world], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        coco = ["--annotations", "world/coco/annotations/instances_train.json", "--images", "world/coco/images"]
        build = ["build", "coco", *coco, "--split", "train", "--out", "shards"]
        subprocess.run([dataset, *build], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not options.dataset:
        only = only or ["import", "export f32", "export bf16", "predict f32", "predict bf16", "predict, bf16 export"]
    tensors = [*qwen2_vl(size), *sam2()]
    tensors += [(name, shape) for name, shape in clip(size) if name.startswith("text_model")]
    n_values = sum(count(shape) for _, shape in tensors)
    largest = max(count(shape) for _, shape in tensors)
    print(f"{n_values / 1e6:.0f} M values, the largest tensor {largest / 1e6:.0f} M\n")
    programs = [("now", options.lavida)] + ([("before", options.before)] if options.before else [])
    for label, program in programs:
        print(f"{label}: {program}", file=sys.stderr)
        rows, disk = run_all(program.resolve(), folder, only)
        print(f"| {label} | s | GiB of its own | model, GiB | over it, GiB |\n|---|---|---|---|---|")
        for what, seconds, most, n_bytes in rows:
            model = n_values * n_bytes if n_bytes else 0
            print(f"| {what} | {seconds:.1f} | {most / GIB:.2f} | {model / GIB:.2f} | {(most - model) / GIB:.2f} |")
        sizes = ", ".join(f"{name} {n / 1e9:.2f} GB" for name, n in disk.items())
        print(f"\non disk: {sizes}\n", flush=True)
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
