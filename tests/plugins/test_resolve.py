from __future__ import annotations

import json

import pytest

from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.plugins import drivers
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve

CONFIG = {
    "architectures": ["Made"],
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "rope": {"a": 1, "b": 2},
}
MODULE = """
    import json
    from sgcore import api

    class Model(api.Model):
        pass

    class Device(api.Platform):
        dtypes = ("float32", "bfloat16")
        default_attention = "plain"

    class Attention(api.AttentionBackend):
        pass

    class Quant(api.QuantScheme):
        pass

    class Source(api.WeightSource):
        def __init__(self, path):
            self.path = path

        def hf_config(self):
            return json.loads((self.path / "config.json").read_text())

        def tokenizer_config(self):
            file = self.path / "tokenizer_config.json"
            return json.loads(file.read_text()) if file.exists() else {}

        def tokenizer(self): ...
        def tensors(self): ...
"""
HOOKS = """
    from sgcore.api import PlatformOffer
    from sgcore.hookspecs import hookimpl

    @hookimpl
    def sgcore_offer_platform():
        return PlatformOffer("device", "made up")

    @hookimpl
    def sgcore_select_weights(path):
        return "folder" if path.is_dir() else None
"""
POINTS = {
    "sgcore.models": {"Made": "made:Model", "Other": "made:Model"},
    "sgcore.platforms": {"device": "made:Device"},
    "sgcore.attention": {"plain": "made:Attention", "fancy": "made:Attention"},
    "sgcore.quantization": {"q4": "made:Quant", "q8": "made:Quant"},
    "sgcore.weights": {"folder": "made:Source"},
    "sgcore.plugins": {"made": "made_hooks"},
}


@pytest.fixture
def folder(site, tmp_path):
    site.install("sgcore-made", POINTS, modules={"made": MODULE, "made_hooks": HOOKS})
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def plan_for(site, folder):
    def plan_for(config=None, **options):
        if config is not None:
            (folder / "config.json").write_text(json.dumps(CONFIG | config))
        installed = site.installed()
        return resolve(Choices.of(model_path=str(folder), **options), installed=installed)

    return plan_for


def decided_by(plan: Plan, name: str) -> str:
    return next(decision.decided_by for decision in plan.decisions if decision.name == name)


def test_the_plan_names_every_driver_and_who_decided(plan_for):
    plan = plan_for()
    drivers = (plan.model, plan.platform, plan.attention, plan.source)
    assert [driver.name for driver in drivers] == ["Made", "device", "plain", "folder"]
    assert plan.quantization is None
    assert (plan.dtype, plan.context_tokens) == ("bfloat16", 512)
    assert decided_by(plan, "model_impl") == "config.json"
    assert decided_by(plan, "platform") == "offer of sgcore-made"
    assert decided_by(plan, "attention_backend") == "default of platform device"
    assert decided_by(plan, "load_format") == "plugin sgcore-made"


def test_every_option_has_one_decision(plan_for):
    plan = plan_for(port=1234)
    names = [decision.name for decision in plan.decisions]
    assert len(names) == len(set(names)) and set(plan.options) <= set(names)
    assert decided_by(plan, "port") == "user" and decided_by(plan, "host") == "default"


def test_a_plan_survives_json_without_its_secret(plan_for):
    plan = plan_for({"quantization_config": {"quant_method": "q4"}}, api_key="hidden", port=1)
    text = plan.to_json()
    assert "hidden" not in text
    back = Plan.from_json(text)
    assert back.choices.server.api_key is None and back.choices.server.port == 1
    assert (back.model, back.quantization, back.dtype) == (plan.model, plan.quantization, plan.dtype)
    assert back.model_path == plan.model_path and back.context_tokens == plan.context_tokens
    assert back.decisions == tuple(Plan.from_json(back.to_json()).decisions)


def test_flags_beat_hooks_and_configuration(plan_for):
    plan = plan_for(
        {"quantization_config": {"quant_method": "q4"}},
        attention_backend="fancy", quantization="q8", dtype="half", context_length=100, platform="device",
    )  # fmt: skip
    assert plan.quantization is not None
    assert (plan.attention.name, plan.quantization.name, plan.dtype) == ("fancy", "q8", "float16")
    assert plan.context_tokens == 100
    assert decided_by(plan, "dtype") == "--dtype (the platform prefers float32)"


@pytest.mark.parametrize(
    ("hook", "field", "expected"),
    [
        ("sgcore_resolve_architecture(hf_config): return 'Other'", "model", "Other"),
        ("sgcore_select_attention(platform, traits): return 'fancy' if traits.task else None", "attention", "fancy"),
        ("sgcore_select_quantization(hf_config): return 'q8'", "quantization", "q8"),
    ],
)  # fmt: skip
def test_hooks_answer_before_the_configuration(site, plan_for, hook, field, expected):
    site.plugin("p-hook", f"@hookimpl\ndef {hook}\n")
    assert getattr(plan_for({"quantization_config": {"quant_method": "q4"}}), field).name == expected


