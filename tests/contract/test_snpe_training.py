"""Training is reproducible to the last bit, killed or not, and its files hold arrays alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from chainsweep.config.sections import VerdictSection
from chainsweep.engines.base import Inputs, Status
from chainsweep.engines.snpe import engine as snpe
from chainsweep.engines.snpe import trainer
from chainsweep.engines.snpe.designs import usable_designs
from chainsweep.engines.snpe.job import HISTORY, Job
from chainsweep.engines.snpe.network import Trained, architecture_of, fit_encoder
from chainsweep.engines.snpe.simulator import Bank, FreshSimulations, Simulator
from chainsweep.engines.snpe.trainer import Trainer, fit
from chainsweep.errors import InputError, ModelError, UnavailableError
from chainsweep.numerics.seeds import Seeds
from tests.engine_settings import changed
from tests.snpe_lines import (
    HOST_MODEL,
    TINY,
    MemorySink,
    after,
    differing,
    line_batch,
    line_problem,
    never,
)

OVERFLOW = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    numpyro.sample("obs", dist.LogNormal(1e4 + a * x, y_err), obs=y)
"""


def train(problem, batch, settings=TINY, seed=5, sink=None, resume=None, deadline=never):
    sink = sink if sink is not None else MemorySink()
    return snpe.train(problem, batch, settings, seed, sink=sink, resume=resume, deadline=deadline)


