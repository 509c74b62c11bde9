"""Quantisation, checked without any test tool: `python tests/test_quantization_simple.py`.

It prints what it checked and exits with 1 at the first thing that is not so; pytest runs it too.
"""

import sys
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from perps_bot.catalog import enforce_perp_rules, quantize_stop  # noqa: E402
from perps_bot.errors import BelowMinimum  # noqa: E402
from perps_bot.model import Product, Side  # noqa: E402

BITCOIN = Product(
    symbol="BTC-PERP", product_id="BTC-PERP-ID", contract_size=Decimal("0.01"),
    quantity_increment=Decimal("0.01"), price_increment=Decimal(5),
    min_quantity=Decimal("0.01"), max_quantity=Decimal(1000), min_notional=Decimal(10),
    long_margin_rate=Decimal("0.1"), short_margin_rate=Decimal("0.1"),
)

QUANTIZED = (
    # side  quantity  price        becomes      at
    ("buy",  "1.234",  "50000",    "1.23",      "50000"),
    ("buy",  "1.239",  "50004.99", "1.23",      "50000"),
    ("sell", "0.019",  "50000.01", "0.01",      "50005"),
    ("sell", "2",      "50000",    "2",         "50000"),
)  # fmt: skip
BELOW_MINIMUM = (
    # quantity  price      because
    ("0.0099",  "50000"),  # less than one contract: never rounded up to it
    ("0.015",   "995"),    # one contract is left, worth less than 10 USD
    ("0",       "50000"),
)  # fmt: skip
STOPS = (
    # side   asked       becomes: it fires no earlier
    ("sell", "49999.9",  "49995"),
    ("buy",  "49995.1",  "50000"),
)  # fmt: skip


def test_quantities_and_prices_move_to_their_steps():
    for side, quantity, price, becomes, at in QUANTIZED:
        asked = Decimal(quantity), Decimal(price)
        found = enforce_perp_rules(BITCOIN, qty=asked[0], price=asked[1], side=Side(side))
        assert found == (Decimal(becomes), Decimal(at)), f"{side} {quantity} @ {price}: {found}"


def test_too_little_is_refused_and_never_raised():
    for quantity, price in BELOW_MINIMUM:
        try:
            found = enforce_perp_rules(BITCOIN, qty=Decimal(quantity), price=Decimal(price))
        except BelowMinimum as refusal:
            assert str(refusal).startswith("Quantization failed: Below minimum: BTC-PERP"), refusal
        else:
            raise AssertionError(f"{quantity} @ {price} became {found}")


def test_stops_fire_no_earlier():
    for side, asked, becomes in STOPS:
        found = quantize_stop(BITCOIN, Decimal(asked), Side(side))
        assert found == Decimal(becomes), f"{side} stop at {asked}: {found}"


def main():
    if not __debug__:
        print("python -O checks nothing: run it without -O")
        return 1
    for check in (test_quantities_and_prices_move_to_their_steps,
                  test_too_little_is_refused_and_never_raised, test_stops_fire_no_earlier):
        words = check.__name__.removeprefix("test_").replace("_", " ")
        try:
            check()
        except AssertionError as failure:
            print(f"FAILED  {words}: {failure}")
            return 1
        print(f"ok      {words}")
    count = len(QUANTIZED) + len(BELOW_MINIMUM) + len(STOPS)
    print(f"{count} cases of quantisation checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
