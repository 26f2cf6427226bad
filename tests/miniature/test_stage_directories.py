"""Stages are done once, and what others have made is not touched."""

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.miniature.stage_directories import StageDirectories


def run_stages(output, settings, *, fails=False, **options):
    """What was done, and what was told."""
    done, told = [], []

    def work(directory):
        assert list(directory.glob("*.txt")) == []
        (directory / "made.txt").write_text(str(settings))
        if fails and directory.name == "b":
            raise RuntimeError("killed")
        done.append(directory.name)

    stages = StageDirectories(output, ("a", "b"), settings, told.append, **options)
    for name in ("a", "b"):
        stages.run(name, f"Making {name}", work)
    assert set(stages.seconds) == {"a", "b"}
    return done, told


def test_a_stage_is_done_once(tmp_path):
    assert run_stages(tmp_path, {"seed": 0}) == (["a", "b"], ["Making a.", "Making b."])
    done, told = run_stages(tmp_path, {"seed": 0})
    assert done == []
    assert told == [f"Making {name}: done before, in {tmp_path / name}." for name in ("a", "b")]


def test_an_unfinished_stage_begins_again(tmp_path):
    with pytest.raises(RuntimeError):
        run_stages(tmp_path, {"seed": 0}, fails=True)
    done, told = run_stages(tmp_path, {"seed": 0})
    assert done == ["b"]
    assert told[1] == "Making b, in place of an unfinished or different one."


def test_other_settings_and_directories_of_others_are_refused(tmp_path):
    run_stages(tmp_path, {"seed": 0})
    with pytest.raises(ConfigError, match=r"seed.*--overwrite"):
        run_stages(tmp_path, {"seed": 1})
    assert run_stages(tmp_path, {"seed": 1}, overwrite=True)[0] == ["a", "b"]
    (tmp_path / "b" / StageDirectories.MARK).unlink()
    with pytest.raises(ConfigError, match="was not made by a quickstart"):
        run_stages(tmp_path, {"seed": 1}, overwrite=True)
