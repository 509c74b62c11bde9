"""Settings: how was I told to run?

One table: what each setting is called, where it may be given, what it may be, and what it is
when nobody says.  Every refusal comes from `resolve`, in one line.  No clock, no network, no
logging; the config file is the only thing read.  Nothing is corrected on the quiet, and no
message repeats a refused value: it may be a secret that was put in the wrong place.  Commands
that only look start here as well, so what most of them do not need is imported where it is used.
"""

import os
import re
from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from functools import partial

from perps_bot.errors import ConfigError
from perps_bot.secret import Secret

PROFILES = {
    # max_position is in USD, max_leverage in x equity, bar in seconds; on bars of a minute the fees
    # of a month alone are a drawdown, so dev has no such limit
    "dev": {"max_position": Decimal(10000), "max_leverage": Decimal(3),
            "enable_shorts": False, "bar": 60, "max_entries_per_hour": 12,
            "price_collar_pct": Decimal("0.02"), "max_drawdown_pct": Decimal(1)},
    "demo": {"max_position": Decimal(100), "max_leverage": Decimal(1),
             "enable_shorts": False, "bar": 3600, "max_entries_per_hour": 4,
             "price_collar_pct": Decimal("0.01"), "max_drawdown_pct": Decimal("0.15")},
    "prod": {"max_position": Decimal(50000), "max_leverage": Decimal(3),
             "enable_shorts": True, "bar": 3600, "max_entries_per_hour": 8,
             "price_collar_pct": Decimal("0.01"), "max_drawdown_pct": Decimal("0.15")},
}


# How values are read.  These stand above the table because the table is built from them.


class Kind(namedtuple("Kind", "parse allowed types metavar make", defaults=((str,), "TEXT", None))):
    """How one sort of setting is read.

    parse    from flag or environment text, or from a TOML value of `types`; None is a refusal
    allowed  the range, for people
    types    what the config file may hold; exact, so that `true` is no number
    metavar  the placeholder in --help
    make     what a value becomes when it is first asked for; None: it stays what parse said
    """

    __slots__ = ()


class Setting:
    """One row; read on a Settings, its value.

    default  None: the profile says, or the setting may stay unset
    flag     True: -- and the name
    name     also the key in the config file
    """

    name = ""

    def __init__(self, kind: Kind, default: object, unit: str, help: str,
                 flag: str | bool | None = None, env: str | None = None, secret: bool = False
                 ) -> None:
        self.kind, self.default, self.unit, self.help = kind, default, unit, help
        self.flag, self.env, self.secret = flag, env, secret

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.flag = f"--{name.replace('_', '-')}" if self.flag is True else self.flag

    def __get__(self, settings: "Settings | None", owner: type) -> object:
        """Make the value and leave it where Python looks first, so that this is asked once."""
        if settings is None:
            return self
        value = settings.said[self.name]
        if value is not None and self.kind.make:
            value = self.kind.make(value)
        vars(settings)[self.name] = value
        return value

    @property
    def in_config(self) -> bool:
        return not self.secret and self.name not in NOT_IN_CONFIG


# Said for one run, or kept out of files that get copied.
NOT_IN_CONFIG = ("profile", "adopt", "dry_run", "dev_fast")

# Compiled where the first value needs them.
NUMBER, DECIMALS_MAX = r"[0-9]{1,15}(\.[0-9]{1,12})?", 12
SYMBOL = r"[A-Z0-9]{1,16}(-[A-Z0-9]{1,12}){1,3}"
URL = (r"(https?|wss?)://((?:[A-Za-z0-9-]{1,63}\.){0,9}[A-Za-z0-9-]{1,63}|\[::1\])"
       r"(?::([0-9]{1,5}))?([/?][!-~]{0,2000})?")


def number(low: str, high: str, above: bool = False, is_whole: bool = False) -> Kind:
    """`low` to `high`, both allowed; with `above`, `low` itself is not."""
    least, most = Decimal(low), Decimal(high)

    def parse(raw):
        if isinstance(raw, str) and not re.fullmatch(NUMBER, raw):
            return None
        value = Decimal(raw)
        # TOML can say inf, nan, -0.0 and 1e-999999, which no text that is a NUMBER can.
        is_ours = value.is_finite() and not value.is_signed() and least <= value <= most
        if not is_ours or value.as_tuple().exponent < -DECIMALS_MAX:
            return None
        if (above and value == least) or (is_whole and value % 1):
            return None
        return int(value) if is_whole else value

    span = f"above {low}, up to {high}" if above else f"from {low} to {high}"
    return Kind(parse, f"a {'whole ' * is_whole}number {span}", (int, Decimal), "N")


