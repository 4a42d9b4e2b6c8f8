from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from milpq.errors import UsageError
from milpq.report import check_report_path, html_text
from milpq.report.svg import Bar, bar_plot, bracket_plot
from milpq.verify import Progress, Result
from milpq.verify.numbers import downward, upward

Answer = Callable[..., Result]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class _Page(HTMLParser):
    """Checks that tags are balanced, and gathers texts, tags and what would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_verdict_comes_first_and_nothing_is_loaded(answer: Answer) -> None:
    result = answer(tolerance=0.03)
    page = _Page(html_text(result))
    assert page.open == []
    texts = [text.strip() for text in page.texts[page.tags.index("h1") :] if text.strip()]
    assert next(text for text in texts if "tolerance" in text).startswith(result.verdict)
    assert page.loads == ["data:,"]
    assert "script" not in page.tags
    assert "http" not in html_text(result)


def test_the_page_says_what_the_result_holds(answer: Answer) -> None:
    result = answer()
    text = "".join(_Page(html_text(result)).texts)
    assert f"[{downward(result.lower)}, {upward(result.upper)}]" in text
    for record in result.methods:
        assert record.name in text
    assert result.problem.hash in text
    assert result.witness is not None
    assert str(result.witness.input.tolist()) in text
    assert result.problem.region_origin in text


def test_what_a_file_is_called_is_never_markup(answer: Answer) -> None:
    evil = "<script>alert(1)</script>&\"'.onnx"
    result = answer()
    asked = replace(
        result.problem, float_origin=evil, quantized_origin=evil, region_origin=evil, notes=(evil,)
    )
    moment = Progress(evil, 0.0, 1.0, 0.0)
    result = replace(result, problem=asked, history=(moment, replace(moment, stage="b", time_s=1.0)))
    page = _Page(html_text(result))
    assert "script" not in page.tags
    assert sum(evil in text for text in page.texts) >= 4
    assert "<script>" not in result._repr_html_()


def test_an_unknown_end_is_shown_as_infinite(answer: Answer) -> None:
    result = answer()
    outputs = tuple(replace(one, max_upper=float("inf")) for one in result.outputs)
    result = replace(
        result, status="interrupted", upper=float("inf"), witness=None, outputs=outputs, methods=()
    )
    page = html_text(replace(result, history=(), sampled=None))
    assert "∞" in page
    assert _Page(page).open == []
    assert "svg" not in _Page(page).tags


def test_the_history_only_tightens(answer: Answer) -> None:
    history = answer(method="auto").history
    assert [moment.time_s for moment in history] == sorted(moment.time_s for moment in history)
    assert [moment.lower for moment in history] == sorted(moment.lower for moment in history)
    uppers = [moment.upper for moment in history]
    assert uppers == sorted(uppers, reverse=True)
    assert len({moment.stage for moment in history}) > 3


@pytest.mark.parametrize("largest", [1e-9, 0.3, 7.0, 1e8])
def test_plots_stay_inside_their_frame(largest: float) -> None:
    history = [Progress("a", 0.0, largest, 0.0), Progress("b", largest / 2, largest, 3.0)]
    for plot in (
        bracket_plot(history, largest / 3),
        bar_plot([Bar("x", largest, 0.1 * largest), Bar("y", 0.0, None)], "bars"),
    ):
        page = _Page(plot)
        assert page.open == []
        numbers = [float(word) for word in plot.replace('"', " ").replace(",", " ").split() if _number(word)]
        assert all(-1 <= number <= 800 for number in numbers)


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "." in word and "e" not in word


def test_without_jinja2_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="pip install jinja2"):
        check_report_path(tmp_path / "report.html")


def test_the_card_shows_the_bracket(answer: Answer) -> None:
    result = answer()
    card = result._repr_html_()
    assert _Page(card).open == []
    assert f"[{downward(result.lower)}, {upward(result.upper)}]" in card
    assert result.status.upper() in card
    assert result.status in repr(result)


def test_the_page_ties_the_answer_to_its_files(answer: Answer, model_path: Callable[[str], Path]) -> None:
    text = "".join(_Page(html_text(answer())).texts)
    for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml"):
        content = model_path(name).read_bytes()
        assert sha256(content).hexdigest() in text
        assert f"{name}, {len(content):,} bytes" in text


def test_long_lists_are_folded(answer: Answer) -> None:
    result = answer()
    assert result.witness is not None
    wide = replace(result.witness, input=np.arange(41.0))
    page = html_text(replace(result, witness=wide))
    assert "<summary>41 numbers</summary>" in page
    assert str(list(np.arange(41.0).tolist())) in page
    assert "numbers</summary>" not in html_text(result)
