"""What `catalog.py` promises: what may be traded, and roundings that cannot hurt."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.catalog import (
    ProductCatalog,
    enforce_perp_rules,
    quantity_for,
    quantize_price,
    quantize_quantity,
    quantize_stop,
)
from perps_bot.errors import BelowMinimum, ConfigError, OrderRejected
from perps_bot.model import Side
from words import BTC, ETH, a_product


class Brokerage:
    """As much of a venue as the catalog asks."""

    def __init__(self, *products):
        self._products = products

    def products(self):
        return self._products


def a_catalog(*products):
    catalog = ProductCatalog()
    catalog.load_from_brokerage(Brokerage(*products))
    return catalog


# What is listed


def test_what_the_venue_lists_can_be_traded_and_nothing_else():
    btc, eth = a_product(BTC), a_product(ETH)
    catalog = a_catalog(btc, eth)
    assert catalog.get_perpetual_products() == [btc, eth]
    assert catalog.get(ETH) is eth
    with pytest.raises(ConfigError, match="^DOGE-PERP: no such product; .* BTC-PERP ETH-PERP$"):
        catalog.get("DOGE-PERP")


def test_the_venues_own_id_is_a_name_too():
    catalog = a_catalog(a_product(ETH), a_product(BTC, product_id="BIP-20DEC30-CDE"))
    assert catalog.get("BIP-20DEC30-CDE").symbol == BTC


def test_an_empty_catalog_says_so():
    with pytest.raises(ConfigError, match="the venue lists nothing"):
        ProductCatalog().get(BTC)


def test_a_product_that_is_no_perpetual_is_not_among_the_perpetuals():
    dated = a_product("BTC-30MAY25", is_perpetual=False)
    assert a_catalog(dated, a_product()).get_perpetual_products() == [a_product()]
    assert a_catalog(dated).get("BTC-30MAY25") is dated


def test_two_products_of_one_name_are_never_chosen_between():
    twins = a_product(product_id="BIP-1"), a_product(product_id="BIP-2")
    catalog = a_catalog(*twins, a_product(ETH))
    with pytest.raises(ConfigError, match="BTC-PERP is ambiguous: .* BIP-1 and BIP-2"):
        catalog.get(BTC)
    assert catalog.get("BIP-2") is twins[1]  # the venue's id says which
    assert catalog.get(ETH).symbol == ETH  # nobody else is held up by it


def test_loading_again_forgets_what_is_no_longer_listed():
    catalog = a_catalog(a_product(BTC))
    catalog.load_from_brokerage(Brokerage(a_product(ETH)))
    with pytest.raises(ConfigError):
        catalog.get(BTC)


# Quantities


@pytest.mark.parametrize("asked, tradable", [
    ("1.234", "1.23"), ("1.239999", "1.23"), ("0.01", "0.01"), ("0.019", "0.01"), ("5", "5"),
    ("1000.01", "1000"),  # the most that one order may have
])
def test_a_quantity_is_floored_to_whole_steps(asked, tradable):
    assert quantize_quantity(a_product(), Decimal(asked), Decimal(100)) == Decimal(tradable)


def test_the_most_of_one_order_is_in_whole_steps_too():
    product = a_product(contract_size="0.3", quantity_increment="0.3", max_quantity="1")
    assert quantize_quantity(product, Decimal(7), Decimal(100)) == Decimal("0.9")


@pytest.mark.parametrize("asked, rules", [
    ("0.0099",  {}),
    ("0",       {}),
    ("-1",      {}),
    ("0.0499",  {"min_quantity": "0.05"}),
    ("0.09",    {"min_notional": "10"}),        # 0.09 of 100 USD is worth 9
    ("0.109",   {"min_notional": "10.5"}),      # floored to 10 USD
    ("0.5",     {"max_quantity": "0"}),
    ("0.0099",  {"min_quantity": "0"}),         # nothing is left
])
def test_a_quantity_is_never_raised_to_a_minimum(asked, rules):
    with pytest.raises(BelowMinimum) as refusal:
        quantize_quantity(a_product(**rules), Decimal(asked), Decimal(100))
    assert isinstance(refusal.value, OrderRejected) and refusal.value.code == "BELOW_MINIMUM"


def test_exactly_the_minimum_is_enough():
    product = a_product(min_quantity="0.1", min_notional="10")
    assert quantize_quantity(product, Decimal("0.109"), Decimal(100)) == Decimal("0.1")


def test_the_refusal_gives_the_numbers_and_the_way_out():
    product = a_product(min_notional="25")
    with pytest.raises(BelowMinimum) as refusal:
        quantize_quantity(product, Decimal("0.0016"), Decimal(65000))
    assert str(refusal.value) == (
        "Quantization failed: Below minimum: BTC-PERP 0.0016 becomes 0.00; min_quantity 0.01 "
        "(about 650.00 USD), min_notional 25 USD: raise --max-position or the equity, or drop "
        "the symbol")


# Prices


@pytest.mark.parametrize("side, asked, limit", [
    (Side.BUY, "64999.99", "64995"), (Side.BUY, "65000", "65000"),
    (Side.SELL, "65000.01", "65005"), (Side.SELL, "65000", "65000"),
])
def test_a_limit_is_never_worse_for_us_than_was_asked(side, asked, limit):
    assert quantize_price(a_product(), Decimal(asked), side) == Decimal(limit)


@pytest.mark.parametrize("side, asked, stop", [
    (Side.SELL, "64999.99", "64995"), (Side.SELL, "65000", "65000"),
    (Side.BUY, "65000.01", "65005"), (Side.BUY, "65000", "65000"),
])
def test_a_stop_never_fires_earlier_than_was_asked(side, asked, stop):
    assert quantize_stop(a_product(), Decimal(asked), side) == Decimal(stop)


@pytest.mark.parametrize("asked", ["4.99", "0", "-5"])
def test_a_price_below_one_tick_is_refused(asked):
    with pytest.raises(ConfigError, match="BTC-PERP: price .* is below one tick of 5 USD"):
        quantize_price(a_product(), Decimal(asked), Side.BUY)


@pytest.mark.parametrize("notional, price, quantity", [
    ("4000", "65432.1", "0.06"), ("654.321", "65432.1", "0.01"), ("654.32", "65432.1", "0"),
    ("0", "100", "0"), ("-5", "100", "0"),
    ("0.0899999999999999999999999999999999", "3", "0.02"),  # a rounded quotient would say 0.03
])
def test_what_a_notional_buys_never_costs_more(notional, price, quantity):
    bought = quantity_for(a_product(), Decimal(notional), Decimal(price))
    assert bought == Decimal(quantity)


# The runbook's sample


def test_the_perp_rules_give_a_quantity_and_a_price_in_the_products_steps():
    catalog = ProductCatalog()
    catalog.load_from_brokerage(Brokerage(a_product()))
    (product,) = catalog.get_perpetual_products()
    qty, price = enforce_perp_rules(product, qty=Decimal("1.234"), price=Decimal("50001"))
    assert (qty, price) == (Decimal("1.23"), Decimal("50000"))
    assert enforce_perp_rules(product, Decimal(1), Decimal("50001"), Side.SELL)[1] == 50005


@pytest.mark.parametrize("numbers", [
    {"qty": 1.234, "price": Decimal(50000)}, {"qty": Decimal(1), "price": 50000.0}])
def test_no_float_is_quantised(numbers):
    with pytest.raises(TypeError, match="pass a Decimal"):
        enforce_perp_rules(a_product(), **numbers)


def test_the_least_notional_is_measured_at_the_limit_that_is_sent():
    asked = Decimal("0.02"), Decimal(50004)  # worth 1000.08, but the limit is at 50000
    assert enforce_perp_rules(a_product(min_notional="1000"), *asked) == (asked[0], 50000)
    with pytest.raises(BelowMinimum):
        enforce_perp_rules(a_product(min_notional="1000.05"), *asked)


# The check that runs by itself


@pytest.fixture
def simple_check(tmp_path):
    """Run the file with a bare Python elsewhere, its text changed; return what came of it."""
    here = Path(__file__).parent
    (tmp_path / "tests").mkdir()
    (tmp_path / "perps_bot").symlink_to(here.parent / "perps_bot")

    def run(*change):
        script = tmp_path / "tests" / "test_quantization_simple.py"
        script.write_text((here / script.name).read_text().replace(*change))
        return subprocess.run([sys.executable, "-I", "-S", script], cwd="/", text=True,
                              capture_output=True, timeout=60, check=False)

    return run


def test_the_simple_check_runs_without_any_test_tool_from_anywhere(simple_check):
    done = simple_check("", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n9 cases of quantisation checked\n")


def test_the_simple_check_fails_aloud(simple_check):
    done = simple_check('"1.23",      "50000"', '"1.24",      "50000"')
    assert done.returncode == 1
    assert done.stdout.startswith("FAILED  quantities and prices move to their steps: buy 1.234")
