"""The Hugging Face Hub: who one is there, whether it can be reached, and room for what it gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from genprm_trl.doctor.finding import Finding, nearest_existing, size
from genprm_trl.doctor.probing import ProbeResult

AREA = "hub"
ROOM = 20 * 2**30  # bytes: a model of 7 billion parameters in bfloat16, and some data


def login_and_cache(hub: ProbeResult) -> Iterator[Finding]:
    """From what the probe `huggingface_hub` learned; asks nothing of the network."""
    if hub.error:
        return
    facts = hub.facts
    if facts["logged_in"]:
        yield Finding(
            AREA, "login", "ok", f"there is a token for {facts['endpoint']} (--online asks whether it is good)"
        )
    else:
        yield Finding(AREA, "login", "absent", "no token: public models alone, and no uploads", "hf auth login")
    if facts["offline"]:
        yield Finding(AREA, "HF_HUB_OFFLINE", "degraded", "is set: nothing is downloaded", "unset HF_HUB_OFFLINE")
    cache = facts["cache"]
    there = nearest_existing(cache)
    free = shutil.disk_usage(there).free
    elsewhere = "export HF_HOME=/path/with/more/room"
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(AREA, "cache", "degraded", f"{cache} cannot be written", elsewhere)
    elif free < ROOM:
        detail = f"{size(free)} free in {cache}; a model of 7B parameters takes 15 GiB"
        yield Finding(AREA, "cache", "degraded", detail, f"{elsewhere}, or hf cache prune")
    else:
        yield Finding(AREA, "cache", "ok", f"{size(free)} free in {cache}")


def answers(probe: ProbeResult) -> Iterator[Finding]:
    """From what the probe `hub_answers` learned by asking the Hub."""
    if probe.error:
        fix = "check the network and HF_ENDPOINT; renew a token with: hf auth login"
        yield Finding(AREA, "the Hub", "degraded", probe.error, fix)
    else:
        user = probe.facts["user"]
        yield Finding(AREA, "the Hub", "ok", f"answers; logged in as {user}" if user else "answers")
