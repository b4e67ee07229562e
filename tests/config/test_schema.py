"""The declarations of keys: what they accept, what they refuse and how, and that every key has one."""

import math
import random
import time
from itertools import cycle
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from expkit.config import checks, schema
from expkit.config.command_line import CommandLine
from expkit.errors import UserError
from expkit.runs import resolvers
from expkit.runs.job import ComposedConfig

GROUPS = ("model", "sampler", "trainer", "data", "logger")


def commands() -> list[tuple[str, ...]]:
    """Arguments among which every option of every group is: as few commands as there can be, for composing takes its time."""

    def known(group: str) -> list[str]:
        return [*checks.group_options(group)]

    def overrides(group: str) -> list[str]:
        return [f"{group}={option}" for option in known(group)]

    others = zip(*(cycle(overrides(group)) for group in GROUPS), strict=True)
    first = ("task=sample", "film@task.film=frames", "judges@model.judges=clip", "hydra/sweeper=search")
    rows = [first, *[(f"task={task}",) for task in known("task")]]
    pins, schedules, views = cycle(known("pin")), cycle(known("schedule")), known("view")
    rows += [
        ("task=inpaint", f"estimate@task.estimate={estimate}", f"pin@task.pin={next(pins)}")
        for estimate in known("estimate")
    ]
    assert len(rows) > max(len(known(group)) for group in GROUPS) and len(views) // 2 >= len(
        known("schedule")
    )
    rows = [rows[0], *[(*row, *next(others)) for row in rows[1:]]]
    for upright, turned in zip(views[::2], views[1::2], strict=True):
        looks = (f"view@task.estimate.views.upright={upright}", f"view@task.estimate.views.turned={turned}")
        rows.append(("task=anagram", *looks, f"schedule@trainer.objective.schedule={next(schedules)}"))
    return rows


EACH, DECLARATIONS = commands(), schema.find_declarations
UNDECLARED = ("_target_", "_partial_")


@pytest.fixture(scope="module")
def composed():
    """Every option of every group, composed."""
    resolvers.register_resolvers()
    GlobalHydra.instance().clear()
    found = []
    with initialize_config_dir(str(schema.config_folder()), version_base="1.3"):
        for arguments in EACH:
            found.append(ComposedConfig(compose("config", [*arguments], return_hydra_config=True)))
    return dict(zip(EACH, found, strict=True))


def of(arguments, composed) -> tuple[dict, dict[str, schema.Declaration]]:
    one = composed[arguments]
    HydraConfig.instance().set_config(one.config)
    return one.resolve({}), one.declared


def leaves(node, path: str = ""):
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path


@pytest.mark.parametrize(
    ("of", "fits", "fits_not"),
    [
        ("int >= 1", [1, 33], [0, -1, 1.0, 2.5, True, "1", None, math.nan, [1], {}]),
        ("int 0 .. 999 | null", [0, 999, None], [1000, -1, "null", "", [None]]),
        ("int >= 4 by 4", [4, 28], [0, 5, 2]),
        ("float > 0", [1e-9, 3], [0, -1, math.inf, math.nan, "1", False]),
        ("float 0 .. 1", [0, 1, 0.5], [1.5, -0.1, -math.inf]),
        ("bool", [True, False], ["no", "yes", 0, 1, None]),
        ("str", ["", "日本"], [3, None, []]),
        ("path", ["a.png"], ["", "  ", 5, None, True]),
        ("prompt", ["", "a cat", 3, 2.5], [None, True, math.nan, [], {}]),
        ("crop | pad", ["crop", "pad"], ["stretch", "", None, ["crop"]]),
        ("list of int >= 1 | []", [[1, 2], []], [[0], [1, "a"], 1, "12"]),
        ("dict | null", [{}, {"a": 1}, None], ["a", 1, []]),
        ("float, batch", [1, [1, 2.5]], [[], [1, "a"], [[1]], [None]]),
    ],
)
def test_what_a_type_accepts(of, fits, fits_not):
    declared = schema.Declaration.parse(f"{of}: words", "")
    assert all(map(declared.accepts, fits)) and not any(map(declared.accepts, fits_not))


def test_types_are_told_in_english():
    types = ("int >= 1 | null", "float 0 .. 1", "int >= 4 by 4", "crop | pad", "list of int >= 1")
    assert [schema.Declaration.parse(of, "").noun for of in types] == [
        "a whole number of 1 or more, or null", "a number from 0 to 1", "a whole number of 4 or more, a multiple of 4", "crop or pad",
        "a list of whole numbers of 1 or more",
    ]  # fmt: skip


def test_a_declaration_that_cannot_be_read_is_found_at_once():
    with pytest.raises(ValueError, match="not a type"):
        schema.Declaration.parse("int from one: words", "")


def test_defaults_fit_their_declarations(composed):
    for arguments in EACH:
        schema.check_config(*of(arguments, composed))


def test_every_key_that_can_be_set_has_a_declaration(composed):
    without = set()
    for arguments, one in composed.items():
        _, declared = of(arguments, composed)
        whole = tuple(f"{path}." for path, of_path in declared.items() if "dict" in of_path.type)
        own = OmegaConf.to_container(
            OmegaConf.masked_copy(one.config, [key for key in one.config if key != "hydra"]), resolve=False
        )
        paths = {path for path in leaves(own) if not path.endswith(UNDECLARED) and not path.startswith(whole)}
        without |= paths - set(declared)
    assert not {path for path in without if not path.endswith((".judges", ".film"))}, (
        without
    )  # null where nobody reads, nothing is filmed


