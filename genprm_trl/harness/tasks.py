"""Where the harness's tasks of this project are."""

from __future__ import annotations

from pathlib import Path

import genprm_trl
from genprm_trl.errors import GenPRMError


def tasks_path() -> Path:
    """The directory to give to `lm_eval --include_path`: `lm_eval_tasks`, which is installed beside this package.

    Raises:
        GenPRMError: It is not there, so the installation is incomplete.
    """
    path = Path(genprm_trl.__file__).parent.with_name("lm_eval_tasks")
    if not path.is_dir():
        raise GenPRMError(f"the tasks are not installed: there is no {path}; install genprm-trl again")
    return path
