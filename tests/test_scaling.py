"""The study of scaling: its fit against laws that are known, against another minimiser, and against an outlier."""

import json

import numpy as np
import pytest
import torch

from recipes.scaling import run as study_run
from recipes.scaling.law import HUBER, Law, fit_law
from recipes.scaling.run import TRIAL, Reached, Run, Study, fitted, reach, study_of, table

CHINCHILLA = Law(0.25, (30.0, 12.0), (0.45, 0.35))
GRID = np.array([(n, d) for n in (7e5, 1.4e6, 2.8e6, 5.6e6) for d in (3e3, 6e3, 1.2e4, 2.4e4, 4.8e4)])
LARGEST = np.array([[1.2e7, 1e5]])  # twice of each


def noisy(law: Law, axes: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    return law(axes) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(axes)))


def test_a_law_by_hand():
    # 0.5 + 8/2 + 3/3
    assert Law(0.5, (8.0, 3.0), (0.5, 0.5))([[4, 9]]) == pytest.approx([5.5], abs=1e-12)


def test_a_law_without_noise_is_found():
    found = fit_law(GRID, CHINCHILLA(GRID), resamples=1).law
    assert found.floor == pytest.approx(0.25, rel=1e-4)
    assert found.scales == pytest.approx((30.0, 12.0), rel=1e-3)
    assert found.exponents == pytest.approx((0.45, 0.35), rel=1e-4)
    three = Law(0.2, (40.0, 6.0, 9.0), (0.5, 0.4, 0.7))
    axes = np.array([(n, d, s) for n in (1e5, 4e5, 1.6e6) for d in (500, 1500, 4500) for s in (100, 300, 900)])
    found = fit_law(axes, three(axes), resamples=1).law
    assert (found.floor, *found.exponents) == pytest.approx((0.2, 0.5, 0.4, 0.7), rel=1e-3)


def test_from_noisy_runs_it_tells_the_largest_one_and_how_sure_it_is():
    """Of six studies with half a percent of noise; the intervals of most hold the truth."""
    truth, held = CHINCHILLA(LARGEST)[0], 0
    for seed in range(6):
        fit = fit_law(GRID, noisy(CHINCHILLA, GRID, 0.005, seed), resamples=60, seed=seed)
        assert abs(fit.law(LARGEST)[0] / truth - 1) < 0.03
        low, high = fit.interval([law(LARGEST)[0] for law in fit.resampled])
        assert low < high
        held += low <= truth <= high
    assert held >= 4  # at 95% fewer would be rare


def test_no_exponent_is_negative_where_losses_rise_along_an_axis():
    """Runs that see more pictures in as few steps end a little higher: the law of the rest holds beyond them."""
    truth = Law(0.0, (8.0,), (0.8,))
    grid = [(pictures, steps) for pictures in (750.0, 1500.0, 3000.0) for steps in (100.0, 200.0, 400.0)]
    axes = np.array(grid)
    losses = truth(axes[:, 1:]) * (axes[:, 0] / 750) ** 0.03
    fit = fit_law(axes, losses, resamples=20, seed=0)
    assert min(min(law.exponents) for law in (fit.law, *fit.resampled)) >= 0
    told = float(fit.law([(6000.0, 800.0)])[0])
    assert told == pytest.approx(float(truth([(800.0,)])[0]), rel=0.1)


def test_it_is_the_least_that_another_minimiser_finds():
    losses = noisy(CHINCHILLA, GRID, 0.02)
    fit = fit_law(GRID, losses, resamples=1)
    logs, target = torch.tensor(np.log(GRID)), torch.tensor(np.log(losses))
    law = CHINCHILLA
    start = [np.log(law.floor), *np.log(law.scales), *law.exponents]
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        predicted = torch.log(theta[0].exp() + (theta[1:3] - theta[3:] * logs).exp().sum(1))
        loss = torch.nn.functional.huber_loss(predicted, target, delta=HUBER)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit.error <= float(closure().detach()) * (1 + 1e-6)
    predicted = np.log(fit.law(GRID))
    assert fit.error == pytest.approx(
        float(torch.nn.functional.huber_loss(torch.tensor(predicted), target, delta=HUBER)), rel=1e-9
    )


