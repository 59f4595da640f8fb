"""The page as a reader uses it, in headless Chromium: sort, filter, links, keys, narrow screens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, chromium
from pages import EVIL, part, results_in

from bench import checkpoints, page
from bench.cli.experiments import _about


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = results_in(tmp_path_factory.mktemp("results"))
    return page.write(folder, folder / "p.html", _about(checkpoints.models_of(None)))[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def seen(browser: Any, address: str) -> Iterator[Watched]:
    watched = Watched(browser, address)
    yield watched
    watched.tab.wait_for_timeout(50)
    assert watched.errors == [] and watched.asked_for == []
    assert watched.tab.evaluate("window.evil") is None
    watched.tab.close()


def column(tab: Any, name: str) -> list[str]:
    """The shown cells of a column of the table, group after group."""
    return tab.locator(f".tabulator-cell[tabulator-field={name}]").all_inner_texts()


def groups(tab: Any) -> list[tuple[str, list[str]]]:
    """(protocol, NFEs) of each shown group of the table, in order."""
    found: list[tuple[str, list[str]]] = []
    for row in tab.locator("#table .tabulator-row").all():
        if "tabulator-group" in row.get_attribute("class"):
            found.append((row.inner_text(), []))
        else:
            found[-1][1].append(row.locator("[tabulator-field=nfe]").inner_text())
    return found


def test_a_line_of_fewer_blocks_can_be_the_best(browser: Any, tmp_path: Path) -> None:
    lines = (
        "native",
        "Karras(rho tuned)",
        "score-optimal(xi tuned)",
    )  # of three blocks, the last of one
    part(tmp_path / "cifar10", "cifar10", lines, (10,))
    made = page.write(tmp_path, tmp_path / "p.html", _about(checkpoints.models_of(None)))[0]
    watched = Watched(browser, made.as_uri())
    verdict = watched.tab.inner_text("#verdict")
    assert verdict.startswith("Use score-optimal(xi tuned)") and "fewer seed blocks" in verdict
    places = watched.tab.locator("#ranked li").all_inner_texts()
    assert "1 of 3 blocks" in places[0] and "best" in places[0] and "±" in places[1]
    watched.tab.close()


def test_the_question_has_an_answer(seen: Watched, address: str) -> None:
    tab = seen.tab
    assert tab.input_value("select[name=nfe]") == "10"
    assert "DPMpp2M" in tab.input_value("select[name=sampler]")
    values = [float(text.split()[0]) for text in tab.locator("#ranked .value").all_inner_texts()]
    assert len(values) >= 4 and values == sorted(values)
    first = tab.locator("#ranked li").first.locator("a").inner_text()
    assert first in tab.inner_text("#verdict .use")
    tab.select_option("select[name=sampler]", "DDIM")
    assert "sampler=DDIM" in tab.url
    changed = tab.inner_text("#verdict")
    seen.open(tab.url)  # the address keeps the view
    assert tab.input_value("select[name=sampler]") == "DDIM"
    assert tab.inner_text("#verdict") == changed


def test_protocols_are_never_mixed(seen: Watched) -> None:
    """The ranking has one protocol, and each protocol of the data set is a choice."""
    tab = seen.tab
    options = tab.locator("select[name=protocol] option")
    texts = options.all_inner_texts()
    assert len(texts) == 2 and "effnet-lite0-224" in " ".join(texts)
    for index, features in enumerate(texts):
        tab.select_option("select[name=protocol]", index=index)
        lines = tab.locator("#ranked li").count()
        assert features.split(";")[0] in tab.inner_text("#question")
        assert 0 < lines < 8
    assert "EDM: heun, karras" in tab.inner_text("#published")
    assert "never ranked with them" in tab.inner_text("#published")


def test_sorting_keeps_the_groups(seen: Watched) -> None:
    tab = seen.tab
    before = groups(tab)
    head = tab.locator(".tabulator-col[tabulator-field=nfe]")
    head.click()
    head.click()
    assert "sort=nfe%3Adesc" in tab.url
    after = groups(tab)
    assert [name for name, _ in after][0] == [name for name, _ in before][0]
    nfes = [int(nfe) for nfe in after[0][1] if nfe]
    assert len(nfes) > 10 and nfes == sorted(nfes, reverse=True)
    seen.open(tab.url)
    assert groups(tab)[0][1] == after[0][1]


def test_filters(seen: Watched) -> None:
    tab = seen.tab
    tab.select_option("select[name=f_sampler]", "DDIM")
    tab.select_option("select[name=f_nfe]", "20")
    tab.fill("input[name=q]", "crs")
    shown = column(tab, "line")
    assert shown and all("CRS" in line for line in shown)
    assert set(column(tab, "nfe")) == {"20"} and set(column(tab, "sampler")) == {"DDIM"}
    assert tab.inner_text("#count").startswith(f"{len(shown)} of ")
    assert all(nfes for _, nfes in groups(tab))  # a group without rows is not shown
    address = tab.url
    tab.select_option("select[name=f_metric]", label="FID (published)")
    assert column(tab, "line") == []
    tab.select_option("select[name=f_sampler]", "")
    tab.select_option("select[name=f_nfe]", "")
    tab.fill("input[name=q]", "")
    assert column(tab, "m_published-fid") == ["1.97", "2.5"]
    seen.open(address)
    assert column(tab, "line") == shown


def test_a_cell_opens_its_record_and_a_link_does_so_too(seen: Watched) -> None:
    tab = seen.tab
    tab.locator(".tabulator-cell[tabulator-field=sampler]").first.click()
    tab.wait_for_selector("#record[open] pre")
    key = tab.url.partition("record=")[2]
    whole = tab.inner_text("#record pre")
    assert f'"key": "{key}"' in whole and '"grid"' in whole and '"features_digest"' in whole
    seen.open(tab.url)
    tab.wait_for_selector("#record[open] pre")
    assert tab.inner_text("#record pre") == whole
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#record", state="hidden")
    tab.wait_for_url(lambda url: "record" not in url)


def test_a_strip_opens_at_full_size(seen: Watched) -> None:
    tab = seen.tab
    tab.locator("#strips button").first.click()
    tab.wait_for_selector("#record[open] img")
    tab.wait_for_selector(f"#record img[width='{8 * 28 * 4}']")


def test_hover_shows_the_interval(seen: Watched) -> None:
    tab = seen.tab
    tab.wait_for_selector("#against-nfe svg g[aria-label=dot] circle")
    tab.locator("#against-nfe").scroll_into_view_if_needed()
    tab.locator("#against-nfe g[aria-label=dot] circle").nth(1).hover(force=True)
    tab.wait_for_selector("#against-nfe g[aria-label=tip] text")
    said = tab.locator("#against-nfe g[aria-label=tip]").text_content()
    assert "NFE" in said and "±" in said and " to " in said and "3 blocks" in said
    for figure in ("precision-recall", "grids", "rates"):
        assert tab.locator(f"#{figure} svg path").count() > 3, figure


def test_every_tick_of_scores_has_its_number(seen: Watched) -> None:
    """On a log axis of less than a decade too."""
    axis = "#against-nfe g[aria-label='y-axis tick"
    for nfe in ("5", "10"):
        seen.tab.select_option("select[name=nfe]", nfe)
        seen.tab.wait_for_selector(f"{axis}'] path", state="attached")
        ticks = seen.tab.locator(f"{axis}'] path").count()
        texts = seen.tab.locator(f"{axis} label'] text").all_text_contents()
        assert ticks == len(texts) > 2 and all(map(float, texts)), texts


def test_the_keyboard_is_enough(seen: Watched) -> None:
    tab = seen.tab
    tab.locator("select[name=sampler]").focus()
    tab.keyboard.press("Home")
    assert tab.input_value("select[name=sampler]") == "DDIM"
    tab.locator(".tabulator-col[tabulator-field=nfe]").focus()
    tab.keyboard.press("Enter")
    assert "sort=nfe%3Aasc" in tab.url
    tab.locator("#ranked a").first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#record[open] pre")
    tab.keyboard.press("Escape")
    tab.locator("#ranked input").first.focus()
    tab.keyboard.press("Space")
    assert "lines=" in tab.url


def test_labels_stay_text(seen: Watched) -> None:
    tab = seen.tab
    tab.fill("input[name=q]", "</script>")
    lines = column(tab, "line")
    assert set(lines) == {EVIL, "karras"}  # of "karras" the note has it
    tab.locator(".tabulator-cell[tabulator-field=line] a").first.click()
    tab.wait_for_selector("#record[open] pre")
    assert EVIL in tab.inner_text("#record h2 >> nth=0")
    tab.keyboard.press("Escape")
    tab.select_option("select[name=data]", "cifar10-q75")
    tab.select_option("select[name=model]", "cifar-pixel-crs")
    assert EVIL in tab.inner_text("#ranked") and EVIL in tab.inner_text("#notes")
    assert EVIL in tab.inner_text("#against-nfe")


def test_narrow_screen(browser: Any, address: str) -> None:
    seen = Watched(browser, address, 390, 844)
    assert seen.tab.evaluate("document.documentElement.scrollWidth") == 390
    assert seen.tab.locator("#verdict .use").bounding_box()["y"] < 844
    box = seen.tab.locator("#ranked li").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert seen.errors == [] and seen.asked_for == []


def test_back_closes_a_record(seen: Watched) -> None:
    tab = seen.tab
    tab.locator("#ranked a").first.click()
    tab.wait_for_selector("#record[open] pre")
    tab.go_back()
    tab.wait_for_selector("#record", state="hidden")


def test_unknown_values_of_an_address_do_no_harm(seen: Watched, address: str) -> None:
    seen.open(f"{address}#sampler=none&nfe=x&sort=nothing:up&f_nfe=7&record=gone&lines=[%25")
    assert "DPMpp2M" in seen.tab.input_value("select[name=sampler]")


def test_a_file_without_javascript_says_so(address: str) -> None:
    text = Path(address.removeprefix("file://")).read_text()
    assert "<noscript>" in text and "default-src 'none'" in text
