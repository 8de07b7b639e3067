"""Every key that a config can have, with its default and the reason for it, a class per section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from mmreason.config.combinations import impossible
from mmreason.config.engines import EngineName
from mmreason.config.grpo_options import OPTIONS
from mmreason.config.grpo_terms import WITH_DEMOS, option_of
from mmreason.config.section import Section as Section

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
ADVANTAGE_NAMES = (
    "group",
    "group_mean",
    "batch",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_tokens",
    "reinforce_pp_baseline",
    "reinforce_pp_baseline_tokens",
    "remax",
    "contrast",
    "gdpo",
    "gae",
)


def _advantage(name: str) -> str:
    """Raises ValueError for a name that is neither built in nor says where it is."""
    if name in ADVANTAGE_NAMES or ":" in name:
        return name
    raise ValueError(f"expected one of {', '.join(ADVANTAGE_NAMES)}, or your own as file.py:name")


class LoraConfig(Section):
    rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(32.0, gt=0)
    """Scale: updates are multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input. 0 keeps rollout and training log-probs equal."""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Names of the linear layers of the language model that get adapters."""


class ModelConfig(Section):
    path: str = Field(min_length=1)
    """Folder (or hub name) of a checkpoint of a known family; `mmreason doctor` lists the families."""
    revision: str | None = None
    """Hub revision to pin."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Needs a pinned revision."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Master dtype of the weights. float32 because updates of 1e-6 vanish in bfloat16."""
    attention: Literal["auto", "dense", "merge", "flex"] = "auto"
    """How tree attention is computed. auto: merge on CPU, flex on GPU. dense is the plain mask, for short rows."""
    freeze: tuple[Literal["vision", "audio", "projector", "language"], ...] = ("vision", "audio")
    """Parts that are not trained. Towers are frozen by default: they overfit first and cost most."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of full weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward: less memory, about a third more time."""
    head_chunk: int = Field(1024, ge=1)
    """Tokens per LM-head chunk: logits of this many tokens exist at a time."""
    self_check: bool = True
    """Before training, compare this model's tree forward with a padded forward at tiny depth; refuse on mismatch."""


class DataSource(Section):
    path: str
    """JSON, JSONL or Parquet file, or the name of a `datasets` data set."""
    format: Literal["auto", "json", "jsonl", "parquet", "datasets"] = "auto"
    """auto: by the file's ending."""
    adapter: str = "auto"
    """What the rows look like: native or the name of another format (docs/data.md), pkg.mod:attr, file.py:attr, or an
    entry point. auto: by the keys of the first rows."""
    split: str = "train"
    """Split, for `datasets`."""
    streaming: bool = False
    """Read `datasets` as a stream, without downloading all of it first."""
    limit: int | None = Field(None, ge=1)
    """Use only the first N rows."""


