"""Facts as JSON: the keys are the program's and the values the model's, or a schema says what the whole must be."""

from __future__ import annotations

import json

from example import main

import sgcore_lang as sgl

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "legs": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "legs"],
    "additionalProperties": False,
}


@sgl.function
def by_template(s, text):
    s += 'Text: A dog called Rex has four legs.\nJSON: {"name": "Rex", "kind": "dog", "legs": 4}\n\n'
    s += f"Text: {text}\nJSON: "
    with s.var_scope("json"):
        s += '{"name": "' + sgl.gen("name", max_tokens=12, stop='"', temperature=0)
        s += '", "kind": "' + sgl.select("kind", choices=["dog", "bird", "fish"])
        s += '", "legs": ' + sgl.select("legs", choices=["0", "2", "4"]) + "}"


@sgl.function
def by_schema(s, text):
    s += f"Text: {text}\nJSON: " + sgl.gen("json", max_tokens=64, temperature=0, json_schema=SCHEMA)


def show():
    for program in (by_template, by_schema):
        print(json.loads(program.run("Polly is a bird with two legs.")["json"]))


if __name__ == "__main__":
    main(show, __doc__)
