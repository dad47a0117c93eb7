"""AdamW with three kinds of parameters: matrices, tables and gains."""

import torch
from torch import nn

from llamita.config import OptimizerConfig
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer

# Standard deviation times width at which an input table learns at exactly `table_lr_ratio` times the matrices' rate:
# 0.02 at n_embd 768.
_REFERENCE_STD_TIMES_WIDTH = 15.36


def parameters_by_kind(model: LLaMaTransformer) -> dict[str, list[nn.Parameter]]:
    """Each trainable parameter once: "embeddings" (the table), "head" (untied), "matrices", "gains"."""
    kinds: dict[str, list[nn.Parameter]] = {"embeddings": [], "head": [], "matrices": [], "gains": []}
    for name, parameter in model.named_parameters():
        if name == "embeddings.weight":
            kinds["embeddings"].append(parameter)
        elif name == "lm_head.weight":
            kinds["head"].append(parameter)
        elif parameter.dim() == 2 and name.startswith("decoder_blocks."):
            kinds["matrices"].append(parameter)
        else:
            kinds["gains"].append(parameter)
    return kinds


def check_tie(model: LLaMaTransformer, optimizer: torch.optim.Optimizer) -> None:
    """UserError unless there are as many tables as the config says, listed once, undecayed, and not in Muon."""
    table, head, tied = model.embeddings.weight, model.lm_head, model.config.tie_embeddings
    remedy = "set model.tie_embeddings, and leave it to the model"
    if tied and head is not None:
        raise UserError(
            f"the tie is broken: model.lm_head is a table of its own, though tie_embeddings is on; {remedy}"
        )
    if not tied and (head is None or head.weight.data_ptr() == table.data_ptr()):
        raise UserError(f"the tie is none of the config's: one table has both roles, though it is off; {remedy}")
    listed = [(weight, group) for group in optimizer.param_groups for weight in group["params"]]
    for name, weight in model.named_parameters():
        groups = [group for other, group in listed if other.data_ptr() == weight.data_ptr()]
        if len(groups) != 1:
            raise UserError(
                f"the optimizer has {name} {len(groups)} times: list each weight once, as build_optimizer does"
            )
        if name not in ("embeddings.weight", "lm_head.weight"):
            continue
        if isinstance(optimizer, torch.optim.Muon):
            raise UserError(
                f"the optimizer is Muon and has {name}: it would move rows of tokens that don't occur as far as "
                "any other; leave tables to AdamW"
            )
        if groups[0].get("weight_decay"):
            raise UserError(
                f"the optimizer decays {name}: rare rows would shrink between their occurrences; set it to 0"
            )


def build_optimizer(model: LLaMaTransformer, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW whose groups hold their share of the learning rate as "lr_ratio".

    Adam moves every coordinate by about its learning rate, whatever the scale of the weights. Rows that are read as
    outputs add up n_embd such moves to a logit, so their rate falls with the width as that of matrices does; rows
    that are looked up alone need one that grows with their size, at any width (arXiv 2203.03466). Tables aren't
    decayed: a rare row would shrink between its occurrences.
    """
    kinds = parameters_by_kind(model)
    input_ratio = model.config.embedding_std * model.config.n_embd / _REFERENCE_STD_TIMES_WIDTH
    ratios = {
        "embeddings": config.table_lr_ratio * (1.0 if model.lm_head is None else input_ratio),
        "head": config.table_lr_ratio,
        "matrices": 1.0,
        "gains": 1.0,
    }
    groups = [
        {
            "params": parameters,
            "kind": kind,
            "lr_ratio": ratios[kind],
            "lr": config.lr * ratios[kind],
            "weight_decay": config.weight_decay if kind == "matrices" else 0.0,
        }
        for kind, parameters in kinds.items()
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
