"""Balls and steps of the one ascent loop, in both norms: against NumPy loops and closed forms."""

import numpy as np
import pytest
import torch

from statshift.shifts.attacks.ascent import ascend, directions, l2_ball, linf_ball, signs

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("box", [(), (0.0, 1.0)], ids=["free", "box"])
def test_l2_projection_is_the_loop_over_rows(epsilon, box):
    """Offsets far outside, inside, on the border and zero."""
    centre = random(5, 3, 4, 4).sigmoid()
    offsets = random(5, 3, 4, 4, seed=1) * torch.tensor([3.0, 0.01, 1.0, 0.0, 1e3]).view(-1, 1, 1, 1)
    offsets[2] *= epsilon / offsets[2].norm()
    found = l2_ball(centre, epsilon, *box)(centre + offsets).numpy()
    for row, (middle, offset) in enumerate(zip(centre.numpy(), offsets.numpy(), strict=True)):
        length = np.sqrt((offset**2).sum())
        expected = middle + (offset * (epsilon / length) if length > epsilon else offset)
        if box:
            expected = np.minimum(np.maximum(expected, 0), 1)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-12 * max(1, length))


@pytest.mark.parametrize("box", [(), (0.0, 1.0)], ids=["free", "box"])
@pytest.mark.parametrize("ball", [linf_ball, l2_ball])
def test_projections_leave_what_is_inside_and_write_to_nothing(ball, box):
    centre = random(4, 3, 4, 4).sigmoid()
    point = centre + 0.02 * random(4, 3, 4, 4, seed=1)
    point = point.clamp(*box) if box else point
    kept = centre.clone(), point.clone()
    torch.testing.assert_close(ball(centre, 2.0, *box)(point), point, rtol=0, atol=1e-15)
    once = ball(centre, 0.05, *box)(point)
    torch.testing.assert_close(ball(centre, 0.05, *box)(once), once, rtol=0, atol=1e-15)
    assert not torch.equal(once, point)
    assert torch.equal(centre, kept[0])
    assert torch.equal(point, kept[1])


@pytest.mark.parametrize("strength", [1e-42, 1e-30, 1e-20, 1.0, 1e20, 1e30, 3e37])
def test_directions_have_length_1_however_strong_the_gradient(strength):
    """Whose squares vanish or overflow in float32."""
    shape = random(4, 3, 5, 5, seed=2).clamp(-3, 3)
    gradient = (shape * strength).float()
    expected = gradient.double().numpy()
    found = directions(gradient).double().numpy()
    for row in range(4):
        unit = expected[row] / np.sqrt((expected[row] ** 2).sum())
        np.testing.assert_allclose(found[row], unit, rtol=0, atol=2e-7)


def test_a_row_without_direction_gets_no_step_and_the_others_do():
    gradient = random(6, 2, 3, 3, dtype=torch.float32)
    gradient[1] = 0
    gradient[2, 0, 0, 0] = torch.nan
    gradient[3, 1, 2, 2] = torch.inf
    gradient[4, 0, 1, 1] = -torch.inf
    found = directions(gradient)
    assert torch.equal(found[1:5], torch.zeros(4, 2, 3, 3))
    for row in (0, 5):
        torch.testing.assert_close(found[row], gradient[row] / gradient[row].norm())


def test_signs_have_length_1_in_every_place():
    gradient = torch.tensor([1e-42, -1e30, 0.0, torch.nan, torch.inf, -torch.inf])
    assert torch.equal(signs(gradient), torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, -1.0]))


@pytest.mark.parametrize("epsilon", [0.1, 2.0])
def test_the_greatest_of_a_linear_function_in_an_l2_ball(epsilon):
    """Is epsilon along its slope; four steps of 0.5 reach it and no farther."""
    slope, centre = random(3, 2, 4, 4, seed=3) * 100, random(3, 2, 4, 4)
    options = {"steps": 4, "step_size": 0.5, "steepest": directions}
    found = ascend(centre, lambda point: slope, l2_ball(centre, epsilon), **options)
    lengths = np.sqrt((slope.numpy() ** 2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose((found - centre).numpy(), epsilon * slope.numpy() / lengths, rtol=0, atol=1e-12)


def test_steps_climb_a_hill_to_within_a_step_of_its_top():
    """Of -|x - t|^2, by L2 steps: the distance falls by a step each, and then stays within one."""
    top, start = random(2, 1, 3, 3, seed=4), random(2, 1, 3, 3, seed=5)
    points = []

    def gradient(point):
        points.append(point)
        return 2 * (top - point)

    ascend(start, gradient, l2_ball(start, 100.0), steps=200, step_size=0.05, steepest=directions)
    distances = torch.stack([(top - point).flatten(1).norm(dim=1) for point in points])
    steps = torch.arange(200, dtype=torch.float64)[:, None]
    falling = distances[0] - 0.05 * steps
    torch.testing.assert_close(distances[falling > 0], falling[falling > 0], rtol=0, atol=1e-12)
    assert (falling[-1] < 0).all()
    assert (distances[falling <= 0] <= 0.05).all()
