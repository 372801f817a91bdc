"""Loads an export with the classes that publish its parts: nothing may be missing, nothing unexpected.

    venv/bin/python tests/golden/check_export.py EXPORTED_FOLDER      (the venv of make_import_fixtures.py)

Works on any export in safetensors of a LAVIDA that was imported and whose SAM2 has the sizes of `small_sam2` there.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from make_import_fixtures import small_sam2


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for name in files:
        tensors |= load_file(folder / name)
    assert set(tensors) == set(json.loads(index.read_text())["weight_map"]), "index and files differ"
    return tensors


def check(what: str, module: torch.nn.Module, tensors: dict) -> None:
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    print(f"{what}: {len(tensors)} tensors, missing {missing}, unexpected {unexpected}")
    assert not missing and not unexpected


def main() -> None:
    folder = Path(sys.argv[1])
    tensors = tensors_of(folder)
    config = json.loads((folder / "config.json").read_text())
    language, vision, text = config["language"], config["vision"], config["clip_text"]

    def below(prefix: str) -> dict:
        return {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)}

    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    qwen2_vl = Qwen2VLConfig(
        **{n: language[n] for n in [*names, "num_key_value_heads", "vocab_size", "rms_norm_eps", "rope_theta"]},
        rope_scaling={"type": "mrope", "mrope_section": language["mrope_section"]},
        image_token_id=config["image_token_id"],
        video_token_id=config["video_token_id"],
        vision_config={**vision, "hidden_size": language["hidden_size"]},
    )
    clip = CLIPTextConfig(**{n: text[n] for n in [*names, "vocab_size", "max_position_embeddings"]})
    projector = below("seg_model.multi_scale_projector.")
    check("SAM2", small_sam2(), below("seg_model."))
    check("CLIP", CLIPTextModel(clip), below("assist_clf."))
    model = Qwen2VLForConditionalGeneration(qwen2_vl)
    check("Qwen2-VL", model, dict(tensors))
    ids = torch.tensor([[1, 2, 3, language["vocab_size"] - 1]])
    positions = torch.arange(4).expand(3, 1, 4)
    logits = model(input_ids=ids, position_ids=positions).logits
    assert torch.isfinite(logits).all() and logits.shape[-1] == language["vocab_size"]
    print(f"projector: {len(projector)} tensors; logits {tuple(logits.shape)}, largest {logits.abs().max():.4f}")


if __name__ == "__main__":
    main()
