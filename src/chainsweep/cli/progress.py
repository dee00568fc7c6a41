"""The progress that ``chainsweep run`` shows: a bar per engine on a terminal, a line per task elsewhere."""

from __future__ import annotations

from collections import defaultdict
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from chainsweep.campaign.campaign import Campaign
from chainsweep.run.logged import Finished
from chainsweep.run.worker import TaskProgress
from chainsweep.stages.graph import Result, Task, tasks_of

TRAINING_UNITS = 1000


class RunDisplay:
    """An observer of a LocalRun, to be used as a context manager around it."""

    def __init__(self, campaign: Campaign, engines: tuple[str, ...], console: Console) -> None:
        self.campaign = campaign
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.done: dict[str, dict[Task, float]] = defaultdict(dict)
        self.bars: dict[str, TaskID] = {}
        tasks = tasks_of(campaign)
        for stage in ("simulate", "train"):
            if tasks[stage] and campaign.trainer in engines:
                name = f"{stage} {campaign.trainer}"
                self.bars[name] = self._bar(name, TRAINING_UNITS * len(tasks[stage]))
        for engine in engines:
            self.bars[f"infer {engine}"] = self._bar(engine, len(campaign.collection.ids))

    def _bar(self, description: str, total: int) -> TaskID:
        return self.progress.add_task(description, total=total, start=False, note="")

    def __enter__(self) -> RunDisplay:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def observe(self, message: TaskProgress | Finished) -> None:
        """Show one message from a worker."""
        task = message.task
        if isinstance(message, Finished):
            if message.result is None:
                self.console.print(f"[red]{task.label} failed:[/red] {message.error}", highlight=False)
            elif message.result == Result.DONE.name and not self.console.is_terminal:
                self.console.print(f"{task.label}: done", highlight=False)
            if message.result in (Result.DONE.name, Result.ALREADY_DONE.name):
                self._advance(task, 1.0, "")
            return
        self._advance(task, message.done / max(message.total, 1), message.note)

    def _advance(self, task: Task, fraction: float, note: str) -> None:
        key = f"{task.stage} {task.engine}"
        if key not in self.bars:
            return
        units = TRAINING_UNITS if task.shard is None else self.campaign.shards[task.shard].positions.size
        self.done[key][task] = fraction * units
        self.progress.start_task(self.bars[key])
        self.progress.update(self.bars[key], completed=int(sum(self.done[key].values())), note=note)