def test_a_new_prompt_key_is_one_line():
    assert schema.prompt_keys()[:2] == ("prompt", "far") and schema.batch_keys()[-3:] == (
        "image",
        "i_start",
        "seed",
    )
    declared = [path for path, one in schema.top_level_keys().items() if one.type == "prompt | null"]
    assert set(declared) < set(schema.prompt_keys())


def bad(declared: schema.Declaration, key: str, rng: random.Random) -> str:
    """A value, as it is typed, that the declaration does not accept."""
    typed = {
        "abc": "abc", "null": None, "true": True, "nan": math.nan, "inf": math.inf, "-1": -1, "0": 0, "1.5": 1.5, "1e12": 1e12, "''": "",
        "[]": [], "[abc]": ["abc"], "[1,[2]]": [1, [2]], "{a: 1}": {"a": 1}, "'猫 ☃'": "猫 ☃", "-0.5": -0.5, "no": "no",
    }  # fmt: skip
    wrong = [text for text, value in typed.items() if not declared.accepts(value)]
    return f"{key}={rng.choice(wrong)}"


CASES = 100


@pytest.fixture(scope="module")
def bad_values(composed) -> list[list[str]]:
    """As many commands, each with one value that does not fit, drawn over all keys of all declarations."""
    rng, pool = random.Random(0), {}
    for arguments in composed:
        pool |= {
            path: (arguments, one)
            for path, one in of(arguments, composed)[1].items()
            if not path.startswith(("task.", "hydra"))
        }
    chosen = [
        *schema.top_level_keys(),
        *rng.sample(sorted(set(pool) - set(schema.top_level_keys())), CASES - len(schema.top_level_keys())),
    ]
    return [[*pool[path][0], bad(pool[path][1], path, rng)] for path in chosen]


@pytest.mark.parametrize(
    "argument",
    [
        "steps=[3,4]",
        "trainer.batch_size=2.5",
        "data.limit=-3",
        "model.max_rows=0",
        "trainer.network=abc",
        "sweep=1",
    ],
)
def test_a_value_that_does_not_fit_is_a_sentence(argument, expkit):
    done = expkit(argument)
    assert done.code == 2 and argument.partition("=")[0] in done.err and done.err.count("\n") == 1
    assert not [path for path in Path("outputs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "-3",
        "+1_000",
        "1e3",
        "1.5",
        ".5",
        "inf",
        "-nan",
        "null",
        "True",
        "no",
        "a dog",
        "'a, b'",
        '"3"',
        "[1,2]",
        "[a dog,1.5]",
        "[]",
    ],
)
def test_plain_values_are_what_hydra_reads(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    unquoted = lambda value: (
        [*map(unquoted, value)] if isinstance(value, list) else getattr(value, "text", value)
    )
    mine, theirs = (
        schema.parse_scalar(text),
        unquoted(OverridesParser.create().parse_override(f"key={text}").value()),
    )
    assert type(mine) is type(theirs) and (mine == theirs or mine != mine)


@pytest.mark.parametrize(
    "text",
    [
        "1,2",
        "a,b",
        "${seed}",
        "{a: 1}",
        "range(1,3)",
        "[1],[2]",
        "'a' b",
        "C:\\x",
        "007",
        "猫",
        "a/b",
        "[[1,2],3]",
    ],
)
def test_what_is_not_plain_is_left_to_hydra(text):
    with pytest.raises(ValueError):
        schema.parse_scalar(text)


def test_of_a_key_that_is_given_twice_the_last_value_counts():
    checks.check_values(CommandLine.of(["steps=abc", "steps=3"]))
    with pytest.raises(UserError, match="steps=abc does not fit"):
        checks.check_values(CommandLine.of(["steps=3", "steps=abc"]))


def test_what_is_known_of_keys_before_a_configuration_is_composed_is_what_is_known_after(composed):
    """All that may be refused at once would be refused in the end, with the same sentence."""
    for arguments in composed:
        whole, asked = of(arguments, composed)[1], []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                schema,
                "find_declarations",
                lambda choices, asked=asked: asked.append(DECLARATIONS(choices)) or asked[-1],
            )
            checks.check_values(CommandLine.of(arguments))
        early = asked[0] if asked else {}
        said = lambda one: (one.type, one.batch, one.description)
        apart = {
            key: (said(early[key]), said(whole[key]))
            for key in early
            if key in whole and said(early[key]) != said(whole[key])
        }
        assert not apart, (arguments, apart)


@pytest.mark.slow
def test_bad_values_leave_at_once_with_code_2_and_import_nothing_heavy(bad_values, tmp_path):
    import subprocess
    import sys

    took = []
    code = "import sys; import expkit.__main__ as m\ntry: m.main()\nfinally: print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    for arguments in bad_values:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        took.append(time.perf_counter() - began)
        assert done.returncode == 2 and done.stdout == "set()\n", (arguments, done)
        assert done.stderr.startswith("expkit: ") and done.stderr.count("\n") == 1, (arguments, done.stderr)
    print(
        f"{len(took)} commands: {sorted(took)[len(took) // 2]:.2f} s in the middle, {max(took):.2f} s at the most"
    )
    assert not [*tmp_path.rglob("*.*")]
