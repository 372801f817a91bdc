"""Makes tests/golden/fixtures/import: small random checkpoints, each written by the tool that writes the real one.

    python -m venv venv
    venv/bin/pip install torch==2.6.0 torchvision==0.21.0 transformers==4.49.0 hydra-core==1.3.8 iopath==0.1.10 setuptools
    SAM2_BUILD_CUDA=0 venv/bin/pip install --no-deps --no-build-isolation sam2==1.1.0
    venv/bin/python tests/golden/make_import_fixtures.py

qwen2_vl/  `save_pretrained` of Qwen2VLForConditionalGeneration in several files with an index, and a tokenizer without <SEG>
clip/      `save_pretrained` of CLIPModel: the vision tower and the projections are there too, as in the published one
sam2.pt    `torch.save({"model": state_dict})` of SAM2Base built from sam2.1_hiera_s.yaml with smaller sizes
sam2.json  shape and sums of each of its tensors, as torch reads them
torch/     files of `torch.save` with every way a tensor may lie in its storage, and two that are refused
lavida.toml  settings of the LAVIDA that they make together

Values are random and rounded to bf16, so that the files compress and a test can ask for exact values in either format.
"""

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling import sam2_base
from transformers import CLIPConfig, CLIPModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/fixtures/import"


def tokenizer(name: str, without: set[str] = frozenset()) -> dict:
    """The tiny configuration's vocabulary, less some added tokens."""
    text = (ROOT / "configs/tiny" / name / "tokenizer.json").read_text()
    document = json.loads(text)
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in without]
    return document


def n_ids(document: dict) -> int:
    ids = list(document["model"]["vocab"].values()) + [t["id"] for t in document["added_tokens"]]
    assert sorted(ids) == list(range(len(ids))) or set(ids) == set(range(max(ids) + 1))
    return max(ids) + 1


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random values that bf16 holds exactly; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in list(module.named_parameters()) + list(module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator) * 0.1
        if "norm" in name and name.endswith("weight"):
            values = values + 1
        tensor.data.copy_(values.to(torch.bfloat16).float())
    return module


def write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")


def qwen2_vl() -> None:
    vocabulary = tokenizer("qwen2_vl", without={"<SEG>"})
    config = Qwen2VLConfig(
        vocab_size=n_ids(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]},
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_patch_size": 4,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
    )
    model = randomise(Qwen2VLForConditionalGeneration(config), 1).to(torch.bfloat16)
    model.save_pretrained(OUT / "qwen2_vl", max_shard_size="40KB")
    (OUT / "qwen2_vl/generation_config.json").unlink(missing_ok=True)
    write_json(OUT / "qwen2_vl/tokenizer.json", vocabulary)


def clip() -> None:
    vocabulary = tokenizer("clip")
    config = CLIPConfig(
        text_config={
            "vocab_size": n_ids(vocabulary),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 8,
            "patch_size": 4,
        },
        projection_dim=8,
    )
    randomise(CLIPModel(config), 2).save_pretrained(OUT / "clip")
    write_json(OUT / "clip/tokenizer.json", vocabulary)


def small_sam2() -> torch.nn.Module:
    """SAM2.1 as its own settings build it, with smaller sizes."""
    config = OmegaConf.load(Path(sam2.__file__).parent / "configs/sam2.1/sam2.1_hiera_s.yaml").model
    width, memory = 16, 8
    config.image_size = 64
    config.image_encoder.trunk.update(
        embed_dim=4, stages=[1, 1, 2, 1], global_att_blocks=[3], window_spec=[4, 4, 4, 2]
    )
    config.image_encoder.neck.update(d_model=width, backbone_channel_list=[32, 16, 8, 4])
    config.image_encoder.neck.position_encoding.num_pos_feats = width
    attention = config.memory_attention
    attention.d_model, attention.num_layers = width, 1
    layer = attention.layer
    layer.d_model, layer.dim_feedforward = width, 16
    layer.self_attention.update(embedding_dim=width, feat_sizes=[4, 4])
    layer.cross_attention.update(embedding_dim=width, feat_sizes=[4, 4], kv_in_dim=memory)
    encoder = config.memory_encoder
    encoder.update(in_dim=width, out_dim=memory)
    encoder.position_encoding.num_pos_feats = memory
    encoder.mask_downsampler.update(embed_dim=width, total_stride=4)
    encoder.fuser.layer.update(dim=width, kernel_size=3, padding=1)
    # Two widths are constants of the package.
    transformer, decoder = sam2_base.TwoWayTransformer, sam2_base.MaskDecoder
    sam2_base.TwoWayTransformer = lambda **sizes: transformer(**{**sizes, "mlp_dim": 24})
    sam2_base.MaskDecoder = lambda **sizes: decoder(**{**sizes, "iou_head_hidden_dim": 24})
    try:
        return instantiate(config)
    finally:
        sam2_base.TwoWayTransformer, sam2_base.MaskDecoder = transformer, decoder


