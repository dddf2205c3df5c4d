"""What identifies a part is the same on every processor: its weights and settings, never what a processor computed."""

import os
import subprocess
import sys

OLD = {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
PRINTS = """
import dataclasses, json, warnings, mmlm
warnings.simplefilter("error")  # a false warning of other weights, for one
print(json.dumps(dataclasses.asdict(mmlm.load("nano").config())))
"""


def config(instructions: dict[str, str]) -> str:
    """nano's config with the fingerprints of its parts, as a processor with these instructions finds them."""
    environment = {name: value for name, value in os.environ.items() if name not in OLD} | instructions
    run = subprocess.run([sys.executable, "-c", PRINTS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_fingerprints_are_the_same_on_an_old_processor_and_on_this_one():
    found = config(OLD)
    assert found.count('"fingerprint"') == 5 and found == config({})