whole = partial(number, is_whole=True)


def choice(*words: str, make: Callable | None = None) -> Kind:
    return Kind(lambda raw: raw if raw in words else None, f"one of {', '.join(words)}", (str,),
                "|".join(words), make)


def symbol_names(least: int) -> Kind:
    def parse(raw):
        fit = all(isinstance(each, str) and re.fullmatch(SYMBOL, each) for each in raw)
        return tuple(raw) if fit and least <= len(raw) == len(set(raw)) else None

    return Kind(parse, "names such as BTC-PERP, in capitals, each once", (list,), "SYMBOL")


def text(allowed: str, read: Callable = str, longest: int = 1024, lines: bool = False,
         make: Callable | None = None) -> Kind:
    """Printable text that is not blank; with `lines`, line breaks too, as a PEM key has."""
    def parse(raw):
        shown = re.sub("[\r\n]", "", raw) if lines else raw
        fit = shown.isprintable() and raw.strip() and len(raw) <= longest
        return read(raw) if fit else None

    return Kind(parse, f"{allowed} of at most {longest} characters", make=make)


def origin(scheme: str, *hosts: str) -> Kind:
    """Scheme, host and port only: of these hosts, or of this computer."""
    def parse(raw):
        if raw in known:
            return raw
        host, rest = _host_and_rest(raw, scheme)
        return raw if not rest and (host in hosts or _is_loopback(host)) else None

    known = [f"{scheme}://{host}" for host in hosts]
    return Kind(parse, f"{' or '.join(known)}, or a loopback address; no path, no slash at the end")


def _host_and_rest(raw: str, scheme: str) -> tuple[str, str]:
    """Host and path of a URL; ("", "") unless it is `scheme`, or plain on a loopback address."""
    found = re.fullmatch(URL, raw)
    if not found:
        return "", ""
    given, host, port, rest = found.groups(default="")
    plain = given + "s" == scheme and _is_loopback(host)
    if not (given == scheme or plain) or (port and not 0 < int(port) < 65536):
        return "", ""
    return host, rest


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, not an address
        return False


def _made_by(module: str, name: str) -> Callable:
    """What makes a value, imported when the first is asked for."""
    def make(word):
        from importlib import import_module

        return getattr(import_module(module), name)(word)

    return make


SWITCH = Kind(lambda raw: raw if isinstance(raw, bool) else {"1": True, "0": False}.get(raw),
              "1, 0 or empty; true or false in the config file", (bool,))
WEBHOOK = Kind(lambda raw: Secret(raw) if _host_and_rest(raw, "https")[0] else None,
               "an https address, or a loopback address; no user name in it")
SECRET = text("one line of text", Secret)
PATH = text("a path", make=_made_by("pathlib", "Path"))
FOLDER = text("a path without ..", lambda path: (
    None if ".." in path.split("/") else os.path.normpath(path)), make=PATH.make)
PEM = text("text", Secret, longest=8192, lines=True)
FRACTION, COUNT, LEVERAGE = number("0", "1", above=True), whole("1", "1000"), number("1", "5")
AMOUNT = number("0", "10000000", above=True)


