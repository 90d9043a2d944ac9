"""What tasks there are.

>>> row = next(row for row in list_tasks() if row.name == "mini_copy")
>>> row.output_type, row.here
('generate_until', True)
"""

from dataclasses import dataclass

from llm_eval.tasks.opening import tagged


@dataclass(frozen=True)
class Row:
    """A built-in task in a list.

    Attributes
    ----------
    data
        The registry's data set, or "" where data comes with the task.
    documents
        How many there are; None where they are not here.
    here
        Whether it can be run now.
    """

    name: str
    title: str
    output_type: str
    tags: tuple[str, ...]
    license: str
    source: str
    data: str
    documents: int | None
    here: bool
    n_templates: int


def list_tasks(tag: str = "all") -> list[Row]:
    """The built-in tasks of a tag, by name."""
    return [
        Row(
            task.name,
            task.title,
            task.config.output_type,
            task.tags,
            task.license,
            task.source,
            task.config.data.set,
            task.size if task.here else None,
            task.here,
            len(task.templates),
        )
        for task in tagged().get(tag, ())
    ]
