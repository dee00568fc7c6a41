"""Submitting with stand-ins for Slurm's commands: what is sent, when nothing is, and what a lost answer does.

`tests/cluster` does the same on a real Slurm; here every answer, late ones too, comes on demand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.cli.cluster import _status_view
from chainsweep.errors import CampaignError, UnavailableError, UsageError
from chainsweep.slurm import client, submit, watch
from chainsweep.slurm.record import sent_jobs
from chainsweep.slurm.site import Site
from chainsweep.slurm.submit import Selection, plan_submission, submission_lock, submit_campaign
from chainsweep.stages.graph import target_of, tasks_of
from chainsweep.tasks import attempt
from chainsweep.tasks.failures import Kind, read_failure, record_failure
from tests.conftest import LINE_CONFIG, line_data, write_lines

SITE = Site(name="test", device="cpu", sbatch_timeout_s=5)
ALL = Selection(("emcee", "nuts", "snpe"))

SBATCH = r"""#!/bin/bash
# Accepts a script: one line of the queue for each element.
cd "$(dirname "$0")"
if [ -e refuse ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
script=${!#}
id=$(( $(cat next 2>/dev/null || echo 100) )); echo $((id + 1)) > next
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
if [ -n "$last" ]; then for i in $(seq 0 "$last"); do echo "$id|$i|PENDING|$name|Priority|0:00|" >> queue; done
else echo "$id|N/A|PENDING|$name|Dependency|0:00|" >> queue; fi
echo "$*" >> calls
if [ -e slow ]; then rm slow; sleep 60; fi
echo "$id"
"""
SQUEUE = r"""#!/bin/bash
cd "$(dirname "$0")"
if [ -e down ]; then echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; fi
cat queue 2>/dev/null || true
"""
SCONTROL = "#!/bin/bash\nprintf 'MaxArraySize            = 1001\\nMaxJobCount             = 10000\\n'\n"
SCANCEL = r"""#!/bin/bash
cd "$(dirname "$0")"; echo "$*" >> cancelled
for id in "$@"; do sed -i "/^$id|/d" queue; done
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    config = write_lines(folder, LINE_CONFIG + "[shards]\nsize = 2\n", data=line_data(10))
    init_campaign(config, folder / "campaign")
    return folder / "campaign"


@pytest.fixture
def campaign(frozen, tmp_path) -> Campaign:
    subprocess.run(["cp", "-r", str(frozen), str(tmp_path / "campaign")], check=True)
    return Campaign(tmp_path / "campaign")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """The folder of the stand-ins, and of what they remember."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(submit, "LOOKUP_PAUSE_S", 0.05)
    return folder


def calls(slurm: Path) -> list[str]:
    path = slurm / "calls"
    return path.read_text().splitlines() if path.exists() else []


def end_all(slurm: Path, keep: Callable[[str], bool] = lambda line: False) -> None:
    lines = (slurm / "queue").read_text().splitlines()
    (slurm / "queue").write_text("".join(f"{line}\n" for line in lines if keep(line)))


def test_submit_sends_each_job_once_with_its_dependencies(campaign, slurm):
    submission, ids = submit_campaign(campaign, SITE, ALL)
    assert [job.kind for job in submission.jobs] == ["train", "emcee", "nuts", "snpe", "merge", "report"]
    lines = calls(slurm)
    number = {job.kind: ids[job.name] for job in submission.jobs}
    assert f"--dependency=afterany:{number['train']} " in lines[3]
    assert f"--dependency=afterany:{number['merge']} " in lines[5]
    for kind in ("train", "emcee", "nuts", "snpe"):
        assert str(number[kind]) in lines[4]
    recorded = sent_jobs(campaign.paths.jobs)
    assert {job.name: job.job_id for job in recorded} == ids
    assert next(job for job in recorded if job.kind == "nuts").tasks_of(1) == (6,)


def test_a_second_submit_while_jobs_wait_sends_nothing(campaign, slurm):
    submit_campaign(campaign, SITE, ALL)
    before = calls(slurm)
    submission, ids = submit_campaign(campaign, SITE, ALL)
    assert (submission.jobs, ids) == ((), {})
    assert calls(slurm) == before
    assert not campaign.paths.submission(2).exists()


def test_what_ended_without_its_file_is_sent_again_and_nothing_else(campaign, slurm):
    submit_campaign(campaign, SITE, ALL)
    name = next(job.name for job in sent_jobs(campaign.paths.jobs) if job.kind == "nuts")
    end_all(slurm, keep=lambda line: f"|{name}|" not in line or "|3|PENDING" in line)
    submission, _ = submit_campaign(campaign, SITE, ALL)
    kinds = {job.kind: job for job in submission.jobs}
    assert set(kinds) == {"nuts", "merge", "report"}
    assert kinds["nuts"].tasks == (5, 6, 7, 9)
    merge = next(line for line in calls(slurm)[6:] if line.endswith("merge.sbatch"))
    assert "afterany:100:101:102" in merge  # the new merge waits for all that may still publish


def test_a_job_whose_answer_was_lost_is_found_by_its_name_and_not_sent_twice(campaign, slurm):
    (slurm / "slow").touch()
    site = SITE.model_copy(update={"sbatch_timeout_s": 1.0})
    submission, ids = submit_campaign(campaign, site, ALL)
    assert len(ids) == len(submission.jobs) == len(calls(slurm))
    assert ids[submission.jobs[0].name] == 100


def test_a_job_that_turns_up_after_submit_gave_up_is_adopted(campaign, slurm, monkeypatch):
    (slurm / "slow").touch()
    queue = client.queue
    monkeypatch.setattr(client, "queue", lambda names=(): [] if names else queue(names))
    with pytest.raises(UnavailableError, match="not sent twice"):
        submit_campaign(campaign, SITE.model_copy(update={"sbatch_timeout_s": 1.0}), ALL)
    assert sent_jobs(campaign.paths.jobs)[0].job_id is None
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{slurm}:{os.environ['PATH']}")
    submission, _ = submit_campaign(campaign, SITE, ALL)
    assert "train" not in {job.kind for job in submission.jobs}
    assert len(calls(slurm)) == 6
    snpe = next(line for line in calls(slurm) if "snpe-0.sbatch" in line)
    assert "afterany:100 " in snpe
    assert sent_jobs(campaign.paths.jobs)[0].job_id == 100


def test_a_refused_job_says_why_and_the_next_submit_goes_on(campaign, slurm):
    (slurm / "refuse").touch()
    with pytest.raises(UnavailableError, match="max_submitted") as error:
        submit_campaign(campaign, SITE, ALL)
    assert "QOSMaxSubmitJobPerUserLimit" in str(error.value)
    assert sent_jobs(campaign.paths.jobs) == []
    (slurm / "refuse").unlink()
    submission, _ = submit_campaign(campaign, SITE, ALL)
    assert submission.number == 2
    assert len(calls(slurm)) == 6


def test_only_failed_sends_what_failed_and_forgives_it(campaign, slurm):
    failed = tasks_of(campaign)["infer"][7]
    record_failure(target_of(campaign, failed), Kind.BUG, "it broke", 70)
    submission, _ = submit_campaign(campaign, SITE, Selection(ALL.engines, only_failed=True))
    assert [(job.kind, job.tasks) for job in submission.jobs[:1]] == [("nuts", (7,))]
    assert {job.kind for job in submission.jobs} == {"nuts", "merge", "report"}
    assert read_failure(target_of(campaign, failed)) is None


def test_planning_writes_and_sends_nothing(campaign, slurm):
    before = sorted(path.name for path in campaign.paths.root.rglob("*"))
    submission = plan_submission(campaign, SITE, ALL)
    assert len(submission.commands()) == 6
    assert sorted(path.name for path in campaign.paths.root.rglob("*")) == before
    assert calls(slurm) == []
    sent, _ = submit_campaign(campaign, SITE, ALL)
    assert sent.scripts == submission.scripts
    assert [job.script.read_text() for job in sent.jobs] == list(submission.scripts)


def test_only_one_submit_at_a_time(campaign, slurm):
    with submission_lock(campaign), pytest.raises(UsageError, match="another submit"):
        submit_campaign(campaign, SITE, ALL)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = campaign.paths.submissions / ".lock"
    lock.write_text(f"{os.uname().nodename} {gone.pid}")
    submit_campaign(campaign, SITE, ALL)
    assert not lock.exists()


def test_status_counts_files_and_shows_the_queue_beside_them(campaign, slurm):
    submit_campaign(campaign, SITE, ALL)
    failed = tasks_of(campaign)["infer"][6]
    record_failure(target_of(campaign, failed), Kind.BUG, "ZeroDivisionError: no", 70)
    campaign.paths.log("infer", 6).write_text("a\nTraceback\nZeroDivisionError: no\n")
    content = watch.full_status(campaign, watch.CampaignProgress(campaign))
    assert content["engines"]["nuts"] == {
        "converged": 0,
        "not_converged": 0,
        "failed": 2,
        "bad_data": 0,
        "pending": 8,
    }
    assert content["queue"]["states"]["nuts"] == {"PENDING": 5}
    assert content["failed_tasks"][0]["last_lines"][-1] == "ZeroDivisionError: no"
    assert content["failed_tasks"][0]["kind"] == "bug"
    (slurm / "down").touch()
    content = watch.full_status(campaign, watch.CampaignProgress(campaign))
    assert "Unable to contact" in content["queue"]["problem"]
    assert content["engines"]["nuts"]["failed"] == 2


HERE = attempt.this_process()
ENDED = replace(HERE, started=HERE.started + 1)
"""A process of the same number that ended before this one started."""


def claimed(campaign: Campaign, index: int, process: attempt.Process, monkeypatch) -> None:
    """An inference task that ``process`` has begun."""
    monkeypatch.setattr(attempt, "this_process", lambda: process)
    attempt.claim(target_of(campaign, tasks_of(campaign)["infer"][index]))


def shown(content: dict) -> str:
    """The output of ``status``."""
    console = Console(width=200)
    with console.capture() as caught:
        console.print(_status_view(content))
    return caught.get()


def test_tasks_of_a_run_that_goes_on_are_running_and_of_a_killed_or_stopped_one_are_not(campaign, monkeypatch):
    processes = [HERE, ENDED, replace(HERE, pid=2**22 + 1), replace(HERE, host="elsewhere")]
    for index, process in enumerate(processes):
        claimed(campaign, index, process, monkeypatch)
    claimed(campaign, 4, HERE, monkeypatch)
    attempt.note_stopped(target_of(campaign, tasks_of(campaign)["infer"][4]))
    attempt.note_stopped(target_of(campaign, tasks_of(campaign)["infer"][3]))
    content = watch.full_status(campaign, watch.CampaignProgress(campaign))
    assert [(entry["index"], entry["here"]) for entry in content["running_tasks"]] == [(0, True), (3, False)]
    ended = [(entry["index"], entry["kind"]) for entry in content["interrupted_tasks"]]
    assert ended == [(1, "killed"), (2, "killed"), (4, "stopped, its state is saved")]
    assert 0 not in [task.index for task in watch.tasks_with_logs(campaign, None)]
    text = shown(content)
    assert "running here: infer emcee 0\n" in text
    assert "running on elsewhere, as far as can be seen from here: infer emcee 3" in text
    assert "infer emcee 1: broke off, killed" in text
    assert "infer emcee 4: stopped, its state is saved; run or submit again to continue" in text


def test_a_process_that_nobody_waits_for_has_ended():
    """A zombie keeps its number."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = replace(HERE, pid=child.pid, started=attempt._start_of(child.pid))
    assert process.is_running()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_running()
    child.communicate()


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("TIMEOUT", "", "time limit"),
        ("FAILED", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***", "time limit"),
        ("OUT_OF_MEMORY", "", "out of memory"),
        ("FAILED", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "out of memory"),
        ("FAILED", "*** JOB 7 ON n1 CANCELLED AT 2026 DUE TO NODE FAILURE, SEE SLURMCTLD LOG", "node failure"),
        ("FAILED", "nothing of note", "killed"),
    ],
)
def test_why_a_task_broke_off_is_read_from_slurm(campaign, slurm, monkeypatch, state, text, kind):
    submit_campaign(campaign, SITE, ALL)
    claimed(campaign, 6, ENDED, monkeypatch)
    job = next(job for job in sent_jobs(campaign.paths.jobs) if job.kind == "nuts")
    job.output_of(6).write_text(text)
    queue = (slurm / "queue").read_text()
    (slurm / "queue").write_text(re.sub(rf"\|1\|PENDING\|({re.escape(job.name)})", rf"|1|{state}|\1", queue))
    content = watch.full_status(campaign, watch.CampaignProgress(campaign))
    assert [(entry["index"], entry["kind"]) for entry in content["interrupted_tasks"]] == [(6, kind)]


def test_cancel_takes_all_jobs_out_of_the_queue(campaign, slurm):
    _, ids = submit_campaign(campaign, SITE, ALL)
    assert watch.cancel_jobs(campaign) == sorted(ids.values())
    assert (slurm / "cancelled").read_text().split() == [str(number) for number in sorted(ids.values())]
    assert watch.cancel_jobs(campaign) == []


@pytest.mark.parametrize("linked", ["submit", "submit/.lock", "submit/1", "jobs.jsonl"])
def test_what_a_submit_writes_goes_through_no_link(campaign, slurm, tmp_path, linked):
    foreign = tmp_path / "foreign"
    foreign.touch() if linked.endswith((".lock", "jsonl")) else foreign.mkdir()
    link = campaign.paths.root / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(foreign)
    number = 2 if linked == "submit/1" else 1  # a folder that is there is never written into again
    if number == 1:
        with pytest.raises(CampaignError, match=rf"{link}: .*link that leads to {foreign}"):
            submit_campaign(campaign, SITE, ALL)
        assert calls(slurm) == []
    else:
        assert submit_campaign(campaign, SITE, ALL)[0].number == number
    assert foreign.is_file() or not list(foreign.iterdir())
    assert foreign.is_dir() or not foreign.read_text()


@pytest.fixture(scope="module")
def made_twice(frozen, tmp_path_factory) -> tuple[Campaign, Campaign]:
    """Two folders made from the same files."""
    folder = tmp_path_factory.mktemp("twice")
    first, second = (init_campaign(frozen.parent / "campaign.toml", folder / name) for name in ("first", "second"))
    assert first.hash == second.hash
    return first, second


@pytest.fixture
def twins(made_twice, tmp_path, slurm) -> tuple[Campaign, Campaign]:
    """Two folders made from the same files; the jobs of the first are in the queue."""
    for campaign in made_twice:
        place = tmp_path / campaign.paths.root.name
        subprocess.run(["cp", "-a", str(campaign.paths.root), str(place)], check=True)
        known = json.loads((place / "folder.json").read_text())  # as if they had been made here
        (place / "folder.json").write_text(json.dumps(known | {"path": str(place), "inode": place.stat().st_ino}))
    first, second = (Campaign(tmp_path / campaign.paths.root.name) for campaign in made_twice)
    submit_campaign(first, SITE, ALL)
    return first, second


def cancelled(slurm: Path) -> list[int]:
    path = slurm / "cancelled"
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def waiting(campaign: Campaign) -> int:
    return watch.full_status(campaign, watch.CampaignProgress(campaign))["queue"]["elements"]


def test_folders_made_from_the_same_files_have_jobs_of_their_own(twins, slurm):
    first, second = twins
    assert (waiting(first), waiting(second)) == (18, 0)
    assert watch.cancel_jobs(second) == []
    _, ids = submit_campaign(second, SITE, ALL)
    assert len(ids) == 6
    assert not {job.name for job in sent_jobs(first.paths.jobs)} & set(ids)
    assert watch.cancel_jobs(second) == sorted(ids.values()) == cancelled(slurm)
    assert (waiting(first), waiting(second)) == (18, 0)


@pytest.mark.parametrize("edit", ["its whole record", "its ids", "its folder.json no longer there"])
def test_no_edit_of_the_record_cancels_the_jobs_of_another_folder(twins, slurm, edit):
    first, second = twins
    submit_campaign(second, SITE, ALL)
    theirs = {job.job_id for job in sent_jobs(first.paths.jobs)}
    if edit == "its ids":
        text = second.paths.jobs.read_text()
        second.paths.jobs.write_text(re.sub(r'"job_id": 10(\d)', lambda m: f'"job_id": {94 + int(m[1])}', text))
        assert theirs >= {100, 101, 102}
    else:
        second.paths.jobs.write_text(first.paths.jobs.read_text())
    if "folder" in edit:
        (second.paths.root / "folder.json").unlink()
    if edit == "its ids":
        assert watch.cancel_jobs(second) == [110, 111], "the two whose ids were not edited"
    else:
        with pytest.raises(CampaignError, match="is not there" if "folder" in edit else "does not record all jobs"):
            watch.cancel_jobs(second)
    assert not theirs & set(cancelled(slurm))
    assert waiting(first) == 18


def test_a_folder_that_lost_its_token_says_how_to_have_its_jobs_again(twins, slurm):
    first, _ = twins
    ids = sorted(job.job_id for job in sent_jobs(first.paths.jobs))
    path = first.paths.root / "folder.json"
    path.unlink()
    for command in (watch.cancel_jobs, waiting, lambda campaign: submit_campaign(campaign, SITE, ALL)):
        with pytest.raises(CampaignError, match="is not there, and without it nothing says") as told:
            command(first)
        assert not path.exists()
    path.write_text(re.search(r"again: (\{.*?\})", str(told.value))[1])
    assert waiting(first) == 18
    assert watch.cancel_jobs(first) == cancelled(slurm) == ids


@pytest.mark.parametrize("lost", ["the lines of one job", "the file, in a copy"])
def test_jobs_that_the_record_lost_are_named_and_never_sent_twice(twins, slurm, tmp_path, lost):
    _, second = twins
    if "copy" in lost:
        subprocess.run(["cp", "-r", second.paths.root, tmp_path / "copy"], check=True)
        second = Campaign(tmp_path / "copy")
    _, ids = submit_campaign(second, SITE, ALL)
    text = second.paths.jobs.read_text()
    gone = sorted(ids.values())[:1] if "one" in lost else sorted(ids.values())
    if "file" in lost:
        second.paths.jobs.unlink()
    else:
        name = next(name for name, number in ids.items() if number == gone[0])
        lines = text.splitlines(keepends=True) if "one" in lost else []
        second.paths.jobs.write_text("".join(line for line in lines if name not in line))
    before = calls(slurm)
    numbers = " ".join(map(str, gone))
    for command in (plan_submission, submit_campaign):
        with pytest.raises(CampaignError, match=rf"scancel {numbers}; nothing was submitted"):
            command(second, SITE, ALL)
    assert calls(slurm) == before
    content = watch.full_status(second, watch.CampaignProgress(second))
    assert content["queue"]["unrecorded"] == gone
    assert f"jobs.jsonl does not record: {', '.join(map(str, gone))}" in shown(content)
    assert (" pending" in shown(content).partition("queue:")[2]) == (content["queue"]["elements"] > 0)
    with pytest.raises(CampaignError, match=rf"scancel {numbers}; "):
        watch.cancel_jobs(second)
    assert cancelled(slurm) == sorted(set(ids.values()) - set(gone))
    second.paths.jobs.write_text(text)
    assert watch.cancel_jobs(second) == gone


def test_jobs_that_the_record_lost_hinder_nobody_once_they_ended(twins, slurm):
    first, _ = twins
    first.paths.jobs.unlink()
    end_all(slurm)
    assert submit_campaign(first, SITE, ALL)[0].number == 2
    assert waiting(first) == 18


def test_a_script_that_a_user_sent_by_hand_is_left_alone(campaign, slurm):
    """It has the name of the job that ``submit`` sent, and an id of its own."""
    _, ids = submit_campaign(campaign, SITE, ALL)
    queue = (slurm / "queue").read_text()
    name, number = next(iter(ids.items()))
    (slurm / "queue").write_text(queue + f"900|N/A|RUNNING|{name}|None|0:01|n1\n")
    assert submit_campaign(campaign, SITE, ALL)[1] == {}
    assert watch.full_status(campaign, watch.CampaignProgress(campaign))["queue"]["unrecorded"] == []
    assert watch.cancel_jobs(campaign) == sorted(ids.values())
    assert number in cancelled(slurm)
    assert 900 not in cancelled(slurm)


def test_a_copy_of_a_folder_does_not_have_its_jobs(twins, slurm, tmp_path):
    first, _ = twins
    subprocess.run(["cp", "-r", first.paths.root, tmp_path / "copy"], check=True)
    copy = Campaign(tmp_path / "copy")
    assert waiting(copy) == 0
    assert watch.cancel_jobs(copy) == cancelled(slurm) == []
    planned = plan_submission(copy, SITE, ALL)
    submission, ids = submit_campaign(copy, SITE, ALL)
    assert [job.name for job in planned.jobs] == list(ids)
    assert submission.number == 2
    assert (waiting(first), waiting(copy)) == (18, 18)
    assert watch.cancel_jobs(copy) == sorted(ids.values())
    assert waiting(first) == 18


@pytest.mark.parametrize("how", ["moved", "restored from a backup"])
def test_a_folder_keeps_its_jobs(twins, tmp_path, how):
    first, _ = twins
    moved = first.paths.root.rename(tmp_path / "moved")
    if how != "moved":
        subprocess.run(["cp", "-r", moved, first.paths.root], check=True)
        moved = first.paths.root
    assert waiting(Campaign(moved)) == 18
    assert submit_campaign(Campaign(moved), SITE, ALL)[1] == {}


def made_before(campaign: Campaign, slurm: Path) -> None:
    """Turn a folder, and the queue, into what the version without tokens left."""
    token = json.loads((campaign.paths.root / "folder.json").read_text())["token"]
    for path in (campaign.paths.jobs, slurm / "queue"):
        path.write_text(path.read_text().replace(f"-{token}-", "-"))
    (campaign.paths.root / "folder.json").unlink()


def test_a_folder_made_before_there_were_tokens_goes_on(twins, slurm):
    first, second = twins
    submit_campaign(second, SITE, ALL)
    for campaign in twins:
        made_before(campaign, slurm)
    assert (waiting(first), waiting(second)) == (18, 18)
    assert submit_campaign(first, SITE, ALL)[1] == {}
    name = next(job.name for job in sent_jobs(first.paths.jobs) if job.kind == "nuts")
    end_all(slurm, keep=lambda line: not line.startswith("102|"))
    submission, ids = submit_campaign(first, SITE, ALL)
    assert [job.kind for job in submission.jobs] == ["nuts", "merge", "report"]
    assert name not in ids
    assert waiting(first) == 13 + 7
    assert watch.cancel_jobs(first) == [100, 101, 103, 104, 105, *sorted(ids.values())]
    assert waiting(second) == 18


def test_without_a_token_a_job_whose_answer_was_lost_is_not_sent_twice_and_not_cancelled(twins, slurm):
    """It has the name of a twin's job, and may be that."""
    first, _ = twins
    made_before(first, slurm)
    lines = first.paths.jobs.read_text().splitlines(keepends=True)
    first.paths.jobs.write_text("".join(line for line in lines if '"job_id": 100' not in line))
    assert submit_campaign(first, SITE, ALL)[1] == {}
    assert watch.cancel_jobs(first) == [101, 102, 103, 104, 105]


def test_a_job_whose_answer_was_lost_is_cancelled_once_its_id_is_recorded(twins, slurm):
    first, _ = twins
    lines = first.paths.jobs.read_text().splitlines(keepends=True)
    first.paths.jobs.write_text("".join(line for line in lines if '"job_id": 100' not in line))
    assert watch.cancel_jobs(first) == [100, 101, 102, 103, 104, 105]
    assert sent_jobs(first.paths.jobs)[0].job_id == 100


@pytest.mark.parametrize(
    "content", ["", "[]", '{"token": "abc"}', '{"token": "X", "path": "", "inode": 1, "tokenless": 0}']
)
def test_a_damaged_token_is_told(campaign, slurm, content):
    submit_campaign(campaign, SITE, ALL)
    (campaign.paths.root / "folder.json").write_text(content)
    with pytest.raises(CampaignError, match=r"folder\.json: .*jobs\.jsonl"):
        watch.cancel_jobs(campaign)
    assert cancelled(slurm) == []


@pytest.mark.parametrize(
    "line",
    ['{"event": "sent", "name": "cs-1-2-nuts-0", "job_id": 7}', "[]", '{"event": "sent", "job_id": "x"}'],
)
def test_a_line_that_no_chainsweep_wrote_is_told(campaign, slurm, line):
    submit_campaign(campaign, SITE, ALL)
    with campaign.paths.jobs.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(CampaignError, match="line 13: expected a JSON object that says"):
        watch.cancel_jobs(campaign)


def test_a_half_written_last_line_is_ignored_and_a_damaged_one_is_not(campaign, slurm):
    submit_campaign(campaign, SITE, ALL)
    path, known = campaign.paths.jobs, sent_jobs(campaign.paths.jobs)
    with path.open("a") as handle:
        handle.write('{"event": "sen')
    assert sent_jobs(path) == known
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{", *lines]) + "\n")
    with pytest.raises(CampaignError, match="line 1"):
        sent_jobs(path)


def test_json_of_a_submission_names_what_stands_for_what(campaign, slurm):
    content = submit.describe(plan_submission(campaign, SITE, ALL))
    json.dumps(content)
    assert [job["array"] for job in content["jobs"]] == [None, "0-4", "0-4", "0-4", None, None]
    assert content["jobs"][3]["command"][2] == "--dependency=afterany:$train"


def test_without_slurm_submit_says_so(campaign, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no scontrol"):
        submit_campaign(campaign, SITE, ALL)
