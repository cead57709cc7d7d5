"""What terms between taps cannot be is told by a RecipeError, before a model is loaded."""

import pytest
import tiny_folder
from tiny_linked import asked

from limbeck import run
from limbeck.errors import RecipeError
from limbeck.models import load

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("refused")
    tiny_folder.tree(found)
    return found


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ("feature_mse", "needs 'at'"),
        ({"forward_kl": {"at": "layers.0"}}, "has no 'at'"),
        ({"feature_mse": {"at": "layers.0"}}, "16 channels.*32.*projector: linear"),
        (
            {"feature_mse": {"at": "layers.0.mpl", "projector": "linear"}},
            r"Did you mean layers\.0\.mlp",
        ),
        (
            {
                "feature_mse": {
                    "at": {"student": "layers.2", "teacher": "layers.2"},
                    "projector": "linear",
                }
            },
            r"layers\.0 to layers\.1",
        ),
        (
            {
                "feature_mse": {
                    "at": {"student": "layers.*", "teacher": "norm"},
                    "projector": "linear",
                }
            },
            "pattern on both",
        ),
        ({"feature_mse": {"at": ["norm", "norm"], "projector": "linear"}}, "compared twice"),
        ({"feature_mse": {"at": "norm", "projector": "linear", "units": "rows"}}, "has no 'units'"),
        ({"feature_mse": {"at": "norm", "projektor": "linear"}}, "no option 'projektor'"),
        ({"feature_mse": {"at": "norm", "token_share": 1.5}}, "less than or equal to 1"),
        ({"attention_transfer": {"at": "layers.0", "token_share": 0.5}}, "has no 'token_share'"),
        ({"attention_transfer": {"at": "layers.0", "projector": "linear"}}, "has no 'projector'"),
        ({"relation_angle": {"at": []}}, "at least 1"),
        ({"feature_mse": {"at": "norm", "smooth_l1": 0}}, "greater than 0"),
        ({"feature_mse": {"at": "norm", "weight": float("nan")}}, "weight nan"),
        ({"attention_transfer": {"at": "layers.0", "of": []}}, "at least 1"),
        ({"attention_transfer": {"at": "layers.0", "relation_heads": -1}}, "greater than 0"),
        ({"relation_angle": {"at": "norm", "max_units": 2}}, "greater than or equal to 3"),
        ({"attention_transfer": {"at": "layers.0.mlp"}}, "no attention was seen there"),
        ({"feature_mse": {"at": "rotary_emb"}}, "of 2 rows of 3 tokens; wanted one vector a token"),
        ({"feature_mse": {"projector": "linear"}}, "'at' says of which; it is not given"),
        ("os.path.sep", r"'os\.path\.sep' is str; wanted a function"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(place, monkeypatch, objective, told):
    monkeypatch.setattr(load, "load_model", None)  # whoever calls it fails otherwise
    with pytest.raises(RecipeError, match=told):
        run.begun(asked(place, "refused", [objective]))


def test_relations_among_too_few_rows_are_refused(place):
    objective = [{"relation_angle": {"at": "norm", "units": "rows"}}]
    few = [tiny_folder.stage(place, objective=objective, micro_rows=2)]
    with pytest.raises(
        RecipeError, match=r"micro-batch, which has 2; wanted 3 or more.*micro_rows"
    ):
        asked(place, "refused", None, stages=few)


def test_attention_cannot_be_cached_nor_blocks_compiled(place):
    attention = [{"attention_transfer": {"at": "layers.0"}}]
    with pytest.raises(RecipeError, match="no cache keeps"):
        asked(place, "refused", attention, teacher=tiny_folder.cached(place))
    with pytest.raises(RecipeError, match="compile"):
        asked(place, "refused", attention, compute={"device": "cpu", "compile": True})
