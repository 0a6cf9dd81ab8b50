"""Tensors as the weights files of many tools have them: names, dtypes and small shapes."""

from __future__ import annotations

Tensors = dict[str, tuple[str, list[int]]]  # name -> dtype, shape

PLAIN: Tensors = {"a": ("F32", [2, 3]), "b.weight": ("BF16", [4]), "c": ("I64", []), "d.scale_weight": ("F32", [1]),
                  "d.weight": ("F8_E4M3", [4, 2]), "e": ("BOOL", [3])}  # fmt: skip
LORAS: tuple[Tensors, ...] = tuple(
    {stem + down: ("F32", [2, 6]), stem + up: ("F16", [rows, 2]), **({stem + ".alpha": ("F32", [])} if alpha else {})}
    for stem, rows, down, up, alpha in (
        ("lora_unet_double_blocks_0_img_attn_qkv", 18, ".lora_down.weight", ".lora_up.weight", True),
        ("lora_unet_single_blocks_0_linear1", 42, ".lora_down.weight", ".lora_up.weight", True),
        ("transformer.single_transformer_blocks.0.attn.to_q", 6, ".lora_A.weight", ".lora_B.weight", False),
        ("transformer.transformer_blocks.1.attn.add_k_proj", 6, ".lora.down.weight", ".lora.up.weight", False),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 6, ".lora_down.weight", ".lora_up.weight", True),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 6, ".lora_down.weight",
         ".lora_up.weight", True),
        ("unet.mid_block.attentions.0.proj_in", 6, ".lora_A.weight", ".lora_B.weight", False),
        ("base_model.model.transformer_blocks.0.ff.net.2", 6, ".lora_A.default.weight", ".lora_B.default.weight", False),
        ("diffusion_model.single_blocks.3.linear2", 6, ".lora_down.weight", ".lora_up.weight", True),
        ("blocks.0.attn.a_to_qkv", 18, ".lora_A.default.weight", ".lora_B.default.weight", False),
        ("lora_transformer_transformer_blocks_0_attn_to_out_0", 6, ".lora_down.weight", ".lora_up.weight", True),
    )
)  # fmt: skip
ALIKE = {
    0: (1, 4),
    1: (0, 8),
    2: (3,),
    3: (2,),
    5: (6,),
    6: (5,),
    7: (7, 2),
    8: (0, 4),
    9: (9,),
    10: (10, 2),
}  # go with
LORA_WORDS = (
    ".alpha", ".dora_scale", ".lora_mid.weight", ".hada_w1_a", ".lokr_w1", ".diff", "lora_unet_", "lora_te1_", "transformer.",
    "_q_proj" * 40, "q_proj_" * 60 + "x", "0_" * 1500, "double_blocks.9999.", "single_blocks_99999999999", "to_out",
    "linear_1_" * 40, "double_blocks_0_txt_mlp_2", ".scale_weight", ".lora_A.weight", ".lora_B.bias", "norm_out_linear",
)  # fmt: skip
NOTES = (
    {"velatura.folded_alpha": '{"transformer.single_transformer_blocks.0.attn.to_q": {"alpha": 1, "rank": 2, "up": "F32", '
     '"lost": "eJxjYGBgAAAABAAB", "stored": [1, "F32"]}}'},
    {"lora_adapter_metadata": '{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_q": 4}, '
     '"transformer.use_rslora": true}'},
    {"velatura.layout": "unet", "ss_network_dim": "2"},
    {},
)  # fmt: skip
FLUX: Tensors = {
    "img_in.weight": ("BF16", [16, 4]), "vector_in.in_layer.weight": ("BF16", [16, 6]), "txt_in.weight": ("BF16", [16, 8]),
    "final_layer.linear.weight": ("BF16", [4, 16]), "guidance_in.in_layer.weight": ("BF16", [16, 8]),
    "double_blocks.0.img_attn.norm.query_norm.scale": ("BF16", [16]), "double_blocks.0.img_attn.qkv.weight": ("BF16", [48, 16]),
    "single_blocks.0.norm.query_norm.scale": ("BF16", [16]), "single_blocks.0.linear1.weight": ("BF16", [112, 16]),
}  # fmt: skip
DIFFUSERS_FLUX: Tensors = {
    "x_embedder.weight": ("F32", [16, 4]), "context_embedder.weight": ("F32", [16, 8]), "proj_out.weight": ("F32", [4, 16]),
    "time_text_embed.text_embedder.linear_1.weight": ("F32", [16, 6]),
    "time_text_embed.timestep_embedder.linear_1.weight": ("F32", [16, 8]),
    "transformer_blocks.0.attn.norm_q.weight": ("F32", [16]), "single_transformer_blocks.0.attn.norm_q.weight": ("F32", [16]),
}  # fmt: skip
SD: Tensors = {
    "model.diffusion_model.input_blocks.0.0.weight": ("F16", [32, 4, 3, 3]), "model.diffusion_model.out.2.weight": ("F16", [4, 32, 3, 3]),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": ("F16", [32, 32, 1, 1]),
    "model.diffusion_model.input_blocks.1.1.norm.weight": ("F16", [32]),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": ("F16", [32, 8]),
    "model.diffusion_model.middle_block.1.proj_in.weight": ("F16", [32, 32, 1, 1]),
    "first_stage_model.encoder.down.0.block.0.conv1.weight": ("F16", [32, 32, 1, 1]),
    "first_stage_model.encoder.conv_in.weight": ("F16", [32, 3, 1, 1]), "first_stage_model.decoder.conv_in.weight": ("F16", [32, 4, 1, 1]),
    "first_stage_model.decoder.conv_out.weight": ("F16", [3, 32, 1, 1]),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": ("F16", [10, 64]),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": ("F16", [7, 64]),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": ("F16", [8, 64]),
}  # fmt: skip
DIFFUSERS_SD: Tensors = {
    "conv_in.weight": ("F32", [32, 4, 3, 3]), "conv_out.weight": ("F32", [4, 32, 3, 3]),
    "down_blocks.0.resnets.0.conv1.weight": ("F32", [32, 32, 3, 3]), "down_blocks.0.attentions.0.norm.weight": ("F32", [32]),
    "down_blocks.0.resnets.0.time_emb_proj.weight": ("F32", [32, 8]), "mid_block.attentions.0.proj_in.weight": ("F32", [32, 32]),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": ("F32", [32, 8]),
}  # fmt: skip
ENCODERS: Tensors = {
    "encoder.block.0.layer.0.SelfAttention.q.weight": ("BF16", [12, 8]), "shared.weight": ("BF16", [10, 8]),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": ("BF16", [4, 3]),
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": ("BF16", [8, 5]),
    "encoder.down_blocks.0.resnets.0.conv1.weight": ("BF16", [32, 32, 1, 1]), "encoder.conv_in.weight": ("BF16", [32, 3, 1, 1]),
    "decoder.conv_in.weight": ("BF16", [32, 4, 1, 1]), "decoder.conv_out.weight": ("BF16", [3, 32, 1, 1]),
}  # fmt: skip
MODELS = (FLUX, DIFFUSERS_FLUX, SD, DIFFUSERS_SD, ENCODERS)
