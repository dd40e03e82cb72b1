"""Every recipe and every row of a table composes, and has the numbers of the source it names."""

import pytest
from omegaconf import OmegaConf
from tiny_bench import CONFIGS, TASKS, compose

from craft.bench.settings.declared import flatten, plain
from craft.bench.settings.resolve import OF_RECIPE, check, recipe_row

GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")  # as in LoRA's tables
SIX = ("sst2", "mrpc", "cola", "qnli", "rte", "stsb")  # as in tables after VeRA
MODELS = ("roberta_base", "roberta_large")
ROWS = sorted(path.stem for path in (CONFIGS / "row").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))

# Fields of train and of the method as their sources print them: one value a task, or one for all;
# a|b where the source has a grid.
LORA_LARGE = {  # LoRA (arXiv 2106.09685), Table 9
    "batch_size": "4 4 4 4 4 4 8 8",
    "epochs": "10 10 20 20 10 20 20 30",
    "lr": "3e-4 4e-4 3e-4 2e-4 2e-4 3e-4 4e-4 2e-4",
    "max_length": "128 128 512 128 512 512 512 512",
    "warmup": "0.06",
    "weight_decay": "0.1",  # of the scripts
    "r": "8",
    "lora_alpha": "16",
}
LORA_BASE = {
    "batch_size": "16 16 16 32 32 16 32 16",
    "epochs": "30 60 30 80 25 25 80 40",
    "lr": "5e-4 5e-4 4e-4 4e-4 4e-4 5e-4 5e-4 4e-4",
    "max_length": "512",
    "warmup": "0.06",
    "weight_decay": "0.1",  # of the scripts
    "r": "8",
    "lora_alpha": "8",
}
ADAPTER = {"batch_size": "32", "max_length": "128", "warmup": "0.06"}
ADAPTER_P = ADAPTER | {"epochs": "10 20 20 20 10 20 20 20"}
ADAPTER_H = ADAPTER | {"epochs": "10 5 10 10 5 20 20 10"}
# daskol/lotr, scripts of commit 5f5f433; its warm-up is 6 % of ten epochs, whatever their number
LOTR = {"batch_size": "16", "epochs": "20", "max_length": "256", "weight_decay": "0.1"}
LOTR |= {"warmup": "0.03", "beta2": "0.98", "eps": "1e-6"}
LORA_XS = {"batch_size": "32", "max_length": "128", "warmup": "0.06", "alpha": "16"}
LORA_XS |= {  # MohammadrezaBanaei/LoRA-XS; torch's AdamW with its own weight decay
    "weight_decay": "0.01",
    "lr": "1e-4|5e-4|1e-3 6e-4|1e-3 1e-4|5e-4|1e-3 1e-4|5e-4|1e-3 6e-4|1e-3 6e-4|1e-3",
    "head_lr": "5e-4|1e-3|5e-3 6e-4|1e-3 5e-4|1e-3|5e-3 5e-4|1e-3|5e-3 6e-4|1e-3 6e-4|1e-3",
    "epochs": "10 50 10 10 50 50",
}
FOURIERFT = {"n_frequency": "1000", "random_loc_seed": "2024", "weight_decay": "0"}
FOURIERFT |= {"warmup": "0.06"}  # Chaos96/fourierft, scripts *-best.sh
VERA = {"weight_decay": "0", "warmup": "0.06"}  # TonAnh/VeRA-plus, ihounie/lorta
VBLORA = {"vector_length": "256", "num_vectors": "90", "r": "4"}  # arXiv 2405.15179; peft's fields
UNILORA = {"r": "4", "theta_d_length": "23040"}  # KaiyangLi1992/Uni-LoRA
SOURCES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "row=base_lora": ("LoRA Table 9", GLUE, LORA_BASE),
    "row=base_pissa": ("PiSSA", GLUE, LORA_BASE),  # "hyperparameters identical to LoRA"
    "row=large_lora": ("LoRA Table 9", GLUE, LORA_LARGE),
    "row=large_pissa": ("PiSSA", GLUE, LORA_LARGE),
    "row=large_lora_dagger": (
        "LoRA Table 9",
        GLUE,
        LORA_LARGE | {"batch_size": "4", "max_length": "128", "epochs": "10 10 20 20 10 20 20 10"},
    ),
    "row=large_adpt_p_3.0": (
        "LoRA Table 9",
        GLUE,
        ADAPTER_P | {"lr": "3e-5 3e-5 3e-4 3e-4 3e-4 3e-4 3e-4 3e-4", "bottleneck": "64"},
    ),
    "row=large_adpt_p_0.8": (
        "LoRA Table 9",
        GLUE,
        ADAPTER_P | {"lr": "3e-4", "epochs": "5 20 20 20 10 20 20 20", "bottleneck": "16"},
    ),
    "row=large_adpt_h_6.0": (
        "LoRA Table 9",
        GLUE,
        ADAPTER_H | {"lr": "3e-5 3e-4 3e-4 3e-4 3e-4 3e-4 3e-4 3e-4", "bottleneck": "64"},
    ),
    "row=large_adpt_h_0.8": ("LoRA Table 9", GLUE, ADAPTER_H | {"lr": "3e-4", "bottleneck": "8"}),
    "row=base_craft": ("LoTR scripts", (*GLUE, "wnli"), LOTR),
    "row=large_craft": ("LoTR scripts", (*GLUE, "wnli"), LOTR),
    "row=base_lotr": ("LoTR scripts", (*GLUE, "wnli"), LOTR),
    "row=large_lotr": ("LoTR scripts", (*GLUE, "wnli"), LOTR),
    "row=base_bitfit": ("BitFit's", GLUE, {"lr": "1e-3"}),
    "row=large_lora_xs": ("LoRA-XS scripts", SIX, LORA_XS),
    "row=base_vera": (
        "VeRA-plus",
        SIX,
        VERA
        | {
            "r": "1024",
            "max_length": "512",
            "batch_size": "64",
            "head_lr": "4e-3 4e-3 1e-2 4e-3 1e-2 1e-2",
            "lr": "4e-3 1e-2 1e-2 1e-2 4e-3 1e-2",
            "epochs": "60 30 80 25 160 80",
        },
    ),
    "row=large_vera": (
        "VeRA-plus",
        SIX,
        VERA
        | {
            "r": "256",
            "max_length": "128",
            "batch_size": "128",  # 32 on each of four devices
            "head_lr": "6e-3 3e-3 6e-3 2e-4 2e-3 2e-3",
            "lr": "1e-2 3e-2 1e-2 1e-2 2e-2 2e-2",
            "epochs": "10 40 40 20 40 20",
        },
    ),
    "method=fourierft model=roberta_base": (
        "FourierFT scripts",
        SIX,
        FOURIERFT
        | {
            "batch_size": "32",
            "max_length": "512",
            "lr": "0.05 0.05 0.12 0.1 0.09 0.09",
            "head_lr": "0.006 0.006 0.008 0.001 0.011 0.009",
            "scaling": "140 151 49 29 110 84",
            "epochs": "40 30 100 40 90 60",
        },
    ),
    "method=fourierft model=roberta_large": (
        "FourierFT scripts",
        SIX,
        FOURIERFT
        | {
            "batch_size": "32 32 128 32 32 32",
            "max_length": "128 512 256 512 512 512",
            "lr": "0.043 0.06 0.043 0.06 0.08 0.07",
            "head_lr": "0.001 0.003 0.011 0.005 0.005 0.001",
            "scaling": "99 99 120 69 90 121",
            "epochs": "10 40 80 30 60 30",
        },
    ),
    "method=vblora model=roberta_base": ("VB-LoRA's", GLUE, VBLORA | {"lr": "1e-3"}),
    "method=vblora model=roberta_large": ("VB-LoRA's", GLUE, VBLORA | {"lr": "1e-3"}),
    "method=unilora model=roberta_base": ("", GLUE, UNILORA),
    "method=unilora model=roberta_large": ("", GLUE, UNILORA),
}


