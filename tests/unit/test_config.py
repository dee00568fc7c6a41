"""campaign.toml: defaults, and errors that name file, key and what is valid."""

from __future__ import annotations

import pytest

from chainsweep.campaign.config import CampaignConfig, load_config, parse_config
from chainsweep.config.old_keys import OLD_KEYS
from chainsweep.errors import ConfigError

MINIMAL = {"model": {"file": "model.py"}, "data": {"fields": {"x": "x", "y": "y"}}}


def test_everything_but_model_and_data_has_a_default():
    config = parse_config(MINIMAL, "campaign.toml")
    assert config.policy.engines == ["emcee", "nuts", "snpe"]
    assert config.verdict.rhat == 1.01
    assert config.store.max_draws == 1000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"modle": {}}, ["campaign.toml", "unknown key 'modle'", "the top level", "model", "policy"]),
        ({"verdict": {"r_hat": 1.1}}, ["unknown key 'r_hat'", "[verdict]", "rhat, ess, khat"]),
        ({"engines": {"nuts": {"chain": 4}}}, ["unknown key 'chain'", "[engines.nuts]", "chains", "warmup"]),
        ({"engines": {"hmc": {}}}, ["unknown key 'hmc'", "[engines]", "emcee, nuts, snpe"]),
        (
            {"policy": {"engines": ["nuts", "gibbs"]}},
            ["policy.engines.1", "'emcee', 'nuts' or 'snpe'", "gibbs"],
        ),
        ({"policy": {"engines": ["nuts", "nuts"]}}, ["named once"]),
        ({"verdict": {"rhat": 0.9}}, ["verdict.rhat", "greater than 1", "0.9"]),
        ({"model": {}}, ["missing key 'model.file'"]),
        ({"campaign": {"name": "a b; rm"}}, ["campaign.name"]),
    ],
)
def test_errors_say_where_and_what(change, expected):
    with pytest.raises(ConfigError) as raised:
        parse_config({**MINIMAL, **change}, "campaign.toml")
    for text in expected:
        assert text in str(raised.value)


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_is_told_what_took_its_place(key):
    table, name = key.removeprefix("engines.").split(".")
    with pytest.raises(ConfigError) as raised:
        parse_config({**MINIMAL, "engines": {table: {name: 1}}}, "campaign.toml")
    assert str(raised.value) == f"campaign.toml: {OLD_KEYS[key]}"
    assert raised.value.exit_code == 65
    moved = OLD_KEYS[key].endswith(f"has moved to [engines.{table}.tuning]")
    assert moved == (name in type(getattr(parse_config(MINIMAL, "").engines, table).tuning).model_fields)


def test_a_resolved_configuration_reads_back_the_same():
    config = parse_config(MINIMAL, "campaign.toml")
    again = CampaignConfig.model_validate(config.model_dump(mode="json"))
    assert again == config


@pytest.mark.parametrize(
    ("content", "expected"), [(b"[model", "not valid TOML"), (b"\xff\xfe", "UTF-8"), (None, "cannot be read")]
)
def test_unreadable_files(tmp_path, content, expected):
    path = tmp_path / "campaign.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        load_config(path)
