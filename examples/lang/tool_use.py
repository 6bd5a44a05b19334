"""The model chooses a tool and what to give it; Python runs the tool, and the model goes on with the result."""

from __future__ import annotations

import ast
import operator

from example import main

import sgcore_lang as sgl

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
POPULATION = {"France": "68 million", "Norway": "5.6 million"}


def calculate(text):
    """The value of +, -, * and / over numbers; text that is anything else is said to be so."""

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        raise ValueError

    try:
        return str(value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return "not a sum"


def look_up(text):
    return POPULATION.get(text.strip(), "not in the table")


TOOLS = {"calculator": calculate, "population": look_up}


@sgl.function
def with_tool(s, question):
    s += "Tools: calculator (a sum), population (a country).\n\n"
    s += "Question: What is 3 * 4?\nTool: calculator\nInput: 3 * 4\nResult: 12\nAnswer: 12\n\n"
    s += f"Question: {question}\nTool: " + sgl.select("tool", choices=list(TOOLS))
    s += "\nInput:" + sgl.gen("input", max_tokens=12, stop="\n", temperature=0)
    s["result"] = TOOLS[s["tool"]](s["input"])
    s += f"\nResult: {s['result']}\nAnswer:" + sgl.gen("answer", max_tokens=12, stop="\n", temperature=0)


def show():
    state = with_tool.run("How many people live in Norway?")
    print(f"{state['tool']}({state['input']!r}) gave {state['result']!r}; answer:{state['answer']}")


if __name__ == "__main__":
    main(show, __doc__)