def test_overrides_are_merged_by_key(plan_for):
    plan = plan_for(json_model_override_args='{"rope": {"b": 3}, "max_position_embeddings": 9}')
    assert plan.hf_config["rope"] == {"a": 1, "b": 3} and plan.context_tokens == 9


@pytest.mark.parametrize("said", ["{", "[]", "3"])
def test_overrides_that_are_no_object_are_a_usage_error(plan_for, said):
    with pytest.raises(LaunchError, match="json-model-override-args") as caught:
        plan_for(json_model_override_args=said)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "bfloat16"),
        ({"dtype": "float32"}, "float32"),
        ({"torch_dtype": "float16"}, "float32"),
        ({"torch_dtype": None}, "float32"),
        ({"torch_dtype": None, "text_config": {"dtype": "torch.bfloat16"}}, "bfloat16"),
    ],
)
def test_the_number_format_is_the_checkpoints_if_the_platform_does_it_well(plan_for, config, expected):
    assert plan_for(config).dtype == expected


@pytest.mark.parametrize(
    ("config", "options", "text"),
    [
        ({}, {"context_length": 513}, "513 is more than the model's 512"),
        ({"max_position_embeddings": None}, {}, "no context length"),
        ({"architectures": []}, {}, "no architecture"),
        (
            {"architectures": ["Unknown"]},
            {},
            "no installed plugin provides the model 'Unknown'; installed: Made, Other",
        ),
        ({}, {"model_impl": "other"}, "no installed plugin provides the model 'other'; installed: Made, Other"),
        ({"quantization_config": {"quant_method": "q1"}}, {}, "quantization 'q1'"),
        ({}, {"platform": "other"}, "platform 'other'"),
        ({}, {"attention_backend": "other"}, "attention 'other'"),
        ({}, {"load_format": "other"}, "weights 'other'"),
        ({}, {"dtype": "int3"}, "--dtype int3"),
    ],
)
def test_what_cannot_be_decided_is_said_by_name(plan_for, config, options, text):
    with pytest.raises(LaunchError, match=text):
        plan_for(config, **options)


def test_a_path_that_no_plugin_reads(site, folder, tmp_path):
    path = tmp_path / "weights.xyz"
    path.touch()
    with pytest.raises(LaunchError, match=r"no installed plugin reads .*formats installed: folder"):
        resolve(Choices.of(model_path=str(path)), installed=site.installed())


def test_all_reasons_against_a_plan_are_listed(site, plan_for):
    site.plugin("p-a", "@hookimpl\ndef sgcore_check(plan): return ['too big', 'too old']\n")
    site.plugin("p-b", "@hookimpl\ndef sgcore_check(plan): return [plan.platform.name + ' is busy']\n")
    with pytest.raises(LaunchError, match="too big; too old; device is busy"):
        plan_for()


def test_plugins_give_defaults_to_options_that_the_user_left_alone(site, plan_for):
    site.plugin("p-a", "@hookimpl\ndef sgcore_default_options(plan): return {'page_size': 64, 'threads': 3}\n")
    plan = plan_for(threads=5)
    assert (plan.options["page_size"], plan.options["threads"]) == (64, 5)
    assert (plan.choices.runtime.page_size, plan.choices.runtime.threads) == (64, 5)
    assert decided_by(plan, "page_size") == "plugin p-a" and decided_by(plan, "threads") == "user"


def test_two_different_defaults_are_an_error_that_names_both(site, plan_for):
    for name, value in (("p-a", 64), ("p-b", 32)):
        site.plugin(name, f"@hookimpl\ndef sgcore_default_options(plan): return {{'page_size': {value}}}\n")
    with pytest.raises(LaunchError, match="p-a and p-b differ on page_size: 64 and 32"):
        plan_for()
    assert plan_for(page_size=16).options["page_size"] == 16


@pytest.mark.parametrize("answer", [{"platform": "x"}, {"api_key": "x"}, {"nonsense": 1}, {"model_path": "x"}])
def test_some_options_take_no_default_from_a_plugin(site, plan_for, answer):
    site.plugin("p-a", f"@hookimpl\ndef sgcore_default_options(plan): return {answer!r}\n")
    with pytest.raises(LaunchError, match="takes none"):
        plan_for()


def test_a_bad_default_names_the_plugin(site, plan_for):
    site.plugin("p-a", "@hookimpl\ndef sgcore_default_options(plan): return {'page_size': -1}\n")
    with pytest.raises(LaunchError, match=r"--page-size \(plugin p-a\)"):
        plan_for()


def test_options_of_plugins_are_in_the_plan(site, plan_for):
    site.plugin("p-a", "@hookimpl\ndef sgcore_add_options(parser): parser.add('extra-size', 4, 'How large.')\n")
    assert plan_for().options["extra_size"] == 4
    assert plan_for(plugin_options={"extra_size": 5}).options["extra_size"] == 5
    with pytest.raises(LaunchError, match="no installed plugin has the option 'other'"):
        plan_for(plugin_options={"other": 5})


