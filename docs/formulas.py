"""A hook of MkDocs: formulas in TeX become MathML, which browsers show without a script."""

import html
import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

LETTERS = {
    "alpha": "\u03b1",
    "beta": "\u03b2",
    "gamma": "\u03b3",
    "delta": "\u03b4",
    "epsilon": "\u03b5",
    "mu": "\u03bc",
    "nu": "\u03bd",
    "rho": "\u03c1",
    "sigma": "\u03c3",
    "tau": "\u03c4",
    "ell": "\u2113",
    "nabla": "\u2207",
    **{name: name for name in ("cos", "min", "max", "log", "exp")},
}
OPERATORS = {"cdot": "\u22c5", "times": "\u00d7", "sum": "\u2211", "le": "\u2264", "ge": "\u2265", "pm": "\u00b1"}
SPACES = {",": "0.17em", ";": "0.28em", "quad": "1em", "qquad": "2em"}
TOKEN = re.compile(r"\\text\{[^}]*\}|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\S")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return a page's HTML with its formulas as MathML."""
    return FORMULA.sub(lambda found: to_mathml(html.unescape(found[2]), block=found[1] == "div"), content)


def to_mathml(tex: str, *, block: bool = False) -> str:
    """Return a formula of the few commands above as a `math` element, which keeps the TeX as an annotation.

    Raises:
        ValueError: a command that is not known here.
    """
    math = Element("math", {"display": "block"} if block else {})
    semantics = SubElement(math, "semantics")
    semantics.append(_row(iter(TOKEN.findall(tex))))
    SubElement(semantics, "annotation", encoding="application/x-tex").text = tex
    return tostring(math, encoding="unicode")


def _row(tokens: Iterator[str]) -> Element:
    """Return what comes up to the closing brace, or the end."""
    row = Element("mrow")
    for token in tokens:
        if token == "}":
            break
        if token in "_^":
            base = row[-1]
            row.remove(base)
            row.append(_scripted(base, token == "_", _atom(next(tokens), tokens)))
        else:
            row.append(_atom(token, tokens))
    return row


def _scripted(base: Element, below: bool, script: Element) -> Element:
    """Return an element with a script, and maybe with the one of the other kind that it has already."""
    if base.tag == ("msup" if below else "msub"):
        nucleus, other = base
        return _element("msubsup", nucleus, *((script, other) if below else (other, script)))
    if base.text == OPERATORS["sum"] and below:
        return _element("munder", base, script)
    return _element("msub" if below else "msup", base, script)


def _atom(token: str, tokens: Iterator[str]) -> Element:
    if token == "{":
        return _row(tokens)
    if token.startswith(r"\text{"):
        return _leaf("mtext", token[6:-1])
    name = token[1:]
    if not token.startswith("\\"):
        if token[0].isdigit() or token.isalpha():
            return _leaf("mn" if token[0].isdigit() else "mi", token)
        return _leaf("mo", {"-": "\u2212"}.get(token, token), stretchy="false")
    if name in ("frac", "tfrac"):
        first = next(tokens)
        if first.isdigit():  # \tfrac12, \tfrac1{75}
            rest = _leaf("mn", first[1:]) if first[1:] else _atom(next(tokens), tokens)
            return _element("mfrac", _leaf("mn", first[0]), rest)
        return _element("mfrac", _atom(first, tokens), _atom(next(tokens), tokens))
    if name == "sqrt":
        return _element("msqrt", _atom(next(tokens), tokens))
    if name == "Big":
        return _leaf("mo", next(tokens), minsize="1.8em")
    if name in LETTERS:
        return _leaf("mi", LETTERS[name])
    if name in OPERATORS:
        return _leaf("mo", OPERATORS[name])
    if name in SPACES:
        return Element("mspace", width=SPACES[name])
    raise ValueError(f"Unknown command {token} in a formula; docs/formulas.py holds those known.")


def _leaf(tag: str, text: str, **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.text = text
    return element


def _element(tag: str, *children: Element) -> Element:
    element = Element(tag)
    element.extend(children)
    return element
