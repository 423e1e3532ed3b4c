"""``esper tasks``: the tasks that hosts can learn, and the data that each needs."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from esper_ray.tolaria.tasks import Task


app = typer.Typer(add_completion=False)


@app.command()
def tasks() -> None:
    """List the tasks, the data they need, and their presets.

    Example: esper tasks
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from esper_ray.leyline.config.loading import preset_names
    from esper_ray.tolaria.tasks import TaskError, find_task, task_names

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "about", "needs", "preset"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "task")
    presets = preset_names()
    for name in task_names():
        try:
            task = find_task(name)
            about, needs = task.about, _needs(task)
        except TaskError as error:  # one broken package must not hide the others
            about, needs = str(error), "a repair"
        table.add_row(escape(name), escape(about), escape(needs), "yes" if name in presets else "")
    Console().print(table)
    typer.echo("A task that a preset is named after brings its host: esper train ppo --task NAME [--data-dir FOLDER]")


def _needs(task: "Task") -> str:
    if task.shares is not None:
        return f"as {task.shares}"
    return {"needed": f"--data-dir with {task.files}", "refused": "nothing", "optional": "see its package"}[
        task.data_dir
    ]