class DataConfig(Section):
    train: tuple[DataSource, ...] = ()
    """Training data; several sources are joined."""
    eval: tuple[DataSource, ...] = ()
    """Held-out data, answered greedily before, during and after training."""
    media_root: str | None = None
    """Folder that relative media paths start at and that no media path may leave. Default: the data file's folder."""
    system: str | None = None
    """System message put before every conversation that has none."""
    suffix: str | dict[str, str] = ""
    """Text added to the last user message, e.g. how to format the answer. Or texts by task, as in {mcq: ...}; what
    stands under "*" comes first, for every task."""
    show_options: bool = True
    """Write the options of multiple-choice questions under the question, lettered."""
    max_prompt_tokens: int = Field(8192, ge=1)
    """Longer prompts (media included) are reported and dropped, never cut."""
    max_bad_fraction: float = Field(0.3, ge=0, le=1)
    """Stop when more than this share of the samples tried was quarantined."""
    order: Literal["shuffled", "file", "easy_to_hard", "hard_to_easy", "gaussian"] = "shuffled"
    """shuffled: every epoch anew; file: as rows stand; easy_to_hard (SARI's curriculum), hard_to_easy: by pass rate;
    gaussian: rows of a pass rate near 0.3 come more often, others less (Time-R1)."""
    difficulty: str = Field("pass_rate", min_length=1)
    """Where pass rates are: a key of the rows' meta, or a .jsonl file of lines with id and pass_rate."""
    pass_rate: tuple[Share, Share] | None = None
    """Leave out training rows whose pass rate is not between these two, both included."""
    mix: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each source: every epoch has the sources in these proportions. 0 leaves a source out. {}: all rows."""


class MediaConfig(Section):
    decoder: Literal["auto", "torchcodec", "pyav", "decord"] = "auto"
    """Video and audio decoder. auto: the first that works here; `mmreason doctor` names it."""
    workers: int = Field(2, ge=0)
    """Decoding processes per training process. 0 decodes in the training process, without a deadline."""
    deadline_s: float = Field(60.0, gt=0)
    """A file that takes longer to decode is quarantined and its worker is replaced."""
    cache_dir: str | None = None
    """Folder for decoded media, shared by epochs, stages and runs. None: no cache on disk."""
    cache_gb: float = Field(20.0, gt=0)
    """Upper bound of the cache folder; least recently used entries go first."""
    memory_gb: float = Field(1.0, ge=0)
    """Upper bound of the in-memory cache of model-ready tensors."""
    image_min_pixels: int = Field(3136, ge=1)
    """Smaller images are enlarged to this area (qwen-vl-utils' rule)."""
    image_max_pixels: int = Field(1003520, ge=1)
    """Larger images are reduced to this area."""
    image_max_source_pixels: int = Field(200_000_000, ge=1)
    """Images with more pixels than this, by their header, are refused before decoding."""
    video_fps: float = Field(2.0, gt=0)
    """Frames sampled per second of video."""
    video_min_frames: int = Field(4, ge=1)
    """At least this many frames per video."""
    video_max_frames: int = Field(64, ge=1)
    """At most this many frames per video."""
    video_min_pixels: int = Field(100352, ge=1)
    """Smaller frames are enlarged to this area."""
    video_max_pixels: int = Field(200704, ge=1)
    """Larger frames are reduced to this area."""
    video_max_seconds: float = Field(3600.0, gt=0)
    """Longer videos are refused before decoding."""
    audio_max_seconds: float = Field(300.0, gt=0)
    """Longer sounds are refused before decoding."""


class RolloutConfig(Section):
    engine: EngineName = "hf"
    """Who samples: our own decode loop (hf), vLLM in the trainer's processes (vllm), or vLLM servers (server)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the engine (docs/rollout.md lists them); hf has none."""
    ahead: int = Field(0, ge=0, le=1)
    """1: sample a step's answers while the step before is trained on, by weights one step old (engine server; needs
    grpo.off_policy)."""
    n: int = Field(8, ge=1)
    """Answers per prompt (the group size G)."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; log-probs are those of logits / temperature."""
    entropy_target: float | None = Field(None, gt=0)
    """Move the temperature between steps so that the entropy per sampled token (nats) stays here; 0.3 is what
    AceReason-Nemotron 1.1 aims at. Bounds and speed are grpo.options."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling. Below 1, tokens are scored among those that were left to choose from (grpo.options.support)."""
    top_k: int = Field(0, ge=0)
    """Keep the k most likely tokens; 0 keeps all."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest answer; one that reaches it counts as truncated."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, besides the end token."""
    max_rows: int = Field(64, ge=1)
    """Answers decoded side by side; more are done in turns."""


class RewardConfig(Section):
    name: str
    """Built-in name (`mmreason rewards`), pkg.mod:attr, file.py:attr, or an entry point."""
    weight: float = 1.0
    """Factor in the sum."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the reward."""
    tasks: tuple[str, ...] = ()
    """It applies to samples of these tasks only; empty: to all."""
    gate: str | None = None
    """Counts only where this other reward is above 0 for the same answer, else it is 0. Named as in the metrics."""
    span: str = Field("all", pattern=r"^[A-Za-z][\w-]*$")
    """The part of an answer that it is for: a block by its tag (observation), rest (all that is in no such block), or
    all. Each part's rewards are summed and normalised apart, and its tokens get its own advantage."""

    def applies_to(self, task: str) -> bool:
        """Whether samples of this task are scored by it."""
        return not self.tasks or task in self.tasks


class ShapingConfig(Section):
    name: str
    """Built-in name (docs/algorithms.md), pkg.mod:attr, file.py:attr, or an entry point."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the shaper."""


class ScoringConfig(Section):
    combine: Literal["sum", "product", "first"] = "sum"
    """sum: weighted sum of all rewards; product: of all; first: the first that does not return None."""
    on_error: Literal["drop_group", "drop_rollout", "stop"] = "drop_group"
    """What a reward that raises, hangs or returns nonsense does. Never a silent zero."""
    workers: int = Field(2, ge=1)
    """Reward processes per training process."""
    deadline_s: float = Field(30.0, gt=0)
    """Longest time for one group and one reward; then the worker is killed and replaced."""


class EvalConfig(Section):
    """Of `mmreason eval`; evaluations during training give one greedy answer."""

    n: int = Field(1, ge=1)
    """Answers per question. One is greedy; more are sampled, for pass@k and majority vote."""
    temperature: float = Field(1.0, gt=0)
    """Of sampled answers; top_p, top_k, max_new_tokens and stop are those of rollout."""


class TermConfig(Section):
    name: Literal["imitation", "demo_policy", "likelihood", "distill", "perception", "entropy"]
    """imitation: SFT loss on the demonstrations of the prompts; demo_policy: policy gradient on them, in one group
    with the rollouts; likelihood: log pi of right rollouts up, of wrong ones down (SRFT); distill: KL to a teacher
    without media (VOLD); perception: minus the KL to the policy with pictures masked (PAPO); entropy."""
    weight: float = 1.0
    """Factor in the loss."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the term, listed in docs/algorithms.md (Joint objectives)."""

    def option(self, name: str) -> Any:
        """The value of an option, given or by default."""
        return option_of(self.name, self.options, name)


class GrpoConfig(Section):
    """docs/algorithms.md has the equation and the source of every choice."""

    advantage: Annotated[str, AfterValidator(_advantage)] = "group"
    """group: (r - mean) / std of the group; group_mean: r - mean (Dr.GRPO); batch: r - group mean, over batch std;
    rloo: leave-one-out; reinforce_pp: (r - mean) / std of the batch, _baseline: after r - group mean, _tokens: longer
    answers count more in mean and std; remax: r - r of a greedy answer; contrast: mean of right minus mean of wrong
    answers (DisCO); gdpo: every reward normalised in its group, then the sum over the batch;
    gae: by token, against the values of a critic that is trained too (PPO).
    Your own: file.py:name or pkg.mod:name (docs/algorithms.md)."""
    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    """What is clipped: each token's ratio, or the answer's geometric mean (GSPO; GSPO-token)."""
    clip: Literal["ppo", "none", "gppo", "cispo", "sapo", "geometric", "disco_b", "disco", "disco_ratio"] = "ppo"
    """ppo: clipped tokens have no gradient; gppo: they keep their bound's; cispo: the clipped ratio weighs log pi;
    sapo: a soft gate; geometric: geometric mean of clipped token ratios (GMPO); none; disco, disco_ratio: by log pi or
    ratios, hard wrong answers first, drift bounded; disco_b: all answers alike."""
    clip_low: float = Field(0.2, ge=0)
    """Lower clip of the ratio: 1 - clip_low."""
    clip_high: float = Field(0.28, ge=0)
    """Upper clip of the ratio: 1 + clip_high (clip-higher keeps rare tokens alive)."""
    clip_schedule: Literal["constant", "shrink"] = "constant"
    """shrink: both bounds times prod (S - i) / S over the finished steps i of S (GuardReasoner-VL)."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the reference model. 0 loads no reference."""
    kl_estimator: Literal["k1", "k2", "k3", "k1+", "k3+", "k3*"] = "k3"
    """Per-token estimator of that KL. +: with k2's gradient, the reverse KL's. *: times the ratio, which has it too."""
    kl_in: Literal["loss", "reward"] = "loss"
    """reward: its sum over an answer is taken off the answer's reward, before advantages."""
    kl_schedule: Literal["constant", "linear", "cosine", "accuracy", "adaptive"] = "constant"
    """From kl_coef to options.kl_end: over the run, or with the share of right answers; adaptive: to keep the KL at
    options.kl_target."""
    off_policy: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask"
    ] = "none"
    """Weigh by old policy / what really sampled, cut at bounds or dropped outside; costs a forward pass."""
    options: dict[str, float] = Field(default_factory=dict)
    """Constants that only some of these choices have: epsilon, dual, tau_positive, tau_negative, tau, drift_beta,
    drift_delta, max_log_ratio, policy_weight, kl_end, kl_target, kl_gain, weight_low, weight_high; of gae gamma, lam,
    vf_coef, value_clip, whiten; with top_p or top_k support; of rollout.entropy_target temperature_gain,
    temperature_low, temperature_high; of hard samples that come again replay, replay_below. One that is not read is
    refused."""
    terms: tuple[TermConfig, ...] = ()
    """Further losses, added to the policy loss."""
    contrast_view: Literal["shuffled", "blank", "noise", "muted", "none"] | None = None
    """Also answer each question with its media changed (a video's frames shuffled, pictures grey, sound noise or
    silence, no media at all); these answers are scored and never trained on. Evaluations measure this view as well."""
    contrast_n: int = Field(4, ge=1)
    """How many such answers per prompt (Video-R1: half of rollout.n)."""
    keep_mean: tuple[float, float] | None = None
    """Leave out groups whose mean reward is not between these, and sample others (EasyR1's DAPO: [0.01, 0.99])."""
    updates_per_batch: int = Field(1, ge=1)
    """Optimizer steps per set of rollouts; the prompts are split evenly among them."""
    drop_constant_groups: bool = True
    """Leave out groups whose rewards (gdpo: each normalised) are all equal, so that they say nothing; sample others."""
    max_refills: int = Field(2, ge=0)
    """How many more times to sample prompts for a step before it goes on with what it has."""
    mask_truncated: bool = True
    """Truncated answers count in the group's statistics but get no loss."""

    def option(self, name: str) -> float:
        """The value of a constant of `options`, given or by default."""
        value = self.options.get(name, OPTIONS[name].default)
        return 0.0 if value is None else value

    @property
    def uses_demos(self) -> bool:
        """Whether a term of the loss needs demonstrations."""
        return any(term.name in WITH_DEMOS for term in self.terms)


