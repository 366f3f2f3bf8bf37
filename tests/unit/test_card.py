"""The parts of a model card."""

import pytest
from markdown_it import MarkdownIt

from distrib.insight.export import card
from distrib.insight.history import History
from distrib.settings import Data


def epochs(count):
    return [
        {"kind": "epoch", "epoch": n, "update": 10 * n, "train_loss": 1 / n, "lr": None} for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("text", ["make `it` so", "```", "a\n````\nb", "plain"])
def test_a_command_is_shown_as_it_is(text):
    (block,) = MarkdownIt("commonmark").parse(card.fenced(text))
    assert (block.type, block.info, block.content) == ("fence", "sh", text + "\n")


@pytest.mark.parametrize(
    "text", [r"\(x\) \<", "$$x$$", "&amp; &#36;", "cat: :cat: @me", "a | b || c", "# a #", "* _a_ ~~b~~"]
)
def test_text_is_shown_as_it_is_in_a_heading_and_a_table(text):
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(f"# {card.escaped(text)}\n\n{card.table(('what',), [[text]])}")
    )
    shown = ["".join(part.content for part in token.children) for token in tokens if token.type == "inline"]
    assert shown == [text, "what", text]


def test_formulas_and_tags_have_nothing_to_begin_with():
    assert not set(card.escaped("\\ $ < >")) & set("\\$<>")


def test_text_stays_in_its_line():
    assert card.escaped(" a\n\n# b\t c ") == "a \\# b c"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("cifar10", "uoft-cs/cifar10"),
        ("hf:somebody/pets-2", "somebody/pets-2"),
        ("hf:./pets", None),
        ("hf:/data/pets", None),
        ("folder:pets/dogs", None),
        ("digits", None),
    ],
)
def test_data_sets_of_the_hub_bear_its_names(data, name):
    assert card.on_the_hub(Data(data=data)) == name


def test_a_folder_of_that_name_is_no_data_set_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "pets").mkdir(parents=True)
    assert card.on_the_hub(Data(data="hf:my/pets")) is None


@pytest.mark.parametrize(("count", "shown"), [(1, [1]), (3, [1, 2, 3]), (20, list(range(1, 21))), (1001, None)])
def test_some_epochs_are_shown_the_first_and_the_last_among_them(count, shown):
    heading, picture, table = card.curves(History({}, epochs(count), []))
    assert (heading, picture) == ("## Curves", "![Loss and accuracy of each epoch](curves.png)")
    head, _, *rows = table.splitlines()
    assert head == "| epoch | train loss | test loss | train accuracy | test accuracy | lr |"
    found = [int(row.split(" | ")[0].removeprefix("| ").replace(",", "")) for row in rows]
    assert found == shown or (shown is None and len(found) <= 21)
    assert (found[0], found[-1]) == (1, count)
    assert rows[0] == "| 1 | 1 | none | none | none | none |"


def test_without_an_epoch_there_are_no_curves():
    assert card.curves(History({}, [], [])) == []
