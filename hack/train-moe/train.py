"""Train the built-in model of the torch_moe engine. See README.md beside this file.

Two rules make a short run on one CPU core worth having. Hidden matrices step along their orthogonalised
momentum (each singular value of the update is made about 1), embeddings, norms and routers by Adam; and
the learning rate follows the clock, not a number of steps: it warms up, stays, and falls to zero as the
time limit comes, so a slower machine gets a shorter run, never an unfinished one. Experts are balanced
without an auxiliary loss: after each step the router's bias of an expert with too many tokens goes down a
little, and up for one with too few.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator
from pathlib import Path

import torch
from corpus import END_OF_TEXT, read_documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from hortator.worker.engines.torch_moe.assets import builtin_tokenizer_path, builtin_weights_path
from hortator.worker.engines.torch_moe.reference import ReferenceLayer, ReferenceModel
from hortator.worker.engines.torch_moe.shape import ModelShape

_BATCH_TOKENS = 4096
_SHORT_TOKENS, _LONG_TOKENS = 256, 1024
_LONG_FROM = 0.8
_MATRIX_LR, _ADAM_LR, _MATRIX_DECAY = 0.02, 3e-3, 0.1
_COOLDOWN_FROM = 0.35
_BIAS_STEP = 1e-2


def train_tokenizer(documents: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; token 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str], generator: torch.Generator) -> Tensor:
    """All documents in a random order, each behind an end-of-text token, as one long row of ids."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(documents)]
    order = torch.randperm(len(encoded), generator=generator).tolist()
    return torch.tensor([token for index in order for token in [end, *encoded[index]]])


def batches(stream: Tensor, generator: torch.Generator) -> Generator[Tensor, int | None, None]:
    """Windows [rows, tokens + 1] of the stream; `send(tokens)` sets the length of the next window."""
    length = _SHORT_TOKENS
    offsets: list[int] = []
    while True:
        rows = _BATCH_TOKENS // length
        while len(offsets) < rows:  # a new epoch: every window once, from a random phase
            phase = int(torch.randint(length, (1,), generator=generator))
            starts = torch.arange(phase, len(stream) - length - 1, length)
            offsets += starts[torch.randperm(len(starts), generator=generator)].tolist()
        taken, offsets = offsets[:rows], offsets[rows:]
        wanted = yield torch.stack([stream[start : start + length + 1] for start in taken])
        if wanted is not None and wanted != length:
            length, offsets = wanted, []


