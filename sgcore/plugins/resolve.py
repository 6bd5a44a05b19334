"""From what the user said to what is decided: the only place that turns `Choices` into a `Plan`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sgcore.api import Model, Platform, WeightSource
from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.model_config import check_sizes, refused, unread
from sgcore.plugins import drivers, numbers, packages
from sgcore.plugins.checkpoint import merged_config, open_source, select_source, tokenizer_settings
from sgcore.plugins.installed import Installed
from sgcore.plugins.locate import locate, may_exist
from sgcore.plugins.manager import Hooks, load_hooks
from sgcore.plugins.offers import offered_platform
from sgcore.plugins.plan import Decision, Driver, Plan
from sgcore.plugins.settings import PluginOptionParser, apply_defaults, plugin_values

log = logging.getLogger(__name__)

Found = Callable[[Driver, Path], None]
"""Takes the weight source and the checkpoint's path."""


def resolve(
    choices: Choices,
    origins: Mapping[str, str] | None = None,
    installed: Installed | None = None,
    hooks: Hooks | None = None,
    found: Found | None = None,
) -> Plan:
    """Decide everything before a weight is read. `origins`: who said each option, for the record.

    `found` is told where the checkpoint is and what reads it, before the model's and the device's code is imported.
    Raises LaunchError for anything that the user can mend.
    """
    installed = installed or Installed.read()
    hooks = hooks or load_hooks(choices.plugins, installed)
    return _Resolution(choices, installed, hooks, found).plan(origins or {})


def resolve_aloud(choices: Choices, origins: Mapping[str, str], found: Found | None = None) -> Plan:
    """As `resolve`; plugins that take no part, though nobody disabled them, are named on stderr."""
    hooks = load_hooks(choices.plugins)
    plan = resolve(choices, origins, hooks=hooks, found=found)
    for plugin in hooks.disabled:
        if plugin.name not in choices.plugins.disable_plugin:
            print(
                f"warning: plugin {plugin.name} ({plugin.distribution}) is disabled: {plugin.reason}", file=sys.stderr
            )
    return plan


OPTION_OF = {
    "weights": "load_format", "model": "model_impl", "attention": "attention_backend", "grammar": "grammar_backend",
}  # fmt: skip
"""Kind of driver -> the option that names it, where the two differ."""


