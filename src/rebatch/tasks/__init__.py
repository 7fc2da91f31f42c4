"""Tasks by name: data + model + reference recipe."""

from rebatch.tasks.find import find_task
from rebatch.tasks.table import TASKS
from rebatch.tasks.task import Task

__all__ = ["TASKS", "Task", "find_task"]