@pytest.fixture(scope="module", autouse=True)
def saved_often():
    """Four times in a training of `TINY`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHECKPOINT_STEPS", 10)
        yield


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return line_problem(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def straight(problem):
    """A training run that nothing disturbs, and its checkpoints."""
    sink = MemorySink()
    return train(problem, line_batch(4), sink=sink), sink


@pytest.fixture(scope="module")
def parts(problem):
    """What `train` hands to a Trainer."""
    batches, spaces = usable_designs(problem, [line_batch(4)])
    simulators = [Simulator(problem, batches[0], 5)]
    encoder = fit_encoder(problem, batches, spaces, [simulators[0].rows(9, 256)], TINY.tuning.grid)
    provider = FreshSimulations(simulators, spaces, encoder)
    return provider, architecture_of(problem, encoder, TINY)


def trainer_after(parts, steps, seed=5, state=None):
    trainer = Trainer(*parts, TINY, seed)
    if state is not None:
        trainer.restore(state)
    while trainer.progress.step < steps:
        trainer.step_once()
    return trainer


def test_networks_of_an_ensemble_are_trained_apart_and_work_together(problem):
    batch = line_batch(4)
    settings = changed(TINY, ensemble=2)
    arguments = {"sink": MemorySink(), "resume": None, "deadline": never}
    members = [snpe.train(problem, batch, settings, 5, member=k, **arguments) for k in (0, 1)]
    assert not differing(members[0].encoder, members[1].encoder)
    assert len(differing(members[0].weights, members[1].weights)) > 10
    assert members[0].history["train_loss"][-1] != members[1].history["train_loss"][-1]
    assert not differing(members[0].weights, snpe.train(problem, batch, settings, 5, **arguments).weights)
    whole = snpe.join(problem, [batch], members, settings, 5, sink=MemorySink(), deadline=never)
    assert set(whole.weights) == {f"{k}/{name}" for k in (0, 1) for name in members[0].weights}
    assert not np.array_equal(whole.calibration["rank"], members[0].calibration["rank"])
    back = Trained.from_arrays(load(save({name: np.array(v, order="C") for name, v in whole.arrays().items()})))
    assert not differing(back.arrays(), whole.arrays())
    arguments |= {"limits": VerdictSection(), "inputs": Inputs(trained=back)}
    chains = snpe.run(problem, batch, settings, Seeds(2, "snpe"), **arguments).chains
    assert not chains.failures
    assert np.all(chains.info["is_efficiency"] * settings.draws > 1)


def test_simulations_made_ahead_are_those_of_their_number(parts):
    trainer = Trainer(*parts, TINY, 5)
    plain = [trainer.provider.block(number, 64)[1] for number in (1, 2, 3)]
    with ThreadPoolExecutor(1) as trainer.background:
        ahead = [trainer._made(number, 64)[1] for number in (1, 2, 3)]
    for first, second in zip(plain, ahead, strict=True):
        np.testing.assert_array_equal(first, second)
    assert list(trainer.coming) == [4]


def test_same_seed_same_weights_another_seed_others(parts):
    first, second = trainer_after(parts, 12).arrays(), trainer_after(parts, 12).arrays()
    assert not differing(first, second)
    assert differing(first, trainer_after(parts, 12, seed=6).arrays())


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_resumed_at_any_step_the_state_is_the_same_bits(parts, stop):
    state = trainer_after(parts, stop).arrays()
    again = trainer_after(parts, 21, state=state)
    assert not differing(trainer_after(parts, 21).arrays(), again.arrays())


def test_a_state_of_other_weights_gives_other_weights(parts):
    state = trainer_after(parts, 7).arrays()
    spoiled = {name: v + 1e-3 if name.startswith("exp_avg/") else v for name, v in state.items()}
    assert differing(trainer_after(parts, 9).arrays(), trainer_after(parts, 9, state=spoiled).arrays())


def test_steps_without_numbers_change_nothing_and_too_many_are_an_error(parts, monkeypatch):
    trainer = trainer_after(parts, 5)
    before = trainer.best_weights()
    nan_loss = lambda w, packed: trainer.parameters[0].sum().expand(len(w)) * torch.nan  # noqa: E731
    monkeypatch.setattr(trainer.estimator, "loss", nan_loss)
    trainer.step_once()
    assert trainer.progress.skipped == 1
    assert not differing(before, trainer.best_weights())
    job = Job(None, changed(TINY, train_steps=100), 5, MemorySink(), never, "cpu")
    trainer.settings = job.settings
    monkeypatch.setattr(trainer, "record", lambda: trainer.progress.history.append((0.0,) * len(HISTORY)))
    with pytest.raises(ModelError, match="loss that is no number"):
        fit(trainer, job, kept={})


def test_stopped_at_a_deadline_and_continued_the_weights_are_the_same_bits(problem, straight):
    sink = MemorySink()
    assert train(problem, line_batch(4), sink=sink, deadline=after(17)) is None
    assert int(sink.states[-1]["progress/step"]) == 17
    again = train(problem, line_batch(4), resume=sink.states[-1])
    assert not differing(straight[0].arrays(), again.arrays())


def test_training_ends_early_when_the_held_out_loss_stands_still(problem, straight):
    patient = train(problem, line_batch(4), changed(TINY, stop_after=19, train_steps=40))
    assert not differing(patient.weights, straight[0].weights)
    wild = changed(TINY, stop_after=1, learning_rate=0.3, train_steps=200)
    history = train(problem, line_batch(4), wild).history
    assert history["step"][-1] < 200
    assert history["validation_loss"][-1] >= history["validation_loss"][-2]


def test_history_has_losses_that_fall_and_rates_that_decay(straight):
    history = straight[0].history
    assert history["validation_loss"][-1] < history["validation_loss"][0]
    assert history["learning_rate"][-1] < 0.05 * history["learning_rate"].max()
    assert history["simulations"][-1] == TINY.train_steps * TINY.tuning.batch


def test_trained_network_survives_safetensors(problem, straight):
    arrays = straight[0].arrays()
    again = Trained.from_arrays(load(save(arrays)))
    assert not differing(arrays, again.arrays())
    first, second = (weighted(problem, trained) for trained in (straight[0], again))
    np.testing.assert_array_equal(first.theta, second.theta)
    del arrays["architecture/hidden"]
    with pytest.raises(InputError, match="history"):
        Trained.from_arrays({name: v for name, v in arrays.items() if not name.startswith("history")})


def weighted(problem, trained, batch=None, **options):
    options = {"limits": VerdictSection(), "sink": MemorySink(), "resume": None, "deadline": never} | options
    batch = batch if batch is not None else line_batch(4)
    return snpe.run(problem, batch, TINY, Seeds(1, "snpe"), inputs=Inputs(trained=trained), **options).chains


def test_stopped_inference_continues_to_the_same_draws(problem, straight, monkeypatch):
    monkeypatch.setattr(snpe, "GROUP", 2)
    whole = weighted(problem, straight[0])
    sink = MemorySink()
    arguments = {
        "limits": VerdictSection(),
        "sink": sink,
        "resume": None,
        "deadline": after(1),
        "inputs": Inputs(trained=straight[0]),
    }
    stopped = snpe.run(problem, line_batch(4), TINY, Seeds(1, "snpe"), **arguments)
    assert stopped.status is Status.STOPPED
    assert int(sink.states[-1]["done"]) == 2
    continued = weighted(problem, straight[0], resume=sink.states[-1])
    np.testing.assert_array_equal(whole.theta, continued.theta)
    np.testing.assert_array_equal(whole.sample_stats["log_weight"], continued.sample_stats["log_weight"])


def test_simulations_that_are_no_numbers_are_counted_and_dropped(tmp_path):
    broken = HOST_MODEL.replace("return {", "y_err = np.where(rng.uniform() < 0.1, np.nan, y_err)\n    return {")
    sink = MemorySink()
    trained = train(line_problem(tmp_path, broken), line_batch(4), sink=sink)
    dropped = int(trained.history["dropped"])
    assert 60 < dropped < 140
    assert trained.history["skipped"] == 0
    assert f"simulating; {dropped} of 1000 are no numbers and will be dropped" in sink.notes
    whole = train(line_problem(tmp_path, HOST_MODEL), line_batch(4), sink=MemorySink())
    assert whole.history["dropped"] == 0


def test_nan_in_one_data_set_fails_it_alone(problem, straight):
    batch = line_batch(4)
    good = weighted(problem, straight[0], batch)
    batch.fields["y"][2, 3] = np.nan
    chains = weighted(problem, straight[0], batch)
    assert list(chains.failures) == [2]
    assert "not finite" in chains.failures[2]
    np.testing.assert_array_equal(chains.n_draws, np.where(np.arange(4) == 2, 0, good.n_draws))
    assert np.isnan(chains.info["khat"][2])
    np.testing.assert_allclose(chains.theta[3], good.theta[3], rtol=1e-6)


def test_a_simulator_without_likelihood_gives_unweighted_draws_and_says_so(tmp_path):
    problem = line_problem(tmp_path, HOST_MODEL)
    sink = MemorySink()
    trained = train(problem, line_batch(4), sink=sink)
    assert not differing(trained.arrays(), train(problem, line_batch(4), resume=sink.states[2]).arrays())
    chains = weighted(problem, trained)
    assert (chains.sample_stats["log_weight"] == 0).all()
    assert np.isnan(chains.info["khat"]).all()
    assert (chains.info["exact_weights"] == 0).all()
    assert np.isfinite(chains.theta).all()


def test_any_split_of_the_simulations_gives_the_same_ones_killed_or_not(tmp_path):
    problem, batch = line_problem(tmp_path, HOST_MODEL), line_batch(4)
    settings = changed(TINY, bank_simulations=2000)

    def made(first, last, resume=None, deadline=never, sink=None):
        arguments = {"resume": resume, "deadline": deadline, "sink": sink or MemorySink()}
        return snpe.simulate(problem, [batch], settings, 5, simulations=(first, last), **arguments)

    whole = made(0, 2000)
    assert len(whole["bank/0/z"]) == 2000
    parts = [made(0, 500), made(500, 2000)]
    sink = MemorySink()
    assert made(500, 2000, deadline=after(2), sink=sink) is None
    assert not differing(parts[1], made(500, 2000, resume=sink.states[-1]))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    trained = [
        snpe.train(problem, batch, settings, 5, sink=MemorySink(), resume=None, deadline=never, made=bank)
        for bank in (None, [whole], parts)
    ]
    assert not differing(trained[0].arrays(), trained[1].arrays())
    assert not differing(trained[0].arrays(), trained[2].arrays())


def test_simulations_without_numbers_are_an_error(tmp_path):
    with pytest.raises(ModelError, match="none of 4096 simulated"):
        train(line_problem(tmp_path, OVERFLOW), line_batch(2))


def test_sequential_serves_one_data_set_and_resumes_within_a_round(problem):
    settings = changed(TINY, mode="sequential")
    with pytest.raises(InputError, match="one data set"):
        train(problem, line_batch(2), settings)
    sink = MemorySink()
    trained = train(problem, line_batch(1), settings, sink=sink)
    assert trained.sequential
    again = train(problem, line_batch(1), settings, resume=sink.states[-2])
    assert "progress/step" in sink.states[-2]
    assert not differing(trained.arrays(), again.arrays())
    with pytest.raises(InputError, match="sequential rounds"):
        weighted(problem, trained)


def test_a_network_for_shorter_data_sets_is_refused(problem, straight):
    with pytest.raises(InputError, match="at most 14 points"):
        weighted(problem, straight[0], line_batch(2, width=20))


def test_a_missing_gpu_is_an_error(problem):
    with pytest.raises(UnavailableError, match="cuda:9"):
        snpe.train(problem, line_batch(1), TINY, 1, sink=MemorySink(), resume=None, deadline=never, device="cuda:9")


def test_every_pass_over_a_bank_shows_each_pair_once():
    pairs = np.arange(100, dtype=np.float32)[:, None], np.arange(100, dtype=np.float32)[:, None]
    bank = Bank(pairs, seed=1)
    held_out = bank.block(0, 0)[0]
    seen = np.concatenate([bank.block(number, 30)[1][:, 0] for number in range(1, 7)])
    assert len(held_out) == 10
    assert sorted(seen[:90]) == sorted(seen[90:]) == list(range(10, 100))
    assert list(seen[:90]) != list(seen[90:])
