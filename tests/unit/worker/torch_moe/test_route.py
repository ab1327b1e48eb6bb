"""Which experts a token takes: a step function of its scores, so the smallest difference and every tie matter."""

import pytest

torch = pytest.importorskip("torch")

from hortator.worker.engines.torch_moe.layers import route  # noqa: E402

pytestmark = [pytest.mark.torch]


def _route(rows, x, *, k, bias=None):
    """Experts and weights of one token: `rows` are the router's, one per expert; everything is float32."""
    router = torch.tensor(rows, dtype=torch.float32)
    bias = torch.zeros(len(rows)) if bias is None else torch.tensor(bias, dtype=torch.float32)
    experts, weights = route(torch.tensor([x], dtype=torch.float32), router, bias, k)
    return experts[0].tolist(), weights[0].tolist()


@pytest.mark.parametrize("num_experts", [4, 64])
def test_among_equal_scores_the_lower_expert_wins(num_experts):
    """Many of them, because an unstable sort keeps the order of a few."""
    experts, weights = _route([[0.5, 0.0]] * num_experts, [1.0, 1.0], k=3)
    assert experts == [0, 1, 2]
    assert weights == pytest.approx([1 / 3] * 3)


def test_a_tie_below_a_winner_goes_to_the_lower_expert():
    experts, _ = _route([[0.1, 0.0], [0.5, 0.0], [0.1, 0.0], [0.9, 0.0], [0.1, 0.0]], [1.0, 1.0], k=4)
    assert experts == [3, 1, 0, 2]


def test_scores_a_million_millionth_apart_are_ordered_as_float64_says():
    """Logits 0.5 and 0.5 + 2^-38: sigmoid has the slope 0.235 there, so scores 8.6e-13 apart. In float32 a tie."""
    difference = 2.0**-38
    score = torch.sigmoid(torch.tensor([0.5, 0.5 + difference], dtype=torch.float64))
    assert 5e-13 < (score[1] - score[0]).item() < 1e-12
    assert (torch.tensor(0.5) + torch.tensor(difference)).item() == 0.5
    experts, _ = _route([[0.5, 0.0], [0.5, 1.0], [0.5, 0.0], [0.5, 2.0]], [1.0, difference], k=4)
    assert experts == [3, 1, 0, 2]


def test_the_bias_decides_who_is_taken_and_not_what_it_weighs():
    """Scores 0.5 and sigmoid(1) = 0.731: expert 0 is taken for its bias, and weighs 0.5 / (0.5 + 0.731)."""
    experts, weights = _route([[0.0], [1.0], [0.5]], [1.0], k=2, bias=[1.0, 0.0, -1.0])
    assert experts == [0, 1]
    assert weights == pytest.approx([0.406154, 0.593846], abs=1e-6)
    assert sum(weights) == pytest.approx(1.0)
