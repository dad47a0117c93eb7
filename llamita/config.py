"""The frozen dataclasses of a run: one a TOML table, every field a real value, `None` only for off."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from llamita import checks
from llamita.checks import at_most, chosen, positive, require

Precision = Literal["auto", "fp32", "bf16", "fp8"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
AttentionKernel = Literal["auto", "torch", "cudnn", "flash", "efficient", "math"]
TokenizerKind = Literal["bpe", "word", "char", "byte"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]

# Stands where __post_init__ puts a number that follows from other fields.
_DERIVED: Any = None

# A tied table's rows are as large as a start near a guess allows: the token just read gets a sixteenth of the first
# prediction, or logits spread by a half. Looked up, they are scaled to this root mean square (docs/ties.md).
_COPY_ODDS, _LOGIT_STD, _TIED_INPUT_RMS = 1 / 15, 0.5, 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """Context extension of RoPE; fields of other kinds are ignored, as in Hugging Face configurations."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_seq_len: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        chosen("model.rope_scaling", self)
        positive("model.rope_scaling", factor=self.factor, original_max_seq_len=self.original_max_seq_len)
        require(self.factor >= 1, f"model.rope_scaling.factor ({self.factor}) must be at least 1")
        at_most(checks.LARGEST_SCALING, "model.rope_scaling", self)
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            below, above = getattr(self, low), getattr(self, high)
            positive("model.rope_scaling", **{low: below, high: above})
            require(
                checks.LEAST_TURNS <= below < above,
                f"model.rope_scaling.{low} ({below}) must be less than model.rope_scaling.{high} ({above}), "
                f"and at least {checks.LEAST_TURNS}",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The shape of a LLaMaTransformer. `n_embd` is also called embedding_dim, d_model and hidden_size.

    `vocab_size` counts the table's rows; the last `unpredicted_rows` of them get no logit: nothing is read out of them.
    """

    vocab_size: int
    unpredicted_rows: int = 0
    n_embd: int = 256
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = _DERIVED
    head_dim: int = _DERIVED
    ffn_dim: int = _DERIVED
    multiple_of: int = 32
    max_seq_len: int = 256
    positions: Literal["rope", "learned", "none"] = "rope"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    embedding_std: float = _DERIVED
    embedding_scale: float = _DERIVED

    def __post_init__(self) -> None:
        chosen("model", self)
        positive("model", vocab_size=self.vocab_size, n_embd=self.n_embd, n_layers=self.n_layers)
        positive("model", n_heads=self.n_heads, multiple_of=self.multiple_of, max_seq_len=self.max_seq_len)
        silent, rows = self.unpredicted_rows, self.vocab_size
        require(0 <= silent < rows, f"model.unpredicted_rows ({silent}) must be from 0 to {rows - 1}")
        tied_std = min(math.log1p(_COPY_ODDS * (rows - silent)) / self.n_embd, _LOGIT_STD / math.sqrt(self.n_embd))
        derived = {
            "n_kv_heads": self.n_heads,
            "head_dim": max(self.n_embd // self.n_heads, 1),
            "ffn_dim": -(-8 * self.n_embd // (3 * self.multiple_of)) * self.multiple_of,
            "embedding_std": tied_std if self.tie_embeddings else 1.0,
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        positive("model", embedding_std=self.embedding_std)
        if self.embedding_scale is None:
            scale = _TIED_INPUT_RMS / self.embedding_std if self.tie_embeddings else 1.0
            object.__setattr__(self, "embedding_scale", scale)
        self._check()

    def _check(self) -> None:
        positive("model", n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, ffn_dim=self.ffn_dim)
        positive("model", embedding_scale=self.embedding_scale, rope_theta=self.rope_theta, norm_eps=self.norm_eps)
        at_most(checks.LARGEST_MODEL, "model", self)
        require(self.rope_theta > 1, f"model.rope_theta ({self.rope_theta}) must be greater than 1")
        require(
            self.positions != "rope" or self.max_seq_len * self.head_dim <= checks.ROPE_TABLE,
            f"model.max_seq_len ({self.max_seq_len}) times head_dim ({self.head_dim}) is more than {checks.ROPE_TABLE}",
        )
        require(
            self.n_heads % self.n_kv_heads == 0,
            f"model.n_heads ({self.n_heads}) must be a multiple of model.n_kv_heads ({self.n_kv_heads})",
        )
        require(
            self.positions != "rope" or self.head_dim % 2 == 0,
            f"model.head_dim ({self.head_dim}) must be even: RoPE turns pairs of coordinates; "
            f"choose model.n_embd and model.n_heads so, or set model.head_dim",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How text becomes ids; `vocab_size` is what was asked for, `model.vocab_size` what came of it."""

    kind: TokenizerKind = "bpe"
    vocab_size: int = 1024
    file: str | None = None

    def __post_init__(self) -> None:
        chosen("tokenizer", self)
        positive("tokenizer", vocab_size=self.vocab_size)
        at_most({"vocab_size": checks.LARGEST_MODEL["vocab_size"]}, "tokenizer", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the text comes from and how it is cut into rows; text behind the first `max_bytes` isn't read."""

    sources: tuple[str, ...] = ()
    field: str = "text"
    max_bytes: int | None = None
    validation_fraction: float = 0.1
    packing: Literal["stream", "documents"] = "stream"
    mask_documents: bool = _DERIVED

    def __post_init__(self) -> None:
        chosen("data", self)
        if self.mask_documents is None:
            # Documents packed by length would tell each other how long they are.
            object.__setattr__(self, "mask_documents", self.packing == "documents")
        most = self.max_bytes
        require(most is None or most > 0, f"data.max_bytes ({most}) must be greater than 0, or off")
        require(
            0 <= self.validation_fraction < 1,
            f"data.validation_fraction ({self.validation_fraction}) must be at least 0 and below 1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and its schedule; the tables learn at `table_lr_ratio` times the rate of the matrices.

    `input_grad_scale` weighs what the table learns as input against what a tied one learns as output.
    """

    lr: float = 3e-3
    table_lr_ratio: float = 1.0
    input_grad_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 20
    decay_fraction: float = 0.3
    min_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        chosen("optimizer", self)
        positive("optimizer", lr=self.lr, table_lr_ratio=self.table_lr_ratio, eps=self.eps)
        positive("optimizer", input_grad_scale=self.input_grad_scale)
        require(
            all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas ({list(self.betas)}) must be at least 0 and below 1",
        )
        require(self.weight_decay >= 0, f"optimizer.weight_decay ({self.weight_decay}) must not be negative")
        require(self.clip is None or self.clip > 0, f"optimizer.clip ({self.clip}) must be greater than 0")
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps ({self.warmup_steps}) must not be negative")
        for name in ("decay_fraction", "min_lr_ratio"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"optimizer.{name} ({value}) must be between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How long, how much at a time, on what, and how often something is looked at or saved.

    After `max_minutes` of one command a run is saved and stops; resuming it goes on. Of its checkpoints the newest
    `keep_last` stay, the best, and those at multiples of `keep_every` steps. A step whose loss or gradient norm is
    `max_z_score` standard deviations above the last ones is skipped; after `rewind_after` skipped in a row the run
    goes back to its last checkpoint, `max_rewinds` times. `deterministic` makes a GPU give the same bits every time.
    `preflight` is what becomes of a start that can't be learned from. The first `recompute_layers` blocks keep nothing
    for the backward pass, which computes them again: less memory, more time. `attention` is the kernel that a GPU
    uses; "torch" leaves it to torch. `precision` is what matrix products compute in; "fp8" does so in the decoder
    blocks alone, while training on a GPU that can, and is bf16 elsewhere.
    """

    steps: int = 1000
    max_minutes: float | None = None
    batch_size: int = 32
    micro_batch_size: int = _DERIVED
    seed: int = 0
    device: DeviceName = "auto"
    precision: Precision = "auto"
    threads: int = 1
    preflight: Literal["refuse", "correct", "warn"] = "refuse"
    compile: bool = False
    recompute_layers: int = 0
    attention: AttentionKernel = "auto"
    deterministic: bool = False
    max_z_score: float | None = 6.0
    rewind_after: int = 5
    max_rewinds: int = 3
    log_every: int = 10
    eval_every: int = 100
    eval_tokens: int = 1_000_000
    save_every: int = 250
    keep_last: int = 2
    keep_every: int | None = None
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        chosen("training", self)
        if self.micro_batch_size is None:
            object.__setattr__(self, "micro_batch_size", self.batch_size)
        positive("training", batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)
        positive("training", log_every=self.log_every, eval_every=self.eval_every, save_every=self.save_every)
        positive("training", rewind_after=self.rewind_after)
        positive("training", keep_last=self.keep_last, eval_tokens=self.eval_tokens, threads=self.threads)
        at_most(checks.LARGEST_TRAINING, "training", self)
        require(
            self.batch_size % self.micro_batch_size == 0,
            f"training.batch_size ({self.batch_size}) must be a multiple of "
            f"training.micro_batch_size ({self.micro_batch_size})",
        )
        require(
            self.keep_every is None or self.keep_every > 0,
            f"training.keep_every ({self.keep_every}) must be greater than 0, or off",
        )
        score, minutes = self.max_z_score, self.max_minutes
        require(score is None or score > 0, f"training.max_z_score ({score}) must be greater than 0, or off")
        require(minutes is None or minutes > 0, f"training.max_minutes ({minutes}) must be greater than 0, or off")
        for name in ("steps", "sample_tokens", "max_rewinds", "recompute_layers"):
            require(getattr(self, name) >= 0, f"training.{name} ({getattr(self, name)}) must not be negative")

    @property
    def accumulation(self) -> int:
        """Micro-batches in one optimizer step."""
        return self.batch_size // self.micro_batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Trackers that figures go `to` while training, and the project that wandb and trackio file the run under."""

    to: tuple[TrackerName, ...] = ()
    project: str = "llamita"

    def __post_init__(self) -> None:
        chosen("tracking", self)
        named = self.project.strip() and self.project.isprintable() and not set("/\\#?%:") & set(self.project)
        require(bool(named), f"tracking.project = {self.project!r} must be a name, without / \\ # ? % :")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that a run was asked for and resolved to; lies in the run folder as config.toml."""

    model: ModelConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def tokens_per_step(self) -> int:
        """Positions that one optimizer step looks at."""
        return self.training.batch_size * self.model.max_seq_len

    def __post_init__(self) -> None:
        model, training = self.model, self.training
        sizes = {
            "model.n_embd": model.n_embd,
            "model.ffn_dim": model.ffn_dim,
            "model.n_heads x model.head_dim": model.n_heads * model.head_dim,
            "model.n_kv_heads x model.head_dim": model.n_kv_heads * model.head_dim,
            "training.micro_batch_size x model.max_seq_len": training.micro_batch_size * model.max_seq_len,
        }
        for name, size in sizes.items() if training.precision == "fp8" else ():
            require(size % 16 == 0, f"{name} ({size}) must be a multiple of 16 for --precision fp8; bf16 takes any")
