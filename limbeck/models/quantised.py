"""Frozen linear layers in 4-bit NormalFloat or int8, through bitsandbytes (Dettmers et al., 2022 and 2023).

Only the storage is narrow: a weight is unpacked wherever it is used, so that what is trained through is what is exported.
bitsandbytes' own layers do otherwise: in int8 they round the activations too, and their packed weights are parameters,
which FSDP would cut into pieces and gather in another dtype. Here they are buffers, whole on each rank.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, ModelError
from limbeck.models import layout, load

Kind = Literal["nf4", "int8"]
# Weights that share a scale, and scales that share a scale of their own (double quantisation), as in the paper.
_BLOCK, _SCALES = 64, 256
_HALVES = (torch.bfloat16, torch.float16)


@functools.cache
def library() -> Any:
    """The functions of bitsandbytes, imported so that it fetches nothing. Raises where it is not installed."""
    load.bar_kernels()
    try:
        # A plan imports it on the meta device, where its tables would be empty.
        with torch.device("cpu"):
            import bitsandbytes.functional as functions
    except ImportError as reason:
        raise LimbeckError(
            "student.adapters.quantise needs bitsandbytes: pip install 'limbeck[qlora]'."
        ) from reason
    return functions


def _pack_nf4(weight: Tensor) -> dict[str, Tensor]:
    codes, state = library().quantize_4bit(
        weight.float().contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    second = state.state2
    return {
        "codes": codes,  # two of them a byte
        "scales": state.absmax,
        "scales_of_scales": second.absmax,
        "table": second.code,
        "offset": state.offset,
    }


def _unpack_nf4(layer: Quantised, dtype: torch.dtype) -> Tensor:
    functions = library()
    second = functions.QuantState(
        absmax=layer.plane("scales_of_scales"),
        code=layer.plane("table"),
        blocksize=_SCALES,
        dtype=torch.float32,
    )
    state = functions.QuantState(
        absmax=layer.plane("scales"),
        shape=layer.shape,
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=layer.plane("offset"),
        state2=second,
    )
    found: Tensor = functions.dequantize_4bit(layer.plane("codes"), state)
    return found


def _pack_int8(weight: Tensor) -> dict[str, Tensor]:
    codes, scales, _ = library().int8_vectorwise_quant(weight.half().contiguous())
    return {"codes": codes, "scales": scales}


def _unpack_int8(layer: Quantised, dtype: torch.dtype) -> Tensor:
    found = library().int8_vectorwise_dequant(layer.plane("codes"), layer.plane("scales"))
    return found.to(dtype)  # type: ignore[no-any-return]


def _shapes(shape: torch.Size, kind: Kind) -> dict[str, Tensor]:
    """What packing gives, without a number in it: for a plan, on the meta device."""
    empty = functools.partial(torch.empty, device="meta")
    if kind == "int8":
        return {"codes": empty(shape, dtype=torch.int8), "scales": empty(shape[0])}
    blocks = -(-shape.numel() // _BLOCK)
    return {
        "codes": empty(-(-shape.numel() // 2), 1, dtype=torch.uint8),
        "scales": empty(blocks, dtype=torch.uint8),
        "scales_of_scales": empty(-(-blocks // _SCALES)),
        "table": empty(256),
        "offset": empty(()),
    }


_PACK = {"nf4": _pack_nf4, "int8": _pack_int8}
_UNPACK = {"nf4": _unpack_nf4, "int8": _unpack_int8}


class Quantised(nn.Module):
    """A frozen linear layer whose weight (out, in) is held in few bits; its bias stays as it is.

    Float32 planes are kept as bits: a cast of the whole model to another dtype must not round the scales.
    """

    def __init__(self, linear: nn.Linear, kind: Kind) -> None:
        super().__init__()
        self.kind, self.shape, self.bias = kind, linear.weight.shape, linear.bias
        weight = linear.weight.detach()
        planes = _shapes(weight.shape, kind) if weight.is_meta else _PACK[kind](weight)
        for name, plane in planes.items():
            kept = plane.view(torch.int32) if plane.dtype == torch.float32 else plane
            self.register_buffer(name, kept, persistent=False)

    def plane(self, name: str) -> Tensor:
        """One of the tensors that the weight is held in."""
        kept = self.get_buffer(name)
        return kept.view(torch.float32) if kept.dtype == torch.int32 else kept

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) that is computed with: float32 numbers, rounded where dtype is a half."""
        if self.get_buffer("codes").is_meta:
            return torch.empty(self.shape, dtype=dtype, device="meta")
        found = dtype if dtype in _HALVES else torch.float32
        return _UNPACK[self.kind](self, found).to(dtype)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        found: Tensor = _Product.apply(hidden, self)  # type: ignore[no-untyped-call]
        return found if self.bias is None else found + self.bias


class _Product(torch.autograd.Function):
    """Hidden states times a quantised weight, which is unpacked again for the backward pass and never kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, layer: Quantised) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(hidden, layer.unpacked(hidden.dtype))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope @ ctx.layer.unpacked(slope.dtype), None


def check(model: nn.Module, kind: Kind) -> None:
    """Raises where a block holds a matrix that is no plain linear layer; a model on meta will do."""
    name = type(layout.plain_model(model)).__name__
    for where, module in layout.layers(model).named_modules():
        matrix = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        if matrix and type(module) is not nn.Linear:
            raise ModelError(
                f"{name}: {where} is a {type(module).__name__}, which cannot be held in {kind}; wanted nn.Linear in "
                "every block. Set student.adapters.quantise to none, or choose a model of another family."
            )


def quantise(model: nn.Module, kind: Kind) -> None:
    """Holds every frozen linear layer of the blocks in few bits, in place; adapters, norms, embeddings and head stay."""
    blocks = layout.layers(model)
    for where, module in list(blocks.named_modules()):
        if type(module) is nn.Linear and not module.weight.requires_grad:
            if not module.weight.is_meta and not module.weight.isfinite().all():
                raise ModelError(f"{where} holds a NaN or an infinity, which {kind} would hide.")
            blocks.set_submodule(where, Quantised(module, kind))


def restore(model: nn.Module) -> None:
    """Puts plain linear layers back, in place, with the weights that were computed with, in the model's own dtype."""
    dtype = layout.plain_model(model).dtype
    blocks = layout.layers(model)
    for where, module in list(blocks.named_modules()):
        if isinstance(module, Quantised):
            rows, width = module.shape
            plain = nn.Linear(width, rows, bias=False, device="meta")
            plain.weight = nn.Parameter(module.unpacked(dtype), requires_grad=False)
            plain.bias = module.bias
            blocks.set_submodule(where, plain)


def held(model: nn.Module) -> tuple[int, int]:
    """(parameters held in few bits, bytes that they take with their scales)."""
    found = [module for module in model.modules() if isinstance(module, Quantised)]
    buffers = [plane for module in found for plane in module.buffers(recurse=False)]
    return sum(module.shape.numel() for module in found), sum(plane.nbytes for plane in buffers)
