"""Whichever is imported first, transformers' Auto classes know our models, and `import limbeck` imports neither."""

import subprocess
import sys

import pytest

ASKED = """
from transformers import AutoConfig, AutoModelForCausalLM
import sys, torch
config = AutoConfig.for_model("limbeck_llamba", num_hidden_layers=2)
assert type(config).__name__ == "LimbeckLlambaConfig", type(config)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
assert type(model).__name__ == "LimbeckLlambaForCausalLM", type(model)
finders = [one for one in sys.meta_path if type(one).__name__ == "_Arrival"]
assert len(finders) == 1, finders
"""
ORDERS = {
    "a model of transformers between": "import limbeck; import sys; assert 'torch' not in sys.modules\n"
    "from transformers import LlamaForCausalLM",
    "the Auto classes first": "from transformers import AutoModelForCausalLM; import limbeck",
    "our mixers first, and limbeck twice": "import limbeck.models.mixers, importlib; importlib.reload(limbeck)",
    "Bamba itself": "import limbeck; from transformers import BambaForCausalLM",
    "configs alone": "import limbeck; from transformers import AutoConfig; AutoConfig.for_model('limbeck_llamba')",
}


@pytest.fixture(scope="module")
def ended():
    """All orders at once, each in a process of its own: (status, what it said) by name."""
    begun = {
        name: subprocess.Popen(
            [sys.executable, "-c", f"{first}\n{ASKED}"], stderr=subprocess.PIPE, text=True
        )
        for name, first in ORDERS.items()
    }
    return {name: (one.communicate()[1], one.returncode) for name, one in begun.items()}


@pytest.mark.parametrize("order", ORDERS)
def test_our_models_are_known_in_every_order_of_imports(ended, order):
    said, status = ended[order]
    assert status == 0, said[-2000:]