class _Resolution:
    """The decisions of one plan, each made once and recorded."""

    def __init__(self, choices: Choices, installed: Installed, hooks: Hooks, found: Found | None) -> None:
        self.choices = choices
        self.found = found
        self.installed = installed
        self.hooks = hooks
        self.decisions: list[Decision] = []

    def plan(self, origins: Mapping[str, str]) -> Plan:
        self._check_installation()
        path = locate(self.choices.model.model_path, self.choices.model.revision)
        self._record("path", str(path), "found" if Path(self.choices.model.model_path).exists() else "the hub")
        source, opened = self._checkpoint(path)
        hf_config = merged_config(opened, self.choices.model.json_model_override_args)
        check_sizes(hf_config)
        stored = {} if self.choices.model.quantization else opened.quantization_config()
        hf_config = {**hf_config, "quantization_config": stored} if stored else hf_config
        model, architecture = self._model(hf_config)
        platform, device = self._platform()
        attention = self._attention(platform, device, architecture, hf_config)
        quantization = self._quantization(hf_config)
        dtype = self._record("dtype", *numbers.dtype(self.choices.model.dtype, hf_config, device.dtypes))
        context = self._record("context_length", *numbers.context(self.choices.model.context_length, hf_config))
        settings = tokenizer_settings(opened, self.choices.model)
        _check_keys(model, architecture, hf_config, context)
        plan = Plan(
            self.choices, str(path), hf_config, model, platform, attention, source, quantization, dtype, context,
            options={}, decisions=(),
            tool_call_parser=self._parser("tool_call_parser", settings),
            reasoning_parser=self._parser("reasoning_parser", settings),
            grammar=self._grammar(),
        )  # fmt: skip
        return self._checked(self._with_options(plan, origins))

    def _check_installation(self) -> None:
        """Refuse an installation that can't compute, before a model is fetched."""
        model_path = self.choices.model.model_path
        if not self.installed.names("sgcore.platforms") and may_exist(model_path):
            raise packages.nothing_computes(Path(model_path).expanduser())

    def _record(self, name: str, value: Any, decided_by: str) -> Any:
        self.decisions.append(Decision(name, value, decided_by))
        return value

    def _find(self, kind: str, name: str, decided_by: str, option: str = "") -> Driver:
        driver = drivers.find(kind, name, self.installed, self.choices.plugins.prefer)
        self._record(
            option or OPTION_OF.get(kind, kind), f"{name} ({driver.distribution} {driver.version})", decided_by
        )
        return driver

    def _checkpoint(self, path: Path) -> tuple[Driver, WeightSource]:
        name, by = select_source(path, self.choices.model.load_format, self.hooks, self.installed)
        driver = self._find("weights", name, by)
        if self.found is not None:
            self.found(driver, path)
        return driver, open_source(driver, path)

    def _model(self, hf_config: Mapping[str, Any]) -> tuple[Driver, type[Model]]:
        driver = self._find("model", *self._model_name(hf_config))
        return driver, drivers.load(driver)

    def _model_name(self, hf_config: Mapping[str, Any]) -> tuple[str, str]:
        if self.choices.model.model_impl:
            return self.choices.model.model_impl, "--model-impl"
        answer = self.hooks.first("sgcore_resolve_architecture", hf_config=hf_config)
        if answer is not None:
            return answer.value, f"plugin {answer.distribution}"
        listed = hf_config.get("architectures") or []
        if not listed:
            raise LaunchError("the model's configuration names no architecture", "is `architectures` in config.json?")
        if drivers.is_offered("model", listed[0], self.installed):
            return listed[0], "config.json"
        answer = self.hooks.first("sgcore_fall_back", hf_config=hf_config)
        if answer is not None:
            return answer.value, f"plugin {answer.distribution}: none offers {listed[0]}"
        raise drivers.missing("model", listed[0], self.installed)

    def _platform(self) -> tuple[Driver, type[Platform]]:
        named = self.choices.runtime.platform
        name, by = (named, "--platform") if named else offered_platform(self.hooks, self.installed)
        driver = self._find("platform", name, by)
        return driver, drivers.load(driver)

    def _attention(
        self, platform: Driver, device: type[Platform], model: type[Model], hf_config: Mapping[str, Any]
    ) -> Driver:
        if self.choices.runtime.attention_backend:
            return self._find("attention", self.choices.runtime.attention_backend, "--attention-backend")
        traits = model.traits(hf_config)
        answer = self.hooks.first("sgcore_select_attention", platform=platform.name, traits=traits)
        if answer is not None:
            return self._find("attention", answer.value, f"plugin {answer.distribution}")
        return self._find("attention", device.default_attention, f"default of platform {platform.name}")

    def _quantization(self, hf_config: Mapping[str, Any]) -> Driver | None:
        if self.choices.model.quantization:
            return self._find("quantization", self.choices.model.quantization, "--quantization")
        answer = self.hooks.first("sgcore_select_quantization", hf_config=hf_config)
        if answer is not None:
            return self._find("quantization", answer.value, f"plugin {answer.distribution}")
        method = (hf_config.get("quantization_config") or {}).get("quant_method")
        return self._find("quantization", method, "config.json") if method else None

    def _parser(self, option: str, settings: Mapping[str, Any]) -> Driver | None:
        named = getattr(self.choices.model, option)
        if named == "none":
            return None
        if named != "auto":
            return self._find("parser", named, f"--{option.replace('_', '-')}", option)
        if settings.get("response_template"):
            self._record(option, "response_template", "the tokenizer's configuration")
            return None
        template = settings.get("chat_template")
        answer = self.hooks.first(f"sgcore_select_{option}", chat_template=template) if template else None
        return self._find("parser", answer.value, f"plugin {answer.distribution}", option) if answer else None

    def _grammar(self) -> Driver | None:
        if self.choices.runtime.grammar_backend:
            return self._find("grammar", self.choices.runtime.grammar_backend, "--grammar-backend")
        answer = self.hooks.first("sgcore_select_grammar")
        return self._find("grammar", answer.value, f"plugin {answer.distribution}") if answer else None

    def _with_options(self, plan: Plan, origins: Mapping[str, str]) -> Plan:
        parser = PluginOptionParser()
        self.hooks.all("sgcore_add_options", parser=parser)
        extra = plugin_values(parser, self.choices)
        plan = replace(plan, options=self.choices.public() | extra)
        answers = self.hooks.all("sgcore_default_options", plan=plan)
        choices, said = apply_defaults(self.choices, answers, origins)
        decided = {decision.name for decision in self.decisions}
        rest = (decision for decision in said if decision.name not in decided)
        return replace(plan, choices=choices, options=choices.public() | extra, decisions=(*self.decisions, *rest))

    def _checked(self, plan: Plan) -> Plan:
        reasons = [reason for answer in self.hooks.all("sgcore_check", plan=plan) for reason in answer.value]
        if reasons:
            raise LaunchError("; ".join(reasons))
        return plan


def _check_keys(driver: Driver, architecture: type[Model], hf_config: Mapping[str, Any], context_tokens: int) -> None:
    """Raises LaunchError with all that the model's driver can't serve; what it doesn't read is named in the log."""
    rules = architecture.keys
    reasons = [*refused(hf_config, rules or {})]
    if not reasons:
        reasons += architecture.refusals(hf_config, context_tokens)
    if reasons:
        raise LaunchError(
            f"{driver.name} ({driver.distribution}) can't serve this configuration: {'; '.join(reasons)}",
            "another plugin for models may; --model-impl names it",
        )
    if rules is not None and (keys := unread(hf_config, rules)):
        log.warning("%s does not read these keys of the configuration: %s", driver.name, ", ".join(keys))
