"""The built site in a browser, from the disk: every page at the width of a desk and of a phone."""

from pathlib import Path

import pytest
from browsers import chromium, problems

SITE = Path(__file__).resolve().parent.parent / "docs" / "_build" / "html"
# Not the templates that a theme leaves among its files.
PAGES = sorted(page for page in SITE.rglob("*.html") if "_static" not in page.parts)
if not PAGES:
    pytest.skip("the site is not built: see CONTRIBUTING", allow_module_level=True)
WIDTHS = (1280, 390)
# The farthest that anything visible reaches to the right, outside of what scrolls by itself.
REACH = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
BROKEN = "return [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"


@pytest.fixture(scope="module")
def driver():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_asks_for_nothing(driver, width):
    wrong = []
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for page in PAGES:
        driver.get(page.as_uri())
        name = page.relative_to(SITE).as_posix()
        wrong += [f"{name}: {what}" for what in problems(driver)]
        wrong += [f"{name}: no picture {what}" for what in driver.execute_script(BROKEN)]
        if (reach := driver.execute_script(REACH)) > width + 1:
            wrong.append(f"{name}: {reach} pixels wide")
    assert wrong == []


def test_a_search_finds_a_function(driver):
    driver.get(f"{(SITE / 'search.html').as_uri()}?q=conv2d_backward_input")
    driver.implicitly_wait(10)
    found = driver.find_elements("css selector", "#search-results li a")
    assert any("conv2d_backward_input" in link.get_attribute("href") for link in found)


def test_the_five_questions_are_a_click_away(driver):
    driver.get((SITE / "index.html").as_uri())
    links = [link.get_attribute("href") for link in driver.find_elements("css selector", "article a")]
    assert {f"plot_{n}" for n in range(1, 6)} <= {
        Path(link).name[:6] for link in links if "/questions/" in link
    }
