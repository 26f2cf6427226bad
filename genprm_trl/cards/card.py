"""How every card of this project is laid out: models and datasets alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genprm_trl.rows.jsonl import write_text

if TYPE_CHECKING:
    from huggingface_hub import CardData

CITATION = """\
@article{zhao2025genprm,
    title   = {GenPRM: Scaling Test-Time Compute of Process Reward Models via Generative Reasoning},
    author  = {Jian Zhao and Runze Liu and Kaiyan Zhang and Zhimu Zhou and Junqi Gao and Dong Li and Jiafei Lyu and
               Zhouyi Qian and Biqing Qi and Xiu Li and Bowen Zhou},
    journal = {arXiv preprint arXiv:2504.00891},
    year    = {2025}
}"""


def write_card(
    directory: str | Path,
    metadata: CardData,
    title: str,
    introduction: str,
    sections: Mapping[str, str],
    *,
    citation: str = CITATION,
    result: bool = False,
) -> Path:
    """Writes a card, `README.md`, into a directory.

    Args:
        directory: The directory of the model or the dataset.
        metadata: What the Hub reads: the YAML block at the top.
        title: The first heading.
        introduction: Markdown below the title.
        sections: Heading to Markdown. Sections without text are left out.
        citation: BibTeX of the work to cite, the last section.
        result: Whether the file is a result of a command; see `outputs.replacing`.

    Returns:
        The card's path.
    """
    sections = {**sections, "Citation": f"```bibtex\n{citation.strip()}\n```"}
    parts = [f"---\n{metadata.to_yaml()}\n---", f"# {title}", introduction.strip()]
    parts += [f"## {heading}\n\n{text.strip()}" for heading, text in sections.items() if text.strip()]
    path = Path(directory) / "README.md"
    write_text(path, "\n\n".join(parts) + "\n", result=result)
    return path
