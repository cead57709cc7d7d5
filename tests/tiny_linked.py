"""A student of another width and depth beside the tiny teacher, and every kind of term between their taps."""

import tiny_folder

from limbeck.recipe import Recipe

NARROW = {
    "scratch": {
        "config": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        }
    }
}
EVERYTHING = [
    "cross_entropy",
    "forward_kl",
    {"feature_mse": {"at": "all", "projector": "linear", "token_share": 0.5}},
    {
        "feature_cosine": {
            "at": {"student": "layers.0.mlp", "teacher": "layers.1.mlp"},
            "projector": {"bias": True, "start": "pca"},
        }
    },
    {"relation_distance": {"at": "layers.*", "max_units": 6}},
    {"relation_angle": {"at": "norm", "units": "rows", "weight": 2}},
    {"attention_transfer": {"at": {"student": "layers.1", "teacher": "layers.3"}}},
]


def asked(place, name, objective, **changes) -> Recipe:
    """A run of 4 steps with these terms, beside a live teacher."""
    plain = {
        "teacher": {"live": {"model": str(place / "teacher")}},
        "student": NARROW,
        "stages": [tiny_folder.stage(place, budget="4 steps", objective=objective, micro_rows=4)],
    }
    return tiny_folder.short(place, name, **plain | changes)
