"""Catalog: what may be traded, and in which steps?

This room is pure, and the only one that rounds.  Every rounding goes in the direction that
cannot hurt: quantities down, never up to a minimum; limits never better for the counterparty;
stops away from firing early.  It holds what the venue listed and invents nothing.
"""

from collections.abc import Iterable
from decimal import Decimal

from perps_bot.broker import MarketData
from perps_bot.errors import BelowMinimum, ConfigError
from perps_bot.model import OrderIntent, Product, Side, exact


class ProductCatalog:
    """The venue's products by the operator's name.

    Discovery, never a list in the code: what is not listed cannot be traded.
    """

    def __init__(self) -> None:
        self._products: dict[str, list[Product]] = {}

    def load_from_brokerage(self, client: MarketData) -> None:
        """Read every product from `client`; when that fails, the old list stays."""
        self.load(client.products())

    def load(self, listing: Iterable[Product]) -> None:
        """Become what `listing` says."""
        found: dict[str, list[Product]] = {}
        for product in listing:
            found.setdefault(product.symbol, []).append(product)
        self._products = found

    def take(self, other: "ProductCatalog") -> None:
        """Become what `other` has read."""
        self._products = other._products

    def get_perpetual_products(self) -> list[Product]:
        every = (product for group in self._products.values() for product in group)
        return [product for product in every if product.is_perpetual]

    def lists(self, symbol: str) -> bool:
        """Whether `get` would return a product."""
        try:
            return bool(self.get(symbol))
        except ConfigError:
            return False

    def get(self, symbol: str) -> Product:
        """Return the product of `symbol` (or of a venue id).

        Raises ConfigError, listing what was found, for an unknown or an ambiguous one.
        """
        group = self._products.get(symbol) or [
            product for products in self._products.values() for product in products
            if product.product_id == symbol]
        if len(group) == 1:
            return group[0]
        if group:
            raise ConfigError(f"{symbol} is ambiguous: the venue lists "
                              f"{' and '.join(product.product_id for product in group)}; "
                              f"name one of them with --symbols")
        known = " ".join(sorted(self._products)) or "nothing"
        raise ConfigError(f"{symbol}: no such product; the venue lists {known}")


def enforce_perp_rules(
    product: Product, qty: Decimal, price: Decimal, side: Side = Side.BUY
) -> tuple[Decimal, Decimal]:
    """Return (quantity, limit price) in the product's steps: base units, USD per base unit.

    Raises BelowMinimum when nothing tradable is left, TypeError for a float.
    """
    limit = quantize_price(product, exact("price", price), side)
    return quantize_quantity(product, exact("qty", qty), limit), limit


def quantized(product: Product, intent: OrderIntent, price: Decimal | None) -> OrderIntent:
    """Return `intent` in the product's steps; `price` is the mark's, for a market order.

    Without a price only the step is held: a reduction needs no more.  Raises BelowMinimum.
    """
    limit = intent.limit_price
    if limit is not None:
        limit = quantize_price(product, limit, intent.side)
    if price is None:
        quantity = floor_to(intent.quantity, product.quantity_increment)
    else:
        quantity = quantize_quantity(product, intent.quantity, limit or price)
    return intent._replace(quantity=quantity, limit_price=limit)


def quantize_quantity(product: Product, quantity: Decimal, price: Decimal) -> Decimal:
    """Return the largest tradable quantity not above `quantity` (base units).

    Raises BelowMinimum when the product's minimum quantity or notional cannot be met.
    """
    # Floored, never rounded: half a step too much could breach the limit that risk approved.
    tradable = floor_to(min(quantity, product.max_quantity), product.quantity_increment)
    if tradable <= 0 or tradable < product.min_quantity or tradable * price < product.min_notional:
        raise BelowMinimum(
            f"Quantization failed: Below minimum: {product.symbol} {quantity:f} becomes "
            f"{tradable:f}; min_quantity {product.min_quantity:f} (about "
            f"{product.min_quantity * price:.2f} USD), min_notional {product.min_notional:f} USD: "
            f"raise --max-position or the equity, or drop the symbol"
        )
    return tradable


def quantize_price(product: Product, price: Decimal, side: Side) -> Decimal:
    """Return the limit on the tick that is no worse for us: a buy down, a sell up.

    Raises ConfigError for a price that is not positive or falls below one tick.
    """
    tick = product.price_increment
    limit = floor_to(price, tick) if side is Side.BUY else ceil_to(price, tick)
    if limit <= 0:
        raise ConfigError(f"{product.symbol}: price {price} is below one tick of {tick:f} USD")
    return limit


def quantize_stop(product: Product, price: Decimal, side: Side) -> Decimal:
    """Return the stop on the tick that fires no earlier: a sell stop down, a buy stop up."""
    return quantize_price(product, price, side.opposite)


def quantity_for(product: Product, notional: Decimal, price: Decimal) -> Decimal:
    """Return the most base units, in whole steps, that cost no more than `notional` USD."""
    if notional <= 0:
        return Decimal(0)
    # Integer division is exact; a rounded quotient could cost more than was allowed.
    return notional // (price * product.quantity_increment) * product.quantity_increment


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    return value // step * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    floor = value // step * step
    return floor if floor == value else floor + step