CHOICES = [f"row={row}" for row in ROWS]
CHOICES += [f"method={method} model={model}" for method in METHODS for model in MODELS]


def resolved(choice: str, task: str):
    """What a command line composes, checked as a run checks it."""
    return plain(check(compose(*choice.split(), f"task.name={task}", "train.device=cpu")))


@pytest.mark.parametrize("choice", SOURCES)
def test_recipe_has_the_numbers_of_its_source(choice):
    named, tasks, fields = SOURCES[choice]
    for place, task in enumerate(tasks):
        found = resolved(choice, task)
        values = found["train"] | found["method"]["peft"]
        assert named in found["recipe"]["source"]
        for field, printed in fields.items():
            each = printed.split()
            assert len(each) in (1, len(tasks)), field
            known = [float(value) for value in each[place % len(each)].split("|")]
            assert values[field] in known, (task, field, values[field], known)
        if "lr" in fields and "head_lr" not in fields:  # one rate for both
            assert values["head_lr"] == values["lr"], task


@pytest.fixture(scope="module")
def held():
    """Source, method, model and task of all numbers above."""
    found = set()
    for choice, (named, tasks, _) in SOURCES.items():
        cfg = compose(*choice.split())
        for task in tasks if named else ():
            found.add((named, cfg.method.label, cfg.model.name, task))
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes_on_every_task_and_its_source_is_held_above_or_ours(choice, held):
    for task in TASKS:
        found = resolved(choice, task)
        assert found["row_id"] == (choice.removeprefix("row=") if "row=" in choice else None)
        source, at = found["recipe"]["source"], (found["method"]["label"], found["model"]["name"])
        cited = [one for one in held if one[0] in source and one[1:] == (*at, task)]
        assert cited or "ours: untested" in source, (task, source)