def test_a_run_that_failed_moves_it_little():
    losses = noisy(CHINCHILLA, GRID, 0.003)
    losses[7] *= 2
    assert fit_law(GRID, losses, resamples=1).law(LARGEST)[0] == pytest.approx(CHINCHILLA(LARGEST)[0], rel=0.02)


def test_the_same_seed_gives_the_same_intervals():
    losses = noisy(CHINCHILLA, GRID, 0.01)
    first, again, other = (fit_law(GRID, losses, resamples=5, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.law == other.law and first.resampled != other.resampled


@pytest.mark.parametrize(
    ("axes", "losses", "message"),
    [
        ([[1, 2]] * 4, [1] * 4, "5 numbers"),
        ([[1, 2]] * 6, [1] * 6, "axis 0"),
        ([[i, 0] for i in range(1, 7)], [1] * 6, "positive"),
        ([[1, 2]], [1, 2], "axes are"),
    ],
)
def test_what_cannot_be_fitted(axes, losses, message):
    with pytest.raises(ValueError, match=message):
        fit_law(axes, losses, resamples=1)


REPEATED = Law(0.1, (20.0, 5.0, 8.0), (0.45, 0.4, 0.8))


def reached(run: Run, study: Study, output, seed: int) -> Reached:
    """What a run of a known law reaches."""
    parameters = 350_000 * run.width
    loss = REPEATED([[parameters, run.pictures, run.steps]])[0]
    return Reached(run, parameters, run.steps * study.batch_size, float(loss))


def test_a_study_tells_its_largest_run_which_no_fit_has_seen(tmp_path):
    found = study_of(Study(), tmp_path, 0, reached, resamples=5)
    assert len(found["runs"]) == 27 and found["largest"]["run"] not in [own["run"] for own in found["runs"]]
    law = found["laws"]["repeated"]
    assert law["floor"]["value"] == pytest.approx(0.1, rel=1e-2)
    assert [own["value"] for own in law["exponents"]] == pytest.approx([0.45, 0.4, 0.8], rel=1e-2)
    assert abs(law["largest"]["error"]) < 1e-3 < found["best_that_was_fitted"]["error"]
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(found))
    for name in found["laws"]:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "parameters, pictures, steps" in table(found)

    runs, lucky = [reached(own, Study(), tmp_path, 0) for own in Study().runs()], dict(found["largest"], loss=0.05)
    _, other = fitted(law["axes"], runs, Reached(**{**lucky, "run": Study().largest}), seed=0, resamples=5)
    assert other["floor"] == law["floor"] and other["largest"]["value"] == law["largest"]["value"]
    assert other["largest"]["error"] == pytest.approx(found["largest"]["loss"] / 0.05 - 1, rel=1e-2)


def test_the_largest_run_is_beyond_all_others():
    for study in (Study(), TRIAL):
        for axis in ("width", "pictures", "steps"):
            assert getattr(study.largest, axis) > max(getattr(own, axis) for own in study.runs())


def test_a_finished_run_is_read_and_not_trained_again(tmp_path, monkeypatch):
    """One step of the smallest run; afterwards nothing that trains is there any more."""
    study = Study((2,), (8,), (1,), Run(2, 8, 1), batch_size=2, held_out=4)
    first = reach(study.largest, study, tmp_path, 0)
    left = {path.name for path in (tmp_path / "runs").glob("*/*")}
    assert "reached.json" in left and not left & {"model", "checkpoints"}
    monkeypatch.delattr(study_run, "train")
    assert reach(study.largest, study, tmp_path, 0) == first
    with pytest.raises(NameError):
        reach(study.largest, study, tmp_path, 1)
