"""Verdicts as a page to read: solutions, rewards, rationales, and how good the rewards are, in one HTML file."""

from genprm_trl.verdict_report.comparison import ComparisonReport, write_comparison
from genprm_trl.verdict_report.page import ReportSummary, write_report

__all__ = ["ComparisonReport", "ReportSummary", "write_comparison", "write_report"]
