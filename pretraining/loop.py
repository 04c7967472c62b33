"""The resumable training loop that the three pretraining scripts share."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmbseg.models.tiny import FOLDER, architecture
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import file_digest, json_digest
from pretraining.samples import DONE, code_digest

Log = Callable[[str], None]
_SHARED = (
    *("pretraining/augment.py", "pretraining/captions.py", "pretraining/loop.py"),
    *("pretraining/samples.py", "pretraining/teacher.py"),
    *(f"fmbseg/models/{name}.py" for name in ("build", "clip", "dense", "timm_features")),
)
_OUTWARD = ("work", "out", "threads", "steps")


@dataclass(frozen=True)
class Recipe:
    """Optimisation of one pretraining: warm-up, constant rate, linear decay at the end.

    The constant middle lets an interrupted or lengthened run keep its schedule: only the last
    `decay` share of the steps depends on how many there are.

    Attributes:
        muon: the weights of linear layers are trained by Muon (Jordan et al., 2024), scaled to the
            size of AdamW's steps (Liu et al., 2025), at so many times the learning rate; 0: by
            AdamW, as all other weights are.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: int = 150
    decay: float = 0.35
    seed: int = 0
    mixed: bool = True  # bfloat16 products, float32 weights
    muon: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * rise * fall

    def fall(self, steps: int) -> float:
        """The step from which the rate falls, here or in a training of `steps` steps."""
        return (1 - self.decay) * min(self.steps, steps)


def train(
    model: nn.Module,
    recipe: Recipe,
    loss_of: Callable[[np.random.Generator, int], Tensor],
    state_file: Path,
    made_from: Mapping[str, str],
    *,
    export: Callable[[], None],
    report: Callable[[int], str] | None = None,
    every: int = 500,
    save_every: float = 120.0,
    log: Log = print,
) -> None:
    """Train `model` in place for `recipe.steps` steps, resuming from `state_file` if it is there.

    `loss_of(rng, step)` returns the scalar loss of one batch; its generator is seeded by (seed,
    step), so a resumed run draws the batches an undisturbed one would have drawn. The state is
    saved every `save_every` seconds; `export()` writes the weights, at the end alone. What
    `report(step)` returns is told every `every` steps.

    `made_from` names what the weights are made of (see `origin`). A state of something else is
    refused; a recipe of another length may go on from a state, while the rate falls in neither.

    Raises:
        SystemExit: the state is of another training; one line says what to do.
    """
    recorded = {**made_from, "recipe": json_digest({**asdict(recipe), "steps": None})}
    optimisers = make_optimisers(model, recipe)
    first, seconds = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        found = state.get("made_from", {})
        differing = [name for name, digest in recorded.items() if found.get(name) != digest]
        if differing:
            raise SystemExit(
                f"{state_file} is the state of a training with other {', '.join(differing)}: "
                "remove it to begin anew, or give another --work"
            )
        if state["steps"] != recipe.steps and state["step"] > recipe.fall(state["steps"]):
            raise SystemExit(
                f"{state_file} is of step {state['step']} of {state['steps']}, when the learning "
                "rate was falling already: give --steps as then, or remove it to begin anew"
            )
        model.load_state_dict(state["model"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        first, seconds = int(state["step"]), float(state["seconds"])
        log(f"resumed at step {first} of {recipe.steps}")
        if first >= recipe.steps:
            log(f"nothing is left to train: remove {state_file} to begin anew")
    model.train()
    before, saved = seconds, time.monotonic()
    for step in range(first, recipe.steps):
        started = time.monotonic()
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = recipe.rate(step) * group["share"]
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        # bfloat16 products; attention as plain products, since the fused kernel's backward pass
        # on the CPU takes longer in bfloat16 than all the rest.
        with torch.autocast("cpu", torch.bfloat16, recipe.mixed), sdpa_kernel(SDPBackend.MATH):
            loss = loss_of(np.random.default_rng((recipe.seed, step)), step)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with one_thread():
            for optimiser in optimisers:
                optimiser.step()
        done = step + 1
        seconds += time.monotonic() - started
        if done % 100 == 0:
            left = (seconds - before) / (done - first) * (recipe.steps - done) / 60
            log(f"step {done}/{recipe.steps} loss {loss.item():.4f} eta {left:.1f} min")
        if report is not None and (done % every == 0 or done == recipe.steps):
            model.eval()
            with torch.no_grad():
                log(f"step {done}, {seconds / 60:.1f} min of training, held out: {report(done)}")
            model.train()
        if time.monotonic() - saved > save_every or done == recipe.steps:
            counts = {"step": done, "steps": recipe.steps, "seconds": seconds}
            save_state(state_file, model, optimisers, counts, recorded)
            saved = time.monotonic()
    export()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: for many small products others cost more to wake than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where the recipe asks for it; each group has its `share` of the rate."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and recipe.muon}
    weights = list(model.parameters())
    matrices = [p for p in weights if id(p) in linear]
    decayed = [p for p in weights if id(p) not in linear and p.ndim >= 2]
    plain = [p for p in weights if p.ndim < 2]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay, "share": 1.0},
                {"params": plain, "weight_decay": 0.0, "share": 1.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
    ]
    if matrices:
        made.append(
            torch.optim.Muon(
                [{"params": matrices, "share": recipe.muon}],
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return made


def origin(name: str, data: Path, arguments: argparse.Namespace) -> dict[str, str]:
    """Digests of what a model's weights are made of: code, settings, architecture, data, teacher.

    Args:
        name: `clip`, `sam` or `encoder`.
        data: folder of `samples.materialise`.
        arguments: of the script; where things lie, how many threads compute and how many steps are
            done is left out. Of weights to go on from (`start`) the digest counts.
    """
    code = [Path(__file__).parents[1] / file for file in (f"pretraining/{name}.py", *_SHARED)]
    settings = {k: v for k, v in vars(arguments).items() if k not in _OUTWARD}
    if (start := settings.get("start")) is not None:
        settings["start"] = file_digest(start)
    return {
        "code": code_digest(code),
        "settings": json_digest(settings),
        "architecture": json_digest(architecture(name)),
        "data": file_digest(data / DONE),
        **({} if name == "encoder" else {"teacher": file_digest(FOLDER / "encoder.safetensors")}),
    }


def export_weights(module: nn.Module, file: Path) -> None:
    """Write a module's weights as safetensors, atomically."""
    weights = {k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}
    write_atomically(file, save(weights))


def save_state(
    state_file: Path,
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    counts: Mapping[str, float],
    made_from: Mapping[str, str],
) -> None:
    """Write the training state atomically.

    `counts`: the `step` reached, of how many `steps`, and the `seconds` spent on them in all runs.
    """
    state = {
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "made_from": dict(made_from),
        **counts,
    }
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(state_file, content.getvalue())
