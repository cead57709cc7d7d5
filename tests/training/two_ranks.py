"""What each of two gloo ranks does in the tests: python two_ranks.py (gradients | talks | quantised | clone | forced | watch | train | resume) FOLDER."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny_clones
import tiny_hybrid
import tiny_quantised
import tiny_run
import tiny_talks
from safetensors.torch import save_file

from limbeck.training import loop

torch.set_num_threads(1)
what, folder = sys.argv[1], Path(sys.argv[2])
if what.startswith("clone"):
    work = tiny_clones.job(folder, alone=what == "clone-alone", micro_rows=1)
elif what == "talks":
    work = tiny_talks.job(folder, micro_rows=1)
elif what == "forced":
    work = tiny_hybrid.job(folder, micro_rows=1)
else:
    student = tiny_quantised.student("nf4") if what == "quantised" else None
    work = tiny_run.job(folder, stage_=tiny_run.stage(micro_rows=1), student=student)
if what == "watch":
    seen = tiny_run.looked(work)
    loop.one_step([work])
    tiny_run.looked(work)
    if work.world.first:
        (folder / "seen.json").write_text(json.dumps(seen))
elif what not in ("train", "resume"):
    found = {
        name: tensor for name, tensor in tiny_run.gradients(work).items() if tensor is not None
    }
    if work.world.first:
        save_file(
            {name: tensor.contiguous() for name, tensor in found.items()},
            folder / "gradients.safetensors",
        )
else:
    loop.run([work])
torch.distributed.destroy_process_group()