class TrainConfig(Section):
    method: Literal["sft", "grpo", "dpo"] = "grpo"
    """What this run does. dpo: from `pairs` of the rows; its beta is grpo.kl_coef."""
    steps: int = Field(1000, ge=1)
    """Steps of the run: batches of prompts."""
    prompts_per_step: int = Field(32, ge=1)
    """Prompts per step, over all processes."""
    row_tokens: int = Field(8192, ge=16)
    """Budget of one packed row (one micro-batch). A larger tree is split by its branches."""
    aggregation: Literal["token_mean", "sequence_mean", "constant", "sequence_sum"] = "token_mean"
    """How per-token losses become one number; constant divides by answers x max_new_tokens (Dr.GRPO)."""
    learning_rate: float = Field(1e-6, ge=0)
    """Peak learning rate; 1e-5 suits LoRA."""
    learning_rates: dict[Literal["vision", "audio", "projector", "language", "critic"], float] = Field(
        default_factory=dict
    )
    """Other learning rates for some parts; critic: PPO's value head."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up; linear and cosine end at 0."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; the weights stay in model.dtype."""
    deepspeed: str | None = None
    """DeepSpeed JSON (configs/deepspeed/). Needs the `train` extra."""
    timeout_s: float = Field(7200.0, gt=0)
    """With several processes: a stage of a step (sampling, update, saving, ...) that takes longer ends the run."""
    save_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted once a newer one is complete."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations; 0: only before the first and after the last step."""
    gallery_groups: int = Field(64, ge=0)
    """Groups kept for the report, evenly spread over the steps, with small pictures of their media."""
    trackers: tuple[
        Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"], ...
    ] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl; tensorboard's files are in run_dir/tensorboard. []: nowhere."""


class RunConfig(Section):
    """Everything one run needs. Example: configs/quickstart.yaml."""

    run_dir: str = Field(min_length=1)
    """Where checkpoints, metrics, quarantine and report go. A run found there is resumed."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seeds data order, sampling and initialisation."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    media: MediaConfig = MediaConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: tuple[RewardConfig, ...] = ()
    scoring: ScoringConfig = ScoringConfig()
    shaping: tuple[ShapingConfig, ...] = ()
    eval: EvalConfig = EvalConfig()
    grpo: GrpoConfig = GrpoConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        wrong = list(impossible(self))
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


def section_of(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section class inside `X`, `X | None` or `tuple[X, ...]`, and whether it is repeated."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    repeated = getattr(annotation, "__origin__", None) is tuple
    for argument in getattr(annotation, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, Section):
            return argument, repeated
    return None, False
