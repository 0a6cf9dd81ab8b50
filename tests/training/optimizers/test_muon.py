"""Muon: orthogonal updates for hidden matrices, AdamW for all else, one state."""

from __future__ import annotations

import torch
from torch import nn

from velatura.training.optimizers.muon import Muon, is_hidden_matrix, orthogonal

ADAMW = {"betas": (0.9, 0.99), "eps": 1e-8}


def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values() -> None:
    torch.manual_seed(0)
    for shape in ((24, 64), (64, 24), (32, 32)):
        u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        values = torch.linspace(0.2, 1.0, min(shape))
        made = orthogonal(u @ torch.diag(values) @ v)
        inner = u.t() @ made @ v.t()
        assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-4)  # same singular vectors
        assert float(inner.diagonal().min()) > 0.5
        assert float(inner.diagonal().max()) < 1.3


def test_only_matrices_of_repeated_layers_are_hidden() -> None:
    matrix, kernel, vector = torch.zeros(4, 4), torch.zeros(4, 4, 3, 3), torch.zeros(4)
    assert is_hidden_matrix("denoiser.transformer_blocks.0.attn.to_q.weight", matrix)
    assert is_hidden_matrix("autoencoder.encoder.down_blocks.1.resnets.0.conv1.weight", kernel)
    assert not is_hidden_matrix("denoiser.transformer_blocks.0.attn.to_q.bias", vector)
    assert not is_hidden_matrix("denoiser.proj_out.weight", matrix)
    assert not is_hidden_matrix("text_encoders[0].embeddings.token_embedding.weight", matrix)
    relative = "text_encoders[1].encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert not is_hidden_matrix(relative, matrix)


def test_a_first_step_moves_a_matrix_by_its_orthogonal_gradient_and_a_vector_by_adamw() -> None:
    torch.manual_seed(1)
    matrix, vector = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(16))
    before, gradient = matrix.detach().clone(), torch.randn(8, 16)
    start, slope = vector.detach().clone(), torch.randn(16)
    optimizer = Muon({"a.0.w": matrix, "a.0.b": vector}, lr=0.01, weight_decay=0.1, adamw=ADAMW)
    matrix.grad, vector.grad = gradient.clone(), slope.clone()
    optimizer.step()
    expected = before * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 4.0 * orthogonal(
        gradient
    )  # sqrt(16) = 4; any scale of it
    assert torch.allclose(matrix, expected, atol=1e-6)
    assert torch.allclose(
        vector, start - 0.01 * slope.sign(), atol=1e-5
    )  # AdamW's first step, no decay of vectors


def test_it_solves_a_regression_and_keeps_all_state_in_one_place() -> None:
    torch.manual_seed(2)
    wanted, weight = torch.randn(6, 6), nn.Parameter(torch.zeros(6, 6))
    bias = nn.Parameter(torch.zeros(6))
    optimizer = Muon({"l.0.w": weight, "l.0.b": bias}, lr=0.2, weight_decay=0.0, adamw=ADAMW)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 300)
        x = torch.randn(32, 6)
        (x @ (weight - wanted).t() + bias).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float((weight - wanted).abs().max()) < 0.05
    assert set(optimizer.state[weight]) == {"momentum"}
    assert set(optimizer.state[bias]) == {"step", "exp_avg", "exp_avg_sq"}
