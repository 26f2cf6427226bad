"""Is this the answer? Extraction of final answers, and their comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.grading.comparison import Grade as Grade
    from genprm_trl.grading.comparison import GradeStatus as GradeStatus
    from genprm_trl.grading.comparison import answers_match as answers_match
    from genprm_trl.grading.comparison import grade as grade
    from genprm_trl.grading.comparison import grade_many as grade_many
    from genprm_trl.grading.extract import extract_answer as extract_answer
    from genprm_trl.grading.extract import extract_boxed as extract_boxed

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".comparison": ["Grade", "GradeStatus", "answers_match", "grade", "grade_many"],
        ".extract": ["extract_answer", "extract_boxed"],
    },
)
