"""LAVIDA in PyTorch, as far as timing needs it: the packages `transformers` and `sam2` for the published models,
and the paper's own parts written anew from their equations (projector, token compression, losses).

`Step(folder)` is the training step of a golden folder `full` (LoRA in the language model, towers frozen, AdamW); its
losses equal those the folder's `config.json` lists, which `parts_torch.py` checks before it times anything.

Shapes: N frames, K categories, P cells of a frame, A width of the projector, L tokens.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from compression_torch import compress


class Attention(nn.Module):
    """Multi-head attention whose heads together are `width / narrowing` wide."""

    def __init__(self, width, n_heads, narrowing):
        super().__init__()
        inner = width // narrowing
        self.n_heads = n_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query, key, value, mask=None):
        def heads(projected):
            return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        query, key, value = heads(self.q_proj(query)), heads(self.k_proj(key)), heads(self.v_proj(value))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(read.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(F.relu(x) if i else x)
        return x


class TwoWayBlock(nn.Module):
    """Queries among themselves, queries read keys, MLP, keys read queries."""

    def __init__(self, width, n_heads, d_ff):
        super().__init__()
        self.self_attn = Attention(width, n_heads, 1)
        self.cross_attn_token_to_image = Attention(width, n_heads, 2)
        self.cross_attn_image_to_token = Attention(width, n_heads, 2)
        self.mlp = Mlp(width, d_ff, width)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, queries, keys, query_pe, key_pe, mask):
        positioned = queries + query_pe
        queries = self.norm1(queries + self.self_attn(positioned, positioned, queries))
        read = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys, mask)
        queries = self.norm2(queries + read)
        queries = self.norm3(queries + self.mlp(queries))
        read = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys + read)


class QFormer(nn.Module):
    """Learned queries and a frame's features read each other (Eq. 8)."""

    def __init__(self, width, n_heads, d_ff, n_layers, n_queries, d_prompt):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.randn(n_queries, width))
        self.transformer_layers = nn.ModuleList(TwoWayBlock(width, n_heads, d_ff) for _ in range(n_layers))
        self.output_q_proj = Mlp(n_queries * width, d_prompt)
        self.output_k_proj = Mlp(width, d_prompt)

    def forward(self, keys, mask):
        queries = query_pe = self.query_tokens.expand(len(keys), -1, -1)
        key_pe = keys
        for block in self.transformer_layers:
            queries, keys = block(queries, keys, query_pe, key_pe, mask)
        return self.output_q_proj(queries.flatten(1))


class Projector(nn.Module):
    """From words and frames to one prompt per frame (section 3.7)."""

    def __init__(self, width, d_language, d_text, d_vision, cross_heads, n_heads, d_ff, n_layers, n_queries):
        super().__init__()
        self.video_proj = nn.Linear(d_vision, width)
        self.text_proj = nn.Linear(d_text, width)
        self.cross_attn = Attention(width, cross_heads, 2)
        self.output_norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, width)
        self.seg_proj = nn.Linear(d_language, width)
        self.text_fc = QFormer(width, n_heads, d_ff, n_layers, n_queries, d_vision)

    def forward(self, answer, categories, cells, positions):
        """answer [D], categories [K, D_t], cells and positions [N, P, D_v] -> [N, D_v], the frames of one clip"""
        text = self.text_proj(categories).expand(len(cells), -1, -1)
        cells = self.video_proj(cells + positions)
        attended = self.output_proj(self.output_norm(text + self.cross_attn(text, cells, cells)))
        keys = torch.cat([self.seg_proj(answer).expand(len(cells), 1, -1), attended], 1)
        return self.text_fc(keys, None)