def loss_of(model: ReferenceModel, window: Tensor) -> Tensor:
    """Mean cross entropy in nats per token."""
    logits = model(window[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def validate(model: ReferenceModel, stream: Tensor) -> float:
    """Mean loss over the validation stream in windows of 512 tokens."""
    windows = [stream[start : start + 513] for start in range(0, len(stream) - 513, 512)]
    losses = [loss_of(model, torch.stack(windows[i : i + 4])).item() for i in range(0, len(windows) - 3, 4)]
    return sum(losses) / len(losses)


def orthogonalise(update: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards U V^T of each matrix in [..., rows, columns]."""
    x = update if update.shape[-2] <= update.shape[-1] else update.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if update.shape[-2] <= update.shape[-1] else x.mT


class MatrixMomentum:
    """Steps hidden matrices along their orthogonalised Nesterov momentum, with decoupled weight decay."""

    def __init__(self, matrices: list[Tensor]) -> None:
        self._momenta = [(matrix, torch.zeros_like(matrix)) for matrix in matrices]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step; gradients are cleared."""
        for matrix, momentum in self._momenta:
            if matrix.grad is None:
                continue
            momentum.lerp_(matrix.grad, 0.05)
            update = orthogonalise(matrix.grad.lerp(momentum, 0.95))
            scale = max(1.0, matrix.shape[-2] / matrix.shape[-1]) ** 0.5
            matrix.mul_(1 - lr * _MATRIX_DECAY).add_(update, alpha=-lr * scale)
            matrix.grad = None


def balance_experts(model: ReferenceModel, step: float) -> float:
    """Nudge the router biases; returns the worst ratio of an expert's tokens to the mean."""
    worst = 1.0
    for layer in model.layers:
        if isinstance(layer, ReferenceLayer) and not layer.is_dense:
            counts = layer.expert_counts
            layer.get_buffer("router_bias").add_(step * torch.sign(counts.mean() - counts))
            worst = max(worst, (counts.max() / counts.mean()).item())
    return worst


def train(model: ReferenceModel, stream: Tensor, checkpoint: Path, args: argparse.Namespace) -> int:
    """Run until the time limit (or `--steps`); returns the number of tokens seen."""
    is_matrix = {
        name: p.ndim >= 2 and name != "embed" and "router" not in name for name, p in model.named_parameters()
    }
    matrices = MatrixMomentum([p for name, p in model.named_parameters() if is_matrix[name]])
    others = [p for name, p in model.named_parameters() if not is_matrix[name]]
    adam = torch.optim.Adam(others, betas=(0.9, 0.95), eps=1e-10)
    windows = batches(stream, torch.Generator().manual_seed(args.seed + 1))
    started, saved, step, tokens = time.monotonic(), time.monotonic(), 0, 0
    window = next(windows)
    while True:
        elapsed = time.monotonic() - started
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            return tokens
        factor = min(1.0, (step + 1) / 50, (1 - progress) / (1 - _COOLDOWN_FROM))
        loss = loss_of(model, window)
        loss.backward()
        matrices.step(_MATRIX_LR * factor)
        adam.param_groups[0]["lr"] = _ADAM_LR * factor
        adam.step()
        adam.zero_grad()
        worst = balance_experts(model, _BIAS_STEP * factor)
        step, tokens = step + 1, tokens + window[:, 1:].numel()
        if step % 50 == 0:
            print(
                f"{elapsed / 60:5.1f} min  step {step}  loss {loss.item():.3f}  tokens {tokens / 1e6:.2f} M"
                f"  fullest expert {worst:.2f}x",
                flush=True,
            )
        if time.monotonic() - saved > 240:
            model.save(checkpoint)
            saved = time.monotonic()
        window = windows.send(_LONG_TOKENS if progress >= _LONG_FROM else _SHORT_TOKENS)


@torch.no_grad()
def sample(
    model: ReferenceModel, tokenizer: Tokenizer, prompt: str, num_tokens: int, generator: torch.Generator
) -> str:
    """A continuation at temperature 0.7, to judge by eye."""
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    for _ in range(num_tokens):
        probabilities = torch.softmax(model(ids)[0, -1] / 0.7, dim=-1)
        ids = torch.cat((ids, torch.multinomial(probabilities, 1, generator=generator)[None]), dim=1)
    return str(tokenizer.decode(ids[0].tolist()))


def main() -> None:
    """Train, validate, write weights and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=33.0, help="wall-clock limit of the training loop")
    parser.add_argument(
        "--steps", type=int, default=0, help="stop after this many steps instead (exactly repeatable)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=builtin_weights_path(), help="weight file to write")
    parser.add_argument(
        "--tokenizer", type=Path, default=builtin_tokenizer_path(), help="tokenizer file to write"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    training, validation = read_documents()
    shape = ModelShape()
    tokenizer = train_tokenizer(training, shape.vocab_size)
    tokenizer.save(str(args.tokenizer))
    generator = torch.Generator().manual_seed(args.seed)
    stream, held_out = encode(tokenizer, training, generator), encode(tokenizer, validation, generator)
    model = ReferenceModel(shape)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{num_parameters / 1e6:.2f} M parameters, {len(stream) / 1e6:.2f} M training tokens,"
        f" {len(held_out)} held out"
    )
    tokens = train(model, stream, args.out, args)
    model.save(args.out)
    model = ReferenceModel.load(args.out)
    print(f"validation loss {validate(model, held_out):.4f} nats/token after {tokens} tokens")
    print(f"{args.out.name}: {args.out.stat().st_size} bytes")
    print(sample(model, tokenizer, "HAMLET.\n", 150, generator))


if __name__ == "__main__":
    main()
