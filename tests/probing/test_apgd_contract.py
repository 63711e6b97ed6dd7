"""Contract with AutoAttack's APGD: as many images fall, on networks with linear heads.

The library pyautoattack is optional: ``pip install --no-deps pyautoattack`` (MIT).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from criticalmass.extraction.balls import make_ball
from criticalmass.probing.ensembles import Examples, OneHead, TorchHead, attack_defence
from criticalmass.probing.loop import Budget

apgd = pytest.importorskip(
    "pyautoattack.autopgd_base", reason="NOT TESTED: pyautoattack is not installed"
)
STEPS, N_IMAGES, N_CLASSES, WIDTH = 30, 80, 5, 32
SHAPE = (3, 6, 6)


def network(seed: int) -> tuple[nn.Module, OneHead]:
    """A random network of two hidden layers, and its last layer as a defence."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(108, 64), nn.ReLU(), nn.Linear(64, WIDTH), nn.ReLU()
        ).eval()
        for layer in (body[1], body[3]):
            nn.init.normal_(layer.weight, std=0.3)
        # Moved by the mean of pixels, so that the classes differ.
        nn.init.zeros_(body[1].bias)
        body[1].bias.data -= 0.5 * body[1].weight.sum(dim=1)
        weight = torch.randn(N_CLASSES, WIDTH)
    return body, OneHead("", [TorchHead(torch.arange(WIDTH), weight, torch.zeros(N_CLASSES))])


@pytest.mark.parametrize(("norm", "theirs", "radius"), [("l2", "L2", 0.2), ("linf", "Linf", 0.02)])
def test_as_many_images_fall_as_under_autoattacks_apgd(
    norm: str, theirs: str, radius: float
) -> None:
    body, defence = network(1)
    images = torch.rand(N_IMAGES, *SHAPE, generator=torch.Generator().manual_seed(2))

    def logits(x: Tensor) -> Tensor:
        return defence.scores(body(x))

    with torch.no_grad():
        labels = logits(images).argmax(dim=1)
    ours = attack_defence(
        defence, Examples(body, images, labels), make_ball(norm, radius), Budget(STEPS),
        generator=torch.Generator().manual_seed(0),
    ).is_right  # fmt: skip
    right = torch.ones(N_IMAGES, dtype=torch.bool)
    for loss in ("ce", "dlr"):
        attack = apgd.APGDAttack(
            logits, n_iter=STEPS, norm=theirs, eps=radius, loss=loss, device="cpu"
        )
        found = attack.perturb(images, labels)
        with torch.no_grad():
            right &= logits(found).argmax(dim=1) == labels
    assert 0.2 < right.float().mean() < 0.9, "the radius must decide"
    # Random starting points differ; the margin of two images is what they change here.
    assert int((ours & ~right).sum()) <= 2
    assert int(ours.sum()) <= int(right.sum()) + 1
