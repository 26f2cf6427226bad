"""Is this the answer? Extraction of final answers, and their comparison."""

from genprm_trl.grading.comparison import Grade, GradeStatus, answers_match, grade, grade_many
from genprm_trl.grading.extract import extract_answer, extract_boxed

__all__ = ["Grade", "GradeStatus", "answers_match", "extract_answer", "extract_boxed", "grade", "grade_many"]