def test_an_option_that_is_taken_disables_the_plugin(site, plan_for):
    site.plugin("p-a", "@hookimpl\ndef sgcore_add_options(parser): parser.add('port', 4, '')\n")
    hooks = site.hooks()
    resolve(Choices.of(model_path=plan_for().model_path), installed=site.installed(), hooks=hooks)
    assert "'port' is taken" in hooks.disabled[0].reason


TEMPLATE_HOOKS = """
    @hookimpl
    def sgcore_select_tool_call_parser(chat_template):
        return "angle" if "<call>" in chat_template else None

    @hookimpl
    def sgcore_select_reasoning_parser(chat_template):
        return "angle" if "<think>" in chat_template else None
"""
FORMATS = """
    from sgcore.api import ResponseFormat
    ANGLE = ResponseFormat({})
    WRONG = {}
"""


@pytest.fixture
def with_formats(site):
    site.install(
        "p-forms", {"sgcore.parsers": {"angle": "forms:ANGLE", "wrong": "forms:WRONG"}}, [], {"forms": FORMATS}
    )
    site.plugin("p-templates", TEMPLATE_HOOKS)


def give_tokenizer_config(folder, chat_template, response_template=None):
    config = {"chat_template": chat_template, "response_template": response_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_parsers_are_found_by_the_chat_template(plan_for, folder, with_formats):
    give_tokenizer_config(folder, [{"name": "default", "template": "x"}, {"name": "tools", "template": "<call>"}])
    plan = plan_for()
    assert plan.tool_call_parser is not None and plan.tool_call_parser.name == "angle"
    assert plan.reasoning_parser is None
    assert decided_by(plan, "tool_call_parser") == "plugin p-templates"
    assert Plan.from_json(plan.to_json()).tool_call_parser == plan.tool_call_parser


def test_flags_beat_the_chat_template(plan_for, folder, with_formats, tmp_path):
    give_tokenizer_config(folder, "<call><think>")
    plan = plan_for(tool_call_parser="none", reasoning_parser="wrong")
    assert plan.tool_call_parser is None
    assert plan.reasoning_parser is not None and plan.reasoning_parser.name == "wrong"
    assert decided_by(plan, "reasoning_parser") == "--reasoning-parser"
    with pytest.raises(LaunchError, match="no installed plugin provides the parser 'nope'; installed: angle, wrong"):
        plan_for(tool_call_parser="nope")
    file = tmp_path / "other.jinja"
    file.write_text("nothing")
    plan = plan_for(chat_template=str(file))
    assert plan.tool_call_parser is None and plan.reasoning_parser is None
    with pytest.raises(LaunchError, match="the chat template can't be read"):
        plan_for(chat_template=str(tmp_path / "missing"))


def test_the_tokenizers_own_description_needs_no_driver(plan_for, folder, with_formats):
    give_tokenizer_config(folder, "<call>", {"fields": {}})
    plan = plan_for()
    assert plan.tool_call_parser is None
    assert decided_by(plan, "tool_call_parser") == "the tokenizer's configuration"


def test_a_record_that_is_none_of_its_kind(site, with_formats):
    with pytest.raises(LaunchError, match="forms:WRONG is no instance of sgcore"):
        drivers.load(drivers.find("parser", "wrong", site.installed()))
    assert drivers.load(drivers.find("parser", "angle", site.installed())).call is None


FALL_BACK = """
@hookimpl
def sgcore_fall_back(hf_config):
    return 'Other' if hf_config['architectures'] != ['Refused'] else None
"""


def test_a_fallback_is_asked_only_for_what_no_plugin_offers(site, plan_for):
    site.plugin("p-any", FALL_BACK)
    assert plan_for().model.name == "Made"
    plan = plan_for({"architectures": ["Unknown"]})
    assert plan.model.name == "Other"
    assert decided_by(plan, "model_impl") == "plugin p-any: none offers Unknown"


def test_a_fallback_replaces_no_driver_that_is_for_another_sgcore(site, plan_for):
    site.plugin("p-any", FALL_BACK)
    site.install("p-old", {"sgcore.models": {"Old": "made:Model"}}, ["sgcore>=7"])
    with pytest.raises(LaunchError, match=r"p-old 1\.0 needs sgcore>=7"):
        plan_for({"architectures": ["Old"]})


def test_the_error_for_what_no_fallback_takes_says_what_to_install(site, plan_for):
    site.plugin("p-any", FALL_BACK)
    with pytest.raises(LaunchError, match="'Refused'; installed: Made, Other") as caught:
        plan_for({"architectures": ["Refused"]})
    assert "pip install sgcore-transformers" in caught.value.hint


def test_the_user_names_the_model_driver(site, plan_for):
    site.plugin("p-hook", "@hookimpl\ndef sgcore_resolve_architecture(hf_config): return 'Made'\n")
    plan = plan_for(model_impl="Other")
    assert (plan.model.name, decided_by(plan, "model_impl")) == ("Other", "--model-impl")