@pytest.mark.parametrize("method", METHODS)
def test_every_other_recipe_says_that_its_numbers_are_ours_or_the_users(method):
    for model, said in {"roberta_mini": "ours", "local": "given on the command line"}.items():
        recipe = compose(f"method={method}", f"model={model}").recipe
        for task in TASKS:
            assert said in recipe_row(recipe, task)["source"], (model, task)


def test_row_says_what_differs_from_all_tasks_and_an_override_of_it_stays_its_own():
    line = ["method=lora", "model=roberta_large", "recipe._all.epochs=7", "recipe.rte.epochs=9"]
    recipe = compose(*line).recipe
    epochs = {task: recipe_row(recipe, task)["epochs"] for task in ("rte", "qqp", "stsb")}
    assert epochs == {"rte": 9, "qqp": 7, "stsb": 30}  # 30: a row of the file


def test_value_that_a_recipe_leaves_open_is_not_in_its_row():
    open_ones = {"lr", "head_lr", "epochs"}
    assert not open_ones & recipe_row(compose("model=local").recipe, "rte").keys()
    given = compose("model=local", "recipe.rte.lr=0.5").recipe
    assert open_ones & recipe_row(given, "rte").keys() == {"lr"}


def test_every_task_has_a_row_with_every_field_that_a_setting_or_a_method_reads():
    for method in METHODS:
        cfg = compose(f"method={method}")
        named = {"train": cfg.train, "method": cfg.method}
        values = flatten({k: OmegaConf.to_container(v, resolve=False) for k, v in named.items()})
        read = {found[1] for _, v in values if (found := OF_RECIPE.fullmatch(str(v)))}
        assert "lr" in read
        for task in TASKS:
            assert read | {"source"} <= cfg.recipe[task].keys(), (method, task)


def test_model_without_a_recipe_takes_another_ones_where_it_is_told_to():
    told = compose("model=local", "recipe=lora/roberta_base", "method=lora", "task=rte")
    assert (told.train.epochs, told.model.name) == (80, None)
