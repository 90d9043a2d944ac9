"""Recipes: what a YAML file may say, and one line for what it may not."""

import pytest
import yaml

from compress.pipeline.recipe import read_recipe, recipe_from
from shared.errors import UserError

GOOD = """
- structured: {layers: 1, neurons: 0.25}
- prune: {method: wanda, pattern: "2:4"}
  quantize: {method: gptq, bits: 4, group_size: 64, overrides: {"*.down_proj": {bits: 8}}}
- prune: {method: magnitude}
- recover:
- cast: {dtype: float16}
"""


def test_a_recipe_is_read_and_says_all_its_choices(tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    found = read_recipe(tmp_path / "r.yaml")
    said = found.as_json()
    assert [list(step) for step in said] == [
        ["structured"],
        ["prune", "quantize"],
        ["prune"],
        ["recover"],
        ["cast"],
    ]
    assert said[1]["prune"]["scope"] == "row"
    assert said[1]["quantize"]["damping"] == 0.01
    assert recipe_from(yaml.safe_load(yaml.safe_dump(said))) == found


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("[{quantize: {method: rtn}}, {cast: {}}]", False),
        ("[{quantize: {method: hqq}, prune: {method: magnitude}}]", False),
        ("[{structured: {neurons: .5}}]", False),
        ("[{structured: {layers: 1}}]", True),
        ("[{quantize: {method: awq}}]", True),
        ("[{prune: {method: wanda}}]", True),
        ("[{recover: {}}]", True),
    ],
)
def test_what_needs_text_is_known(text, reads):
    assert recipe_from(yaml.safe_load(text)).needs_text is reads


BAD = [
    ("", "a recipe must be a list of steps, got None"),
    ("quantize: {}", "a recipe must be a list of steps"),
    ("[]", "a recipe must be a list of steps"),
    ("[quantize]", "step 1 must be one of prune, quantize, structured, recover, cast"),
    ("[{}]", "step 1 must be one of"),
    ("[{quantise: {}}]", "step 1 must be one of"),
    ("[{quantize: {}, cast: {}}]", "step 1 must hold one part, or prune and quantize"),
    ("[{quantize: 4}]", "quantize must be options by name, got 4"),
    ("[{quantize: {bit: 4}}]", "quantize must have options of method, bits"),
    ("[{quantize: {bits: 5}}]", "bits must be 2, 3, 4 or 8, got 5"),
    ("[{quantize: {bits: four}}]", "bits must be a whole number, got 'four'"),
    ("[{quantize: {bits: true}}]", "bits must be a whole number, got True"),
    ("[{quantize: {method: best}}]", "method must be one of rtn, gptq, awq, smoothquant, hqq"),
    ("[{quantize: {group_size: 1}}]", "group_size must be at least 2, got 1"),
    ("[{quantize: {damping: -1}}]", "damping must be in [0, 1], got -1"),
    ("[{quantize: {damping: .nan}}]", "damping must be in [0, 1], got nan"),
    ("[{quantize: {method: awq, act_order: true}}]", "act_order must be left out but for gptq"),
    ("[{quantize: {method: hqq, symmetric: true}}]", "symmetric must be off for hqq"),
    ("[{quantize: {method: smoothquant, bits: 4}}]", "bits must be 8 for smoothquant"),
    ("[{quantize: {method: smoothquant, bits: 8, alpha: 2}}]", "alpha must be in [0, 1]"),
    ("[{quantize: {bits: 8, int8_inputs: true}}]", "int8_inputs must go with symmetric weights"),
    ("[{quantize: {embedding_bits: 3}}]", "embedding_bits must be 4 or 8, got 3"),
    (
        "[{quantize: {embedding_bits: 4, embedding_group_size: 1}}]",
        "embedding_group_size must be at least 2, got 1",
    ),
    ("[{quantize: {embedding_method: gptq}}]", "embedding_bits must be given with"),
    ("[{quantize: {overrides: 3}}]", "overrides must be a mapping, got 3"),
    ("[{quantize: {overrides: {a: 3}}}]", "overrides must hold bits, group_size, symmetric for a"),
    ("[{quantize: {overrides: {a: {bits: 7}}}}]", "bits must be 2, 3, 4 or 8, got 7"),
    ("[{prune: {sparsity: 1}}]", "sparsity must be in [0, 1), got 1"),
    ("[{prune: {sparsity: .nan}}]", "sparsity must be in [0, 1), got nan"),
    ("[{prune: {pattern: '4:2'}}]", "pattern must be n:m with n below m"),
    ("[{prune: {pattern: '2-4'}}]", "pattern must be n:m with n below m"),
    ("[{prune: {pattern: 2:4}}]", "pattern must be text, got 124"),  # YAML's base 60
    ("[{prune: {scope: row}}]", "scope must be layer for sparsegpt, got row"),
    ("[{prune: {method: wanda, scope: global}}]", "scope must be row or layer for wanda"),
    ("[{prune: {method: magnitude, pattern: '2:4', scope: layer}}]", "scope must be row where"),
    ("[{structured: {}}]", "structured must say how many heads, neurons or layers"),
    ("[{structured: {heads: 1}}]", "heads must be in [0, 1), got 1"),
    ("[{structured: {layers: -1}}]", "layers must be at least 0, got -1"),
    ("[{recover: {steps: 0}}]", "steps must be at least 1, got 0"),
    ("[{recover: {lr: 0}}]", "lr must be in (0, 1), got 0"),
    ("[{recover: {temperature: 0}}]", "temperature must be in (0, 100], got 0"),
    ("[{recover: {method: qat}}]", "method must be one of full, lora"),
    ("[{cast: {dtype: int8}}]", "dtype must be one of float32, bfloat16, float16"),
    ("[{cast: {}}, {prune: {}}]", "cast must be the last step"),
    ("[{quantize: {}}, {quantize: {}}]", "quantize must be in one step only"),
    ("[{quantize: {}}, {prune: {}}]", "prune after quantize must leave the codes alone"),
    ("[{prune: {}}, {structured: {layers: 1}}]", "structured must come before prune and quantize"),
    (
        "[{quantize: {method: smoothquant, bits: 8}}, {recover: {}}]",
        "recover must come before inputs are rounded",
    ),
    ("[{quantize: {}", "is not YAML"),
    ("!!python/object/apply:os.system [ls]", "is not YAML"),
]


@pytest.mark.parametrize(("text", "line"), BAD, ids=[text[:40] for text, _ in BAD])
def test_mistakes_are_told_in_one_line(text, line, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_recipe(tmp_path / "r.yaml")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml cannot be read \(No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b.yaml cannot be read"):
        read_recipe(tmp_path / "b.yaml")