def sam2_parts(image_size, embed_dim, num_heads, stages, global_att_blocks, window_spec, pos_bkg, d_model, decoder_mlp, iou_hidden):
    """SAM2.1's image encoder, prompt encoder and mask decoder from the package `sam2`."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    grid = image_size // 16
    parts = nn.Module()
    parts.image_encoder = ImageEncoder(
        trunk=Hiera(
            embed_dim=embed_dim,
            num_heads=num_heads,
            stages=tuple(stages),
            global_att_blocks=tuple(global_att_blocks),
            window_pos_embed_bkg_spatial_size=tuple(pos_bkg),
            window_spec=tuple(window_spec),
        ),
        neck=FpnNeck(
            position_encoding=PositionEmbeddingSine(num_pos_feats=d_model, normalize=True, scale=None, temperature=10000),
            d_model=d_model,
            backbone_channel_list=[embed_dim * 2**i for i in (3, 2, 1, 0)],
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        ),
        scalp=1,
    )
    parts.sam_prompt_encoder = PromptEncoder(
        embed_dim=d_model, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size), mask_in_chans=16
    )
    parts.sam_mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=d_model, mlp_dim=decoder_mlp, num_heads=8),
        transformer_dim=d_model,
        iou_head_depth=3,
        iou_head_hidden_dim=iou_hidden,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )
    parts.no_mem_embed = nn.Parameter(torch.zeros(1, 1, d_model))
    return parts


def forward_image(parts, frames):
    """Features of frames; the two finer levels narrowed for the decoder."""
    features = parts.image_encoder(frames)
    finer = features["backbone_fpn"]
    decoder = parts.sam_mask_decoder
    return features["vision_features"], features["vision_pos_enc"][-1], [decoder.conv_s0(finer[0]), decoder.conv_s1(finer[1])]


class LoraLinear(nn.Module):
    """x·W + b + s·(x·A)·B, only A and B trained."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.zeros(rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x):
        return self.linear(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


def focal(logits, target):
    p = logits.sigmoid()
    missed = p + target - 2 * p * target
    alpha = 0.25 * target + 0.75 * (1 - target)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (alpha * missed.square() * loss).flatten(-2).mean(-1)


def dice(logits, target):
    p = logits.sigmoid().flatten(-2)
    target = target.flatten(-2)
    return 1 - (2 * (p * target).sum(-1) + 1) / (p.sum(-1) + target.sum(-1) + 1)


class Step:
    """The training step of a golden folder."""

    def __init__(self, folder):
        from safetensors.torch import load_file
        from transformers import CLIPTextConfig, CLIPTextModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        sizes = self.config["config"]
        self.special, llm, sam, projector = sizes["special"], sizes["llm"], sizes["sam"], sizes["projector"]
        self.sizes, self.weights = sizes, sizes["weight_dict"]
        self.inputs = load_file(folder / "inputs.safetensors")
        self.llm = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(
                hidden_size=llm["hidden_size"],
                intermediate_size=llm["intermediate_size"],
                num_hidden_layers=llm["num_hidden_layers"],
                num_attention_heads=llm["num_attention_heads"],
                num_key_value_heads=llm["num_key_value_heads"],
                vocab_size=llm["vocab_size"],
                tie_word_embeddings=False,
                rope_theta=1e6,
                rms_norm_eps=1e-6,
                rope_scaling={"type": "mrope", "mrope_section": llm["mrope"]},
                vision_config=dict(
                    depth=llm["v_depth"],
                    embed_dim=llm["v_embed"],
                    hidden_size=llm["hidden_size"],
                    num_heads=llm["v_heads"],
                    mlp_ratio=llm["v_mlp_ratio"],
                    patch_size=llm["patch"],
                ),
            )
        )
        self.clip = CLIPTextModel(CLIPTextConfig(**sizes["clip"]))
        self.seg = sam2_parts(**sam)
        self.seg.multi_scale_projector = Projector(
            projector["hidden"],
            llm["hidden_size"],
            projector["text_dim"],
            sam["d_model"],
            8,
            projector["n_heads"],
            projector["d_ff"],
            projector["n_layers"],
            projector["n_queries"],
        )
        weights = load_file(folder / "weights.safetensors")
        load(self.llm, weights, "", ("visual.", "model.", "lm_head."))
        load(self.clip, weights, "assist_clf.", ("assist_clf.",))
        load(self.seg, weights, "seg_model.", ("seg_model.",))
        self.adapt(load_file(folder / "lora.safetensors"))
        self.optimizer = self.adamw()

    def adapt(self, adapters):
        """LoRA in the language model's queries and values; towers and the embedding frozen, the rest trains."""
        lora = self.config["optimizer"]["lora"]
        for model in (self.llm, self.clip, self.seg.image_encoder):
            model.requires_grad_(False)
        self.seg.no_mem_embed.requires_grad_(False)
        self.llm.lm_head.requires_grad_(True)
        for i, layer in enumerate(self.llm.model.layers):
            for name in ("q_proj", "v_proj"):
                adapted = LoraLinear(getattr(layer.self_attn, name), lora["r"], lora["alpha"])
                prefix = f"base_model.model.model.layers.{i}.self_attn.{name}"
                adapted.lora_a.data.copy_(adapters[f"{prefix}.lora_A.default.weight"])
                adapted.lora_b.data.copy_(adapters[f"{prefix}.lora_B.default.weight"])
                setattr(layer.self_attn, name, adapted)

    def adamw(self):
        settings = self.config["optimizer"]
        trained = [p for model in (self.llm, self.seg) for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            trained, lr=settings["lr"], betas=settings["betas"], eps=settings["eps"], weight_decay=settings["weight_decay"]
        )

    def read(self):
        """The language model's reading: `<SEG>` features [2, D] and the language loss."""
        inputs, special = self.inputs, self.special
        embed, samples = self.llm.model.embed_tokens, []
        with torch.no_grad():
            for i, (pixels, grid, pad) in enumerate(
                [("pixel_values_videos", "video_grid_thw", "video"), ("pixel_values", "image_grid_thw", "image")]
            ):
                keep = inputs["attention_mask"][i].bool()
                ids, labels = inputs["input_ids"][i][keep], inputs["labels"][i][keep]
                rows = embed(ids)
                visual = (ids == special[pad]).nonzero()[:, 0]
                tokens = self.llm.visual(inputs[pixels], grid_thw=inputs[grid])
                llm = self.sizes["llm"]
                merged, centres, _ = compress(tokens, llm["ratio"], llm["k"], "reachability")
                rows[visual[centres]] = merged
                stays = ids != special[pad]
                stays[visual[centres]] = True
                samples.append((rows[stays], ids[stays], labels[stays]))
        longest = max(len(ids) for _, ids, _ in samples)
        rows, ids, labels, mask, positions = [], [], [], [], []
        for sample in samples:
            n_padding = longest - len(sample[1])
            with torch.no_grad():
                padding = embed(torch.full((n_padding,), special["bos"]))
            rows.append(torch.cat([padding, sample[0]]))
            ids.append(F.pad(sample[1], (n_padding, 0), value=special["bos"]))
            labels.append(F.pad(sample[2], (n_padding, 0), value=-100))
            mask.append(F.pad(torch.ones(len(sample[1]), dtype=torch.long), (n_padding, 0)))
            positions.append(F.pad(torch.arange(len(sample[1])), (n_padding, 0), value=1))
        ids, labels = torch.stack(ids), torch.stack(labels)
        hidden = self.llm.model(
            inputs_embeds=torch.stack(rows),
            attention_mask=torch.stack(mask),
            position_ids=torch.stack(positions).expand(3, -1, -1),
            use_cache=False,
        )[0]
        logits = self.llm.lm_head(hidden[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return hidden[ids == special["seg"]], loss

    def losses(self):
        inputs, seg = self.inputs, self.seg
        answers, ce_loss = self.read()
        masks, ious, scores = [], [], []
        for i, frames in enumerate((inputs["frames"], inputs["still"])):
            with torch.no_grad():
                ids = inputs[f"classes{i}.input_ids"]
                categories = self.clip(input_ids=ids, attention_mask=inputs[f"classes{i}.attention_mask"]).pooler_output
            top, positions, finer = forward_image(seg, frames)
            n_frames = len(frames)
            cells, cell_positions = (x.flatten(2).transpose(1, 2) for x in (top, positions))
            prompts = seg.multi_scale_projector(answers[i], categories, cells, cell_positions)
            if i == 0:
                top = top + seg.no_mem_embed.reshape(1, -1, 1, 1)
            prompt_encoder = seg.sam_prompt_encoder
            nothing = prompt_encoder.not_a_point_embed.weight.expand(n_frames, 2, -1)
            dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(n_frames, -1, *top.shape[-2:])
            low_res, iou, _, score = seg.sam_mask_decoder(
                image_embeddings=top,
                image_pe=prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=torch.cat([nothing, prompts[:, None]], 1),
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=False,
                high_res_features=finer,
            )
            low_res = torch.where(score[:, :, None, None] > 0, low_res, -1024.0)
            masks.append(F.interpolate(low_res, size=frames.shape[-2:], mode="bilinear", align_corners=False))
            ious.append(iou)
            scores.append(score[:, 0])
        return self.segmentation_losses(torch.cat(masks), torch.cat(ious), torch.cat(scores), ce_loss)

    def segmentation_losses(self, masks, ious, scores, ce_loss):
        weights = self.weights
        target = self.inputs["target_masks"]
        targets = target[:, None].expand_as(masks)
        has_object = target.flatten(1).amax(1)
        mask_loss, dice_loss = focal(masks, targets), dice(masks, targets)
        best = (weights["loss_mask"] * mask_loss + weights["loss_dice"] * dice_loss).argmin(1, keepdim=True)
        found, wanted = masks.flatten(2) > 0, targets.flatten(2) > 0
        overlap = (found & wanted).sum(-1) / (found | wanted).sum(-1).clamp(min=1)
        of_best = [loss.gather(1, best)[:, 0] * has_object for loss in (mask_loss, dice_loss, (ious - overlap).abs())]
        losses = dict(zip(("loss_mask", "loss_dice", "loss_iou"), (loss.mean() for loss in of_best)))
        losses["loss_class"] = F.binary_cross_entropy_with_logits(scores, has_object)
        losses["ce_loss"] = ce_loss
        losses["total_loss"] = ce_loss + sum(weights[name] * losses[name] for name in weights)
        return losses

    def __call__(self):
        """One step; its losses."""
        losses = self.losses()
        self.optimizer.zero_grad(set_to_none=True)
        losses["total_loss"].backward()
        self.optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}

    def check(self):
        """Fails unless the first steps have the losses that the folder lists."""
        for i, expected in enumerate(self.config["lora_steps"]):
            for name, found in self().items():
                if not math.isclose(found, expected[name], rel_tol=1e-4):
                    raise SystemExit(f"step {i}: {name} is {found}, expected {expected[name]}")


def load(model, weights, prefix, kept):
    """Every parameter of the model from the file; buffers that are computed may be missing."""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(kept)}
    missing, _ = model.load_state_dict(own, strict=False)
    missing = [name for name in missing if name in dict(model.named_parameters())]
    if missing:
        raise SystemExit(f"weights miss {missing[:5]}")
