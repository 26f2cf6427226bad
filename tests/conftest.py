"""Settings that hold for every test; made before any of them imports torch."""

import os

# OpenMP threads that spin at barriers starve each other where cores are few or shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