def settings() -> str:
    words, categories = n_ids(tokenizer("qwen2_vl")), n_ids(tokenizer("clip"))
    return f"""# What:   a LAVIDA of the sizes of the small checkpoints beside this file.
# On:     whatever a test shows it.
# How:    `lavida import --config lavida.toml` makes its checkpoint.
# Expect: random scores.

seed = 44
device = "cpu"

[model]
tokenizer = "qwen2_vl/tokenizer.json"
clip_tokenizer = "clip/tokenizer.json"

[model.vision]
depth = 1
embed_dim = 16
num_heads = 2
mlp_ratio = 2
patch_size = 4
temporal_patch_size = 2
spatial_merge_size = 2

[model.language]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = {words}
mrope_section = [2, 1, 1]

[model.clip_text]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
vocab_size = {categories}
max_position_embeddings = 16

[model.sam2]
image_size = 64
embed_dim = 4
num_heads = 1
stages = [1, 1, 2, 1]
global_att_blocks = [3]
window_spec = [4, 4, 4, 2]
window_pos_embed_bkg_spatial_size = [7, 7]
d_model = 16
decoder_mlp_dim = 24
iou_head_hidden_dim = 24

[model.projector]
adapter_dim = 16
cross_attn_heads = 2
n_qformer_layers = 1
n_qformer_queries = 4
n_heads = 2
d_ff = 24

[compression]
keep_ratio = 0.5
n_neighbors = 3

[sampler]
max_categories = 4
n_frames = 2
video_pixels = [1024, 2048]
image_pixels = [1024, 2048]
evaluation_pixels = [1024, 2048]

[train]
steps = 2
global_batch = 2
microbatch = 2

[train.policy]
"visual" = "frozen"
"assist_clf" = "frozen"
"seg_model.image_encoder" = "frozen"
"model" = "lora"
"model.embed_tokens" = "full"

[optimizer]
learning_rate = 1e-3
"""


def summary(tensor: torch.Tensor) -> dict:
    """Sums that are exact in f64 for values of bf16, the second one knows the order."""
    values = tensor.detach().flatten().double()
    places = torch.arange(1, values.numel() + 1, dtype=torch.float64)
    return {"shape": list(tensor.shape), "sum": values.sum().item(), "placed_sum": (values * places).sum().item()}


class Command:
    """Pickles as a call of `posix.system`."""

    def __reduce__(self):
        return (os.system, ("echo this was run",))


def torch_cases() -> None:
    folder = OUT / "torch"
    folder.mkdir()
    storage = torch.arange(24, dtype=torch.float32)
    matrix = storage.view(4, 6)
    tensors = {
        "plain": matrix.clone(),
        "shared": matrix,
        "slice": matrix[1:3, 2:5],
        "transposed": matrix.t(),
        "every_other": storage[1::2],
        "expanded": storage[3:5].view(2, 1).expand(2, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "half": matrix.half(),
        "bfloat": matrix.bfloat16(),
        "double": matrix.double(),
        "parameter": torch.nn.Parameter(matrix.clone()),
        "ints": torch.arange(3),
    }
    torch.save(tensors, folder / "cases.pt")
    torch.save({"state_dict": OrderedDict(tensors)}, folder / "cases_nested.pt", pickle_protocol=4)
    document = {
        name: {"shape": list(tensor.shape), "values": tensor.detach().flatten().double().tolist()}
        for name, tensor in tensors.items()
    }
    write_json(folder / "cases.json", document)
    torch.save([1, 2, 3], folder / "list.pt")
    torch.save({"model": {"weight": torch.ones(1), "hook": Command()}}, folder / "command.pt")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    qwen2_vl()
    clip()
    state = randomise(small_sam2(), 3).state_dict()
    torch.save({"model": state}, OUT / "sam2.pt")
    write_json(OUT / "sam2.json", {name: summary(tensor) for name, tensor in state.items()})
    torch_cases()
    (OUT / "lavida.toml").write_text(settings())
    for path in sorted(OUT.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:>9}  {path.relative_to(OUT)}")


if __name__ == "__main__":
    main()