class Settings:
    """The table, and one run's values of it; a value that is None is not set.

    said     every value by name, as `parse` returned it
    sources  where each value came from, by name: "flag --bar", "environment LOG_LEVEL",
             "config FILE", "profile dev" or "default"
    """

    def __init__(self, said: Mapping[str, object], sources: Mapping[str, str]) -> None:
        vars(self).update(said=said, sources=sources)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: settings do not change; replace makes others")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._shown() == other._shown()

    def __repr__(self) -> str:
        return f"Settings{self._shown()}"

    def replace(self, **said: object) -> "Settings":
        """These settings, but for what is said here."""
        if unknown := said.keys() - self.said.keys():
            raise TypeError(f"no such setting: {' '.join(sorted(unknown))}")
        return Settings({**self.said, **said}, self.sources)

    def _shown(self) -> tuple[Mapping, Mapping]:
        """What may be compared and seen: everything but the secrets."""
        return {row.name: self.said[row.name] for row in SETTINGS if not row.secret}, self.sources

    # what to run
    profile: str = Setting(choice(*PROFILES), "dev", "", "which limits, and which venue", flag=True)
    symbols: tuple[str, ...] = Setting(
        symbol_names(1), ("BTC-PERP",), "", "what to trade", flag=True)
    adopt: tuple[str, ...] = Setting(
        symbol_names(0), (), "", "take over what the account holds in these", flag=True)
    dry_run: bool = Setting(
        SWITCH, False, "", "live prices, paper orders: nothing can be sent", flag=True)
    dev_fast: bool = Setting(SWITCH, False, "", "one cycle, then exit", flag=True)
    interval: Decimal = Setting(
        number("1", "3600"), "5", "seconds", "time between ticks", flag=True)
    bar: int = Setting(
        whole("1", "86400"), None, "seconds", "length of a bar; the averages are of its closes",
        flag=True)
    # orders
    order_type: str = Setting(
        choice("market", "limit", make=_made_by("perps_bot.model", "OrderType")),
        "market", "", "of entries", flag=True)
    time_in_force: str = Setting(
        choice("GTC", "IOC", "GTD", make=_made_by("perps_bot.model", "TimeInForce")),
        "GTD", "", "of limit entries", flag="--tif")
    entry_gtd_seconds: int = Setting(whole("60", "3600"), "600", "seconds", "life of a GTD entry")
    # strategy
    short_ma_period: int = Setting(whole("2", "50"), "5", "bars", "fast average", flag=True)
    long_ma_period: int = Setting(whole("10", "200"), "20", "bars", "slow average", flag=True)
    trailing_stop_pct: Decimal = Setting(
        number("0.005", "0.05"), "0.01", "fraction of price", "distance of the trailing stop",
        flag=True)
    enable_shorts: bool = Setting(SWITCH, None, "", "whether to sell short")
    enter_on_start: bool = Setting(SWITCH, False, "", "enter on a crossing older than this run")
    # limits
    target_leverage: Decimal = Setting(
        LEVERAGE, "2", "x equity", "wanted; the strictest limit wins", flag="--leverage")
    max_leverage: Decimal = Setting(
        LEVERAGE, None, "x equity", "the profile's cap, which may only be lowered")
    leverage_max_global: Decimal = Setting(
        LEVERAGE, "5", "x equity", "highest leverage over all symbols")
    max_position: Decimal = Setting(
        AMOUNT, None, "USD", "largest position in one symbol, in place of the profile's",
        flag=True)
    max_position_pct_per_symbol: Decimal = Setting(
        FRACTION, "0.2", "fraction of equity", "most initial margin in one symbol")
    max_exposure_pct: Decimal = Setting(
        FRACTION, "0.8", "fraction of equity", "most initial margin in all symbols")
    max_daily_loss_pct: Decimal = Setting(
        FRACTION, "0.05", "fraction of day-start equity", "daily loss that stops entries")
    max_drawdown_pct: Decimal = Setting(
        FRACTION, None, "fraction of equity", "loss from the 30-day peak that stops entries")
    max_losses_in_a_row: int | None = Setting(
        COUNT, None, "round trips", "losses in a row that stop entries; not set: no limit")
    max_order_qty: Decimal | None = Setting(
        AMOUNT, None, "contracts", "largest order; not set: the venue's maximum")
    max_order_notional: Decimal | None = Setting(
        AMOUNT, None, "USD", "largest order; not set: max_position")
    price_collar_pct: Decimal = Setting(
        FRACTION, None, "fraction of the mark", "farthest limit beyond the mark")
    max_spread_pct: Decimal = Setting(
        FRACTION, "0.005", "fraction of the mark", "widest spread for a market order")
    max_top_of_book_pct: Decimal = Setting(
        number("0", "100", above=True), "0.5", "of the size at the best price",
        "most that a market order may take")
    max_mark_move_pct: Decimal = Setting(
        FRACTION, "0.05", "fraction of price",
        "move within 60 s after which a symbol pauses for 5 minutes")
    quote_staleness_seconds_max: int = Setting(
        whole("1", "60"), "5", "seconds", "oldest quote for a market order")
    duplicate_window_seconds: int = Setting(
        whole("1", "3600"), "10", "seconds", "how long the same entry is not repeated")
    max_orders_per_minute_per_symbol: int = Setting(
        COUNT, "6", "a minute", "entries sent in one symbol")
    max_orders_per_minute: int = Setting(COUNT, "20", "a minute", "entries sent in all symbols")
    max_messages_per_second: int = Setting(
        COUNT, "5", "a second", "orders of any kind after which an entry waits")
    max_entries_per_hour: int = Setting(
        COUNT, None, "an hour", "entries in one symbol; one more stops entries")
    max_open_orders: int = Setting(COUNT, "4", "orders", "open orders in one symbol")
    max_unknown_orders: int = Setting(
        COUNT, "1", "orders", "orders whose outcome is unknown, in all symbols")
    no_self_cross: bool = Setting(
        SWITCH, True, "", "no entry that could trade with an order of ours")
    max_daily_turnover: Decimal = Setting(
        number("0", "10000", above=True), "200", "x max position",
        "traded in one symbol and one UTC day")
    mark_staleness_seconds_max: int = Setting(
        whole("1", "60"), "10", "seconds", "age above which a price is no price")
    stop_move_min_pct: Decimal = Setting(
        number("0", "0.05"), "0.002", "fraction of price", "smallest move of a protective stop")
    bracket_profit_pct: Decimal = Setting(
        number("0.01", "1"), "0.20", "fraction of price", "from entry to a bracket's profit leg")
    reduce_only_mode: bool = Setting(
        SWITCH, False, "", "only orders that shrink a position", flag="--reduce-only")
    kill_switch_enabled: bool = Setting(SWITCH, False, "", "start HALTED")
    # paper and replay
    seed: int = Setting(whole("0", "4294967295"), "1", "", "which synthetic market", flag=True)
    paper_equity: Decimal = Setting(
        number("0", "1000000000", above=True), "10000", "USD", "paper account", flag="--equity")
    fee_rate: Decimal = Setting(
        number("0", "0.05"), "0.001", "fraction of notional", "paper fee", flag=True)
    fee_per_contract: Decimal = Setting(
        number("0", "100"), "0.15", "USD", "paper fee per contract", flag=True)
    slippage_bps: Decimal = Setting(
        number("0", "1000"), "0", "basis points", "paper slippage", flag=True)
    # surroundings
    event_store_root: os.PathLike = Setting(
        FOLDER, "./data", "", "where state lives", env="EVENT_STORE_ROOT")
    log_dir: os.PathLike = Setting(
        FOLDER, "logs", "", "where perps_bot.log is written", env="PERPS_LOG_DIR")
    log_level: str = Setting(
        choice("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "", "how much to log", env="LOG_LEVEL")
    force_mock: bool = Setting(
        SWITCH, False, "", "paper on a synthetic market, in any profile", env="PERPS_FORCE_MOCK")
    sandbox: bool = Setting(
        SWITCH, False, "", "demo on paper with live prices", env="COINBASE_SANDBOX")
    enable_derivatives: bool = Setting(
        SWITCH, False, "", "futures may be traded", env="COINBASE_ENABLE_DERIVATIVES")
    run_sandbox_validations: bool = Setting(
        SWITCH, False, "", "validation scripts may run", env="RUN_SANDBOX_VALIDATIONS")
    use_real_adapter: bool = Setting(
        SWITCH, False, "", "validation scripts ask Coinbase", env="USE_REAL_ADAPTER")
    api_url: str = Setting(
        origin("https", "api.coinbase.com", "api-sandbox.coinbase.com"), "https://api.coinbase.com",
        "", "REST", env="COINBASE_API_URL")
    ws_url: str = Setting(
        origin("wss", "advanced-trade-ws.coinbase.com"), "wss://advanced-trade-ws.coinbase.com", "",
        "market data", env="COINBASE_WS_URL")
    ws_user_url: str = Setting(
        origin("wss", "advanced-trade-ws-user.coinbase.com"),
        "wss://advanced-trade-ws-user.coinbase.com", "", "our orders", env="COINBASE_WS_USER_URL")
    api_key_file: os.PathLike | None = Setting(
        PATH, None, "", "the JSON file that Coinbase hands out", env="COINBASE_API_KEY_FILE")
    api_key: Secret | None = Setting(
        SECRET, None, "", "name of the API key", env="COINBASE_API_KEY", secret=True)
    api_secret: Secret | None = Setting(
        PEM, None, "", "private key of the API key", env="COINBASE_API_SECRET", secret=True)
    passphrase: Secret | None = Setting(
        SECRET, None, "", "of retired keys; ignored", env="COINBASE_PASSPHRASE", secret=True)
    alert_webhook_url: Secret | None = Setting(
        WEBHOOK, None, "", "where alerts are posted", env="PERPS_ALERT_WEBHOOK_URL", secret=True)
    heartbeat_url: Secret | None = Setting(
        WEBHOOK, None, "", "fetched while all is well", env="PERPS_HEARTBEAT_URL", secret=True)


SETTINGS = tuple(row for row in vars(Settings).values() if isinstance(row, Setting))
# Variables by which other programs let their connections be changed or listened to.
FOREIGN_VARIABLES = ("SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE",
                     "PYTHONHTTPSVERIFY")
OUR_PREFIXES = ("PERPS_", "COINBASE_")
CONFIG_BYTES_MAX = 1024 * 1024
TOML_FORMS = {bool: "true or false", int: "a number without quotes", str: "a text in quotes",
              list: "a list of texts in quotes"}
_ROWS = {row.name: row for row in SETTINGS}
_FLAGGED = tuple(row.name for row in SETTINGS if row.flag)
_CONFIG_KEYS = tuple(row.name for row in SETTINGS if row.in_config)
_VARIABLES = tuple(row.env for row in SETTINGS if row.env)


def resolve(flags: Mapping[str, object], environ: Mapping[str, str],
            config_file: str | None = None) -> Settings:
    """Say what every setting is: by flag, environment, config file, profile or default.

    `flags` holds those of the command line only, by setting name: text, True for a switch, a
    list of texts for symbols.  Raises ConfigError, in one line, for anything out of its range
    and for any name that is not known.
    """
    _refuse_unknown("flag", flags, _FLAGGED)
    ours = [name for name in environ if name.startswith(OUR_PREFIXES)]
    _refuse_unknown("environment variable", ours, _VARIABLES)
    file = f"config {_shown(str(config_file))}"
    config = {} if config_file is None else _read_config(config_file, file)
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for row in SETTINGS:  # `profile` comes first, because later rows ask it
        given = (
            (f"flag {row.flag}", flags.get(row.name)),
            (f"environment {row.env}", environ.get(row.env or "") or None),
            (file, config.get(row.name)),
            (f"profile {values.get('profile')}",
             PROFILES.get(values.get("profile"), {}).get(row.name)),
        )
        source, raw = next((each for each in given if each[1] is not None),
                           ("default", row.default))
        values[row.name], sources[row.name] = _parsed(row, raw, source), source
    settings = Settings(values, sources)
    _refuse_contradictions(settings)
    return settings


def described(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, printable value, unit, source) of every setting; secrets never show."""
    for row in SETTINGS:
        yield (row.name, printable(row, getattr(settings, row.name)), row.unit,
               settings.sources[row.name])


def recorded_settings(words: Mapping[str, str]) -> Settings:
    """The settings of `described`'s values, as events carry them; one that is not among them is new
    since then, and has its default.  Secrets are not set.
    """
    given = {row.name: _said(row, words[row.name]) for row in SETTINGS if row.name in words}
    profile = PROFILES.get(given.get("profile"), {})
    values = {row.name: _parsed(row, given.get(row.name, profile.get(row.name, row.default)),
                                "recorded") for row in SETTINGS}
    return Settings(values, dict.fromkeys(values, "recorded"))


def changed(settings: Settings, words: Mapping[str, str], source: str) -> Settings:
    """`settings` with what `words` say, in the texts of flags; refuses what `resolve` refuses."""
    values = {name: _parsed(_ROWS[name], word, source) for name, word in words.items()}
    sources = {**settings.sources, **dict.fromkeys(words, source)}
    new = Settings({**settings.said, **values}, sources)
    _refuse_contradictions(new)
    return new


def _said(row: Setting, word: str) -> object:
    """What `printable` made a word of, as it can be parsed."""
    if row.secret or word == "not set":
        return None
    if bool in row.kind.types:
        return word == "yes"
    if list in row.kind.types:
        return [] if word == "none" else word.split()
    return word


def refuse_foreign_variables(settings: Settings, environ: Mapping[str, str]) -> None:
    """Whoever set one expects an effect on our connections; in prod that is a wrong idea."""
    found = [name for name in FOREIGN_VARIABLES if environ.get(name)]
    if found and settings.profile == "prod":
        raise ConfigError(f"{' '.join(found)}: has no effect on the bot's connections, and must "
                          f"not be set where it trades: unset it")


def data_folder(settings: Settings) -> str:
    return os.path.join(settings.said["event_store_root"], "perps_bot", settings.profile)


def events_folder(folder: str | os.PathLike, profile: str, kind: str) -> str:
    """Where the events of a profile are that trades at this kind of broker."""
    is_paper = profile != "dev" and kind != "coinbase"
    return os.path.join(folder, "paper-events" if is_paper else "events")


def same_run(settings: Settings) -> str:
    """The flags with which another command finds the files of this run."""
    places = {settings.sources[name] for name in ("event_store_root", "force_mock", "sandbox")}
    words = [f"--profile {settings.profile}", *["--dry-run"] * settings.dry_run]
    return " ".join((*words, *(f"--{place}" for place in places if place.startswith("config "))))


def _parsed(row: Setting, raw: object, source: str) -> object:
    if raw is None:
        return None
    if source.startswith("config ") and type(raw) not in row.kind.types:
        raise ConfigError(f"{row.name} ({source}): write {TOML_FORMS[row.kind.types[0]]}")
    value = row.kind.parse(raw)
    if value is None:
        unit = f" ({row.unit})" if row.unit else ""
        raise ConfigError(f"{row.name} ({source}): must be {row.kind.allowed}{unit}; correct it or "
                          f"leave it out")
    return value


def _refuse_unknown(what: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            import difflib

            (nearest,) = difflib.get_close_matches(name[:100], known, n=1, cutoff=0)
            raise ConfigError(f"{what} {_shown(name)} is not known; the nearest is {nearest}; "
                              f"rename or remove it")


def _refuse_contradictions(settings: Settings) -> None:
    short, long, sources = settings.short_ma_period, settings.long_ma_period, settings.sources
    if short >= long:
        raise ConfigError(
            f"short_ma_period {short} ({sources['short_ma_period']}) must be below "
            f"long_ma_period {long} ({sources['long_ma_period']}); lower it or raise the other")
    allowed = PROFILES[settings.profile]["max_leverage"]
    if settings.max_leverage > allowed:
        raise ConfigError(
            f"max_leverage ({sources['max_leverage']}): must be from 1 to {allowed:f} x equity in "
            f"profile {settings.profile}; lower it or leave it out")


def _read_config(path: str, where: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            body = file.read(CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{where}: cannot be read ({_reason(error)}); correct --config, or have "
                          f"it written: perps-bot init") from None
    if len(body) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{where}: longer than {CONFIG_BYTES_MAX} bytes; is it the right file?")
    config = _toml(body, where)
    for row in (_ROWS[key] for key in config if key in _ROWS):
        if not row.in_config:
            raise ConfigError(f"{where}: {row.name} is not allowed there; "
                              f"use {row.flag or row.env}")
    _refuse_unknown(f"{where}: key", config, _CONFIG_KEYS)
    return config


def _toml(body: bytes, where: str) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(body.decode("utf-8"), parse_float=Decimal)
    # Absurd numbers and depths come through tomllib as what Decimal, int and the stack say.
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid TOML ({_reason(error)}); correct it") from None


def _reason(error: Exception) -> str:
    return _shown(getattr(error, "strerror", None) or str(error))


def _shown(name: str) -> str:
    """Foreign text, fit for one line of a terminal."""
    return name[:200] if name.isprintable() else ascii(name[:200])


def printable(row: Setting, value: object) -> str:
    """One value for people; a secret only as set or not set."""
    if value is None or row.secret:
        return "not set" if value is None else "set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
