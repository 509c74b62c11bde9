"""What `settings` promises: one table, five places in order, and no start on a doubtful word."""

import argparse
import pickle
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perps_bot.cli import add_flags
from perps_bot.errors import ConfigError
from perps_bot.model import OrderType, TimeInForce
from perps_bot.secret import revealed
from perps_bot.settings import (
    CONFIG_BYTES_MAX,
    PROFILES,
    SETTINGS,
    Settings,
    data_folder,
    described,
    resolve,
)
from perps_bot.wiring import broker_kind

ROWS = {row.name: row for row in SETTINGS}
SECRETS = {
    "api_key": "COINBASE_API_KEY",
    "api_secret": "COINBASE_API_SECRET",
    "passphrase": "COINBASE_PASSPHRASE",
    "alert_webhook_url": "PERPS_ALERT_WEBHOOK_URL",
    "heartbeat_url": "PERPS_HEARTBEAT_URL",
}


@pytest.fixture
def config(tmp_path):
    """A function that writes a config file and returns its path."""

    def write(content):
        path = tmp_path / "perps.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(flags=None, environ=None, config_file=None):
    """The line with which `resolve` refuses."""
    with pytest.raises(ConfigError) as caught:
        resolve(flags or {}, environ or {}, config_file)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    return line


def chosen(name, **places):
    settings = resolve(places.get("flags", {}), places.get("environ", {}), places.get("config"))
    return getattr(settings, name), settings.sources[name]


# The table

NAMES = [
    # name                         flag                   variable                      default
    ("profile", "--profile", None, "dev"),
    ("symbols", "--symbols", None, ("BTC-PERP",)),
    ("adopt", "--adopt", None, ()),
    ("dry_run", "--dry-run", None, False),
    ("dev_fast", "--dev-fast", None, False),
    ("interval", "--interval", None, Decimal(5)),
    ("bar", "--bar", None, 60),
    ("order_type", "--order-type", None, OrderType.MARKET),
    ("time_in_force", "--tif", None, TimeInForce.GTD),
    ("entry_gtd_seconds", None, None, 600),
    ("short_ma_period", "--short-ma-period", None, 5),
    ("long_ma_period", "--long-ma-period", None, 20),
    ("trailing_stop_pct", "--trailing-stop-pct", None, Decimal("0.01")),
    ("enable_shorts", None, None, False),
    ("enter_on_start", None, None, False),
    ("target_leverage", "--leverage", None, Decimal(2)),
    ("max_leverage", None, None, Decimal(3)),
    ("leverage_max_global", None, None, Decimal(5)),
    ("max_position", "--max-position", None, Decimal(10000)),
    ("max_position_pct_per_symbol", None, None, Decimal("0.2")),
    ("max_exposure_pct", None, None, Decimal("0.8")),
    ("max_daily_loss_pct", None, None, Decimal("0.05")),
    ("max_drawdown_pct", None, None, Decimal(1)),
    ("max_losses_in_a_row", None, None, None),
    ("max_order_qty", None, None, None),
    ("max_order_notional", None, None, None),
    ("price_collar_pct", None, None, Decimal("0.02")),
    ("max_spread_pct", None, None, Decimal("0.005")),
    ("max_top_of_book_pct", None, None, Decimal("0.5")),
    ("max_mark_move_pct", None, None, Decimal("0.05")),
    ("quote_staleness_seconds_max", None, None, 5),
    ("duplicate_window_seconds", None, None, 10),
    ("max_orders_per_minute_per_symbol", None, None, 6),
    ("max_orders_per_minute", None, None, 20),
    ("max_messages_per_second", None, None, 5),
    ("max_entries_per_hour", None, None, 12),
    ("max_open_orders", None, None, 4),
    ("max_unknown_orders", None, None, 1),
    ("no_self_cross", None, None, True),
    ("max_daily_turnover", None, None, Decimal(200)),
    ("mark_staleness_seconds_max", None, None, 10),
    ("stop_move_min_pct", None, None, Decimal("0.002")),
    ("bracket_profit_pct", None, None, Decimal("0.20")),
    ("reduce_only_mode", "--reduce-only", None, False),
    ("kill_switch_enabled", None, None, False),
    ("seed", "--seed", None, 1),
    ("paper_equity", "--equity", None, Decimal(10000)),
    ("fee_rate", "--fee-rate", None, Decimal("0.001")),
    ("fee_per_contract", "--fee-per-contract", None, Decimal("0.15")),
    ("slippage_bps", "--slippage-bps", None, Decimal(0)),
    ("event_store_root", None, "EVENT_STORE_ROOT", Path("data")),
    ("log_dir", None, "PERPS_LOG_DIR", Path("logs")),
    ("log_level", None, "LOG_LEVEL", "INFO"),
    ("force_mock", None, "PERPS_FORCE_MOCK", False),
    ("sandbox", None, "COINBASE_SANDBOX", False),
    ("enable_derivatives", None, "COINBASE_ENABLE_DERIVATIVES", False),
    ("run_sandbox_validations", None, "RUN_SANDBOX_VALIDATIONS", False),
    ("use_real_adapter", None, "USE_REAL_ADAPTER", False),
    ("api_url", None, "COINBASE_API_URL", "https://api.coinbase.com"),
    ("ws_url", None, "COINBASE_WS_URL", "wss://advanced-trade-ws.coinbase.com"),
    ("ws_user_url", None, "COINBASE_WS_USER_URL", "wss://advanced-trade-ws-user.coinbase.com"),
    ("api_key_file", None, "COINBASE_API_KEY_FILE", None),
    *((name, None, variable, None) for name, variable in SECRETS.items()),
]


def test_the_names_are_these_and_no_others():
    assert [(row.name, row.flag, row.env) for row in SETTINGS] == [row[:3] for row in NAMES]
    assert list(resolve({}, {}).said) == [row.name for row in SETTINGS]


@pytest.mark.parametrize("name, default", [(row[0], row[3]) for row in NAMES])
def test_nothing_said_is_the_default(name, default):
    value, source = chosen(name)
    assert value == default and type(value) is type(default)
    assert source == ("profile dev" if name in PROFILES["dev"] else "default")


@pytest.mark.parametrize("profile, max_position, max_leverage, shorts, bar", [
    ("dev",  10000, 3, False, 60),
    ("demo", 100,   1, False, 3600),
    ("prod", 50000, 3, True,  3600),
])
def test_a_profile_brings_its_limits(profile, max_position, max_leverage, shorts, bar):
    settings = resolve({"profile": profile}, {})
    assert settings.profile == profile
    assert (settings.max_position, settings.max_leverage) == (max_position, max_leverage)
    assert (settings.enable_shorts, settings.bar) == (shorts, bar)
    assert settings.sources["bar"] == f"profile {profile}"


def test_settings_cannot_be_changed_and_travel_to_another_process():
    settings = resolve({}, {})
    with pytest.raises(AttributeError):
        settings.max_position = Decimal(1)
    assert pickle.loads(pickle.dumps(settings)) == settings


# Numbers

RANGES = [
    # name                          accepted               refused
    ("interval",                    "1 1.5 3600",          "0 0.999999 3600.001"),
    ("bar",                         "1 86400",             "0 1.5 86401"),
    ("entry_gtd_seconds",           "60 3600",             "59 60.5 3601"),
    ("short_ma_period",             "2 50",                "1 2.5 51"),
    ("long_ma_period",              "10 200",              "9 10.5 201"),
    ("trailing_stop_pct",           "0.005 0.05",          "0.004999 0.050001 5"),
    ("target_leverage",             "1 2.5 5",             "0.9 5.1"),
    ("max_leverage",                "1 3",                 "0.9 3.1 5 5.1"),
    ("leverage_max_global",         "1 1.000000000001 5",  "0.9 5.1"),
    ("max_position",                "0.000001 10000000",   "0 0.0 10000000.01"),
    ("max_position_pct_per_symbol", "0.000001 1",          "0 1.000001 20"),
    ("max_exposure_pct",            "0.000001 1",          "0 1.000001 80"),
    ("max_daily_loss_pct",          "0.000001 1",          "0 1.000001 5"),
    ("max_drawdown_pct",            "0.000001 1",          "0 1.000001 15"),
    ("max_losses_in_a_row",         "1 1000",              "0 1.5 1001"),
    ("max_order_qty",               "0.000001 10000000",   "0 10000000.01"),
    ("max_order_notional",          "0.000001 10000000",   "0 10000000.01"),
    ("price_collar_pct",            "0.000001 1",          "0 1.000001"),
    ("max_spread_pct",              "0.000001 1",          "0 1.000001"),
    ("max_top_of_book_pct",         "0.000001 100",        "0 100.01"),
    ("max_mark_move_pct",           "0.000001 1",          "0 1.000001"),
    ("quote_staleness_seconds_max", "1 60",                "0 1.5 61"),
    ("duplicate_window_seconds",    "1 3600",              "0 1.5 3601"),
    ("max_orders_per_minute_per_symbol", "1 1000",         "0 1.5 1001"),
    ("max_orders_per_minute",       "1 1000",              "0 1.5 1001"),
    ("max_messages_per_second",     "1 1000",              "0 1.5 1001"),
    ("max_entries_per_hour",        "1 1000",              "0 1.5 1001"),
    ("max_open_orders",             "1 1000",              "0 1.5 1001"),
    ("max_unknown_orders",          "1 1000",              "0 1.5 1001"),
    ("max_daily_turnover",          "0.000001 10000",      "0 10000.01"),
    ("mark_staleness_seconds_max",  "1 60",                "0 1.5 61"),
    ("stop_move_min_pct",           "0 0.05",              "0.050001"),
    ("bracket_profit_pct",          "0.01 1",              "0.009 1.001"),
    ("seed",                        "0 4294967295",        "0.5 4294967296"),
    ("paper_equity",                "0.01 1000000000",     "0 1000000000.01"),
    ("fee_rate",                    "0 0.05",              "0.050001"),
    ("fee_per_contract",            "0 100",               "100.01"),
    ("slippage_bps",                "0 1000",              "1000.01"),
]
ACCEPTED = [(name, word) for name, words, _ in RANGES for word in words.split()]
REFUSED = [(name, word) for name, _, words in RANGES for word in words.split()]
FLAGGED = {row.name for row in SETTINGS if row.flag}
WIDEST = {"short_ma_period": {"long_ma_period": "200"}}  # so that only the range can refuse


def test_every_number_has_its_range_tested():
    assert [name for name, *_ in RANGES] == [r.name for r in SETTINGS if Decimal in r.kind.types]


@pytest.mark.parametrize("unit, names", [
    ("seconds", "interval bar entry_gtd_seconds quote_staleness_seconds_max "
                "duplicate_window_seconds mark_staleness_seconds_max"),
    ("a minute", "max_orders_per_minute_per_symbol max_orders_per_minute"),
    ("orders", "max_open_orders max_unknown_orders"),
    ("contracts", "max_order_qty"),
    ("x max position", "max_daily_turnover"),
    ("bars", "short_ma_period long_ma_period"),
    ("x equity", "target_leverage max_leverage leverage_max_global"),
    ("USD", "max_position max_order_notional paper_equity fee_per_contract"),
    ("basis points", "slippage_bps"),
    ("fraction of notional", "fee_rate"),
    ("fraction of price", "trailing_stop_pct max_mark_move_pct stop_move_min_pct "
                          "bracket_profit_pct"),
    ("fraction of the mark", "price_collar_pct max_spread_pct"),
    ("fraction of equity", "max_position_pct_per_symbol max_exposure_pct max_drawdown_pct"),
    ("fraction of day-start equity", "max_daily_loss_pct"),
])
def test_a_number_says_its_unit(unit, names):
    assert [row.name for row in SETTINGS if row.unit == unit] == names.split()


@pytest.mark.parametrize("name, word", ACCEPTED)
def test_the_edges_of_a_range_belong_to_it(name, word, config):
    others = {"profile": "prod", **WIDEST.get(name, {})}
    said_in_file = resolve(others, {}, config(f"{name} = {word}"))
    assert getattr(said_in_file, name) == Decimal(word)
    if name in FLAGGED:
        assert getattr(resolve(others | {name: word}, {}), name) == Decimal(word)


@pytest.mark.parametrize("name, word", REFUSED)
def test_beyond_its_range_a_number_is_refused(name, word, config):
    file = config(f"{name} = {word}")
    others = {"profile": "prod", **WIDEST.get(name, {})}
    assert refusal(others, {}, file).startswith(f"{name} (config {file}): must be ")
    if name in FLAGGED:
        line = refusal(others | {name: word})
        assert line.startswith(f"{name} (flag {ROWS[name].flag}): must be ")
        assert ROWS[name].kind.allowed in line and ROWS[name].unit in line


@pytest.mark.parametrize("word", [
    "1e1", "1E1", "inf", "nan", "Infinity", "-1", "+1", "0x1", "1_0", " 1", "1 ", "1\n", "", " ",
    "１", "٣", "1.", ".5", "1,5", "1.0000000000001", "1000000000000000", "true", "1\0",
    "5" * 10**6,
])
@pytest.mark.parametrize("name", sorted(FLAGGED & {name for name, *_ in RANGES}))
def test_a_number_is_ascii_digits_and_a_point(name, word):
    assert refusal({name: word}).startswith(f"{name} (flag ")


@pytest.mark.parametrize("word", [
    "inf", "-inf", "nan", "-0.0", "-1", "1e-13", "1e-999999999", "1e999999999", "true", '"0.01"',
    "[0.01]", "{a = 1}", "2025-01-01", "1" * 4000,
])
@pytest.mark.parametrize("name", [name for name, *_ in RANGES])
def test_a_number_in_the_file_is_finite_unsigned_and_unquoted(name, word, config):
    assert refusal({}, {}, config(f"{name} = {word}")).startswith(f"{name} (config ")


def test_the_fast_average_is_faster_than_the_slow_one():
    assert resolve({"short_ma_period": "9", "long_ma_period": "10"}, {}).short_ma_period == 9
    line = refusal({"short_ma_period": "20"})
    assert "short_ma_period 20 (flag --short-ma-period)" in line
    assert "long_ma_period 20 (default)" in line


@pytest.mark.parametrize("profile, leverage, passes", [
    ("demo", "1", True), ("demo", "1.1", False), ("prod", "2", True), ("prod", "3.1", False),
])
def test_the_file_may_only_lower_the_leverage_of_the_profile(profile, leverage, passes, config):
    file = config(f"max_leverage = {leverage}")
    if passes:
        assert resolve({"profile": profile}, {}, file).max_leverage == Decimal(leverage)
    else:
        assert f"profile {profile}" in refusal({"profile": profile}, {}, file)


# Words, symbols, switches, paths

@pytest.mark.parametrize("flags, name, value", [
    ({"profile": "demo"},                      "profile",          "demo"),
    ({"order_type": "limit"},                  "order_type",       OrderType.LIMIT),
    ({"time_in_force": "GTC"},                 "time_in_force",    TimeInForce.GTC),
    ({"time_in_force": "IOC"},                 "time_in_force",    TimeInForce.IOC),
    ({"symbols": ["ETH-PERP", "BTC-PERP"]},    "symbols",          ("ETH-PERP", "BTC-PERP")),
    ({"symbols": ["BIP-20DEC30-CDE"]},         "symbols",          ("BIP-20DEC30-CDE",)),
    ({"symbols": ["A" * 16 + "-B"]},           "symbols",          ("A" * 16 + "-B",)),
    ({"symbols": ["A-" + "B" * 12]},           "symbols",          ("A-" + "B" * 12,)),
    ({"symbols": ["A-B-C-D"]},                 "symbols",          ("A-B-C-D",)),
    ({"adopt": ["BTC-PERP", "ETH-PERP"]},      "adopt",            ("BTC-PERP", "ETH-PERP")),
    ({"dry_run": True},                        "dry_run",          True),
    ({"dev_fast": True},                       "dev_fast",         True),
    ({"reduce_only_mode": True},               "reduce_only_mode", True),
])
def test_words_that_are_taken(flags, name, value):
    assert chosen(name, flags=flags) == (value, f"flag {ROWS[name].flag}")


@pytest.mark.parametrize("name", ["symbols", "adopt"])
@pytest.mark.parametrize("symbol", [
    "", ".", "BTC", "btc-perp", "BTC-", "-PERP", "BTC--PERP", "../../x", "a/b", "BTC-PERP\n",
    "BTC-PERP\0", " BTC-PERP", "ВТС-PERP", "ＢTC-PERP", "BTC-٣", "A" * 17 + "-B", "A-" + "B" * 13,
    "A-B-C-D-E", "B" * 10_000,
])
def test_a_symbol_is_capitals_digits_and_dashes(name, symbol):
    assert refusal({name: ["ETH-PERP", symbol]}).startswith(f"{name} (flag --{name}): must be ")


@pytest.mark.parametrize("symbols", [[], ["BTC-PERP", "BTC-PERP"]])
def test_symbols_are_given_once_each_and_never_none(symbols):
    assert "each once" in refusal({"symbols": symbols})


@pytest.mark.parametrize("word", ["[]", "[1]", '["A-B", true]', '["A-B", "A-B"]', '"A-B"', "[[]]"])
def test_symbols_in_the_file_are_a_list_of_texts(word, config):
    assert refusal({}, {}, config(f"symbols = {word}")).startswith("symbols (config ")


@pytest.mark.parametrize("name, word", [
    ("profile", "live"), ("profile", "PROD"), ("profile", "../prod"), ("profile", ""),
    ("order_type", "MARKET"), ("order_type", "stop_limit"), ("order_type", ""),
    ("time_in_force", "FOK"), ("time_in_force", "gtc"), ("time_in_force", " GTC"),
])
def test_words_that_are_refused(name, word):
    assert refusal({name: word}).startswith(f"{name} (flag {ROWS[name].flag}): must be one of ")


SWITCH_VARIABLES = [(r.name, r.env) for r in SETTINGS if r.env and bool in r.kind.types]


@pytest.mark.parametrize("name, variable", SWITCH_VARIABLES)
def test_a_boolean_in_the_environment_is_1_or_0_or_empty(name, variable):
    assert chosen(name, environ={variable: "1"}) == (True, f"environment {variable}")
    assert chosen(name, environ={variable: "0"}) == (False, f"environment {variable}")
    assert chosen(name, environ={variable: ""}) == (False, "default")
    for word in ("true", "yes", "on", "2", "01", " ", "1 ", "１", "False"):
        assert "1, 0 or empty" in refusal({}, {variable: word})


@pytest.mark.parametrize("name", ["reduce_only_mode", "kill_switch_enabled", "enable_shorts",
                                  "enter_on_start", *(name for name, _ in SWITCH_VARIABLES)])
def test_a_boolean_in_the_file_is_true_or_false(name, config):
    for word, value in (("true", True), ("false", False)):
        file = config(f"{name} = {word}")
        assert chosen(name, config=file) == (value, f"config {file}")
    for word in ("1", "0", '"1"', '"true"', "1.0"):
        assert "write true or false" in refusal({}, {}, config(f"{name} = {word}"))


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_the_log_level_is_one_of_four(level):
    assert chosen("log_level", environ={"LOG_LEVEL": level}) == (level, "environment LOG_LEVEL")
    assert "DEBUG" in refusal({}, {"LOG_LEVEL": level.lower()})


@pytest.mark.parametrize("name, variable", [
    ("event_store_root", "EVENT_STORE_ROOT"), ("log_dir", "PERPS_LOG_DIR"),
    ("api_key_file", "COINBASE_API_KEY_FILE"),
])
def test_a_path_is_one_printable_line(name, variable):
    for word in ("/tmp/Zoë x", "x" * 1024):
        assert chosen(name, environ={variable: word})[0] == Path(word)
    for word in (" ", "a\0b", "a\nb", "a\u2028b", "a\udcffb", "x" * 1025):
        assert refusal({}, {variable: word}).startswith(f"{name} (environment {variable})")


def test_the_data_of_a_profile_has_a_folder_of_its_own():
    settings = resolve({"profile": "demo"}, {"EVENT_STORE_ROOT": "/srv/perps"})
    assert data_folder(settings) == "/srv/perps/perps_bot/demo"


# Addresses

COINBASE = {
    "COINBASE_API_URL": ("https://api.coinbase.com", "https://api-sandbox.coinbase.com"),
    "COINBASE_WS_URL": ("wss://advanced-trade-ws.coinbase.com",),
    "COINBASE_WS_USER_URL": ("wss://advanced-trade-ws-user.coinbase.com",),
}
LOOPBACK = ("127.0.0.1", "127.8.9.1:8080", "localhost", "localhost:1", "[::1]:65535", "[::1]")
ELSEWHERE = (
    "evil.com", "api.coinbase.com.evil.com", "evil-api.coinbase.com", "coinbase.com",
    "127.0.0.1.evil.com", "127.0.0.256", "127.1", "2130706433", "128.0.0.1", "10.0.0.1", "0.0.0.0",
    "[::2]", "localhost.", "localhost.evil.com", "127.0.0.1@evil.com", "localhost:0",
    "localhost:65536", "localhost:", "localhost/", "localhost/v3", "localhost?x", "localhost#x",
    "localhost\n", "local host", "ⓛocalhost", "",
)


@pytest.mark.parametrize("variable", COINBASE)
def test_coinbase_is_reached_at_its_own_hosts_or_on_this_computer(variable):
    name = next(row.name for row in SETTINGS if row.env == variable)
    secure = COINBASE[variable][0].split(":")[0]
    here = [f"{scheme}://{host}" for host in LOOPBACK for scheme in (secure, secure[:-1])]
    for url in [*COINBASE[variable], COINBASE[variable][0] + ":443", *here]:
        assert chosen(name, environ={variable: url}) == (url, f"environment {variable}")


@pytest.mark.parametrize("variable", COINBASE)
def test_coinbase_is_reached_nowhere_else_and_never_in_plain_text(variable):
    secure = COINBASE[variable][0].split(":")[0]
    others = [url for each in COINBASE if each != variable for url in COINBASE[each]]
    plain = [COINBASE[variable][0].replace(secure, secure[:-1], 1)]
    crossed = [f"{s}://localhost" for s in ("http", "https", "ws", "wss") if s[0] != secure[0]]
    sloppy = [COINBASE[variable][0] + "/", COINBASE[variable][0] + "/api/v3", "localhost",
              "ftp://localhost", "//localhost", *crossed, COINBASE[variable][0].upper(), " "]
    elsewhere = [f"{scheme}://{h}" for h in ELSEWHERE for scheme in (secure, secure[:-1])]
    for url in others + plain + sloppy + elsewhere:
        assert "loopback" in refusal({}, {variable: url}), url


@pytest.mark.parametrize("variable", ["PERPS_ALERT_WEBHOOK_URL", "PERPS_HEARTBEAT_URL"])
def test_a_webhook_is_https_or_on_this_computer(variable):
    name = next(row.name for row in SETTINGS if row.env == variable)
    for url in ("https://hc-ping.com/1-2", "https://Hooks.example:8443/a/b?c=d#e",
                "https://example", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost"):
        assert chosen(name, environ={variable: url})[0].reveal() == url
    unnamed = ("https://a..b/x", "https://.a/x", f"https://{'a' * 64}.b/x")
    for url in (*unnamed, "http://hc-ping.com/1", "ftp://a.b", "hc-ping.com/1", "https://",
                "https:///x",
                "https://u:p@a.b/x", "http://localhost@a.b/x", "http://127.0.0.1.a.b/", " ",
                "https://a.b/x y", "https://a.b/x\n", "https://a.b/é", "https://a.b:0/",
                "https://a.b:70000/", "wss://a.b/x", "https://a.b/" + "x" * 2001):
        assert "https" in refusal({}, {variable: url}), url


# Who wins

@pytest.mark.parametrize("name, flag, variable, in_file, value, source", [
    # said on the command line   in the environment   in the file   so it is
    ("interval",        "7",     None,    "8",         Decimal(7),    "flag --interval"),
    ("interval",        None,    None,    "8",         Decimal(8),    "config FILE"),
    ("interval",        None,    None,    None,        Decimal(5),    "default"),
    ("bar",             "7",     None,    "8",         7,             "flag --bar"),
    ("bar",             None,    None,    "8",         8,             "config FILE"),
    ("bar",             None,    None,    None,        3600,          "profile demo"),
    ("max_position",    "700",   None,    "800",       Decimal(700),  "flag --max-position"),
    ("max_position",    None,    None,    "800",       Decimal(800),  "config FILE"),
    ("enable_shorts",   None,    None,    "true",      True,          "config FILE"),
    ("log_level",       None,    "ERROR", '"DEBUG"',   "ERROR",       "environment LOG_LEVEL"),
    ("log_level",       None,    "",      '"DEBUG"',   "DEBUG",       "config FILE"),
    ("sandbox",         None,    "0",     "true",      False,     "environment COINBASE_SANDBOX"),
    ("sandbox",         None,    "",      "true",      True,          "config FILE"),
    ("reduce_only_mode", True,   None,    "false",     True,          "flag --reduce-only"),
    ("order_type",      None,    None,    '"limit"',   OrderType.LIMIT, "config FILE"),
    ("symbols",         ["A-B"], None,    '["C-D"]',   ("A-B",),      "flag --symbols"),
    ("symbols",         None,    None,    '["C-D"]',   ("C-D",),      "config FILE"),
])
def test_the_nearer_place_wins(name, flag, variable, in_file, value, source, config):
    file = config(f"{name} = {in_file}" if in_file else "")
    flags = {"profile": "demo"} | ({} if flag is None else {name: flag})
    environ = {} if variable is None else {ROWS[name].env: variable}
    found = chosen(name, flags=flags, environ=environ, config=file)
    assert found == (value, source.replace("FILE", str(file)))


def test_only_the_exact_name_of_a_variable_counts():
    assert chosen("log_level", environ={"log_level": "DEBUG", "LOG-LEVEL": "x"})[0] == "INFO"


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.env], ids=lambda row: row.env)
def test_an_empty_variable_is_not_set(row):
    assert chosen(row.name, environ={row.env: ""}) == chosen(row.name)


# Names that nobody knows

@pytest.mark.parametrize("variable, nearest", [
    ("PERPS_FORCE_MOK",     "PERPS_FORCE_MOCK"),
    ("PERPS_LOGDIR",        "PERPS_LOG_DIR"),
    ("COINBASE_SANDBOXX",   "COINBASE_SANDBOX"),
    ("COINBASE_API_KEYFILE", "COINBASE_API_KEY_FILE"),
    ("PERPS_" + "X" * 10**6, ""),
    ("PERPS_\n\u202e",       ""),
])
@pytest.mark.parametrize("content", ["1", ""])
def test_a_misspelt_variable_is_refused(variable, nearest, content):
    line = refusal({}, {variable: content})
    assert f"the nearest is {nearest}" in line and "environment variable" in line


def test_variables_of_other_programs_are_none_of_ours():
    assert resolve({}, {"HOME": "\0", "XPERPS_A": "1", "COINBASE": "1"}) == resolve({}, {})


@pytest.mark.parametrize("key, nearest", [
    ("max_postion", "max_position"), ("logdir", "log_dir"), ("strategy.bar", None),
    ('"inter\\nval"', "interval"), ('""', None),
])
def test_a_misspelt_key_in_the_file_is_refused(key, nearest, config):
    file = config(f"{key} = 1")
    line = refusal({}, {}, file)
    assert line.startswith(f"config {file}: key ") and f"the nearest is {nearest or ''}" in line


@pytest.mark.parametrize("name, instead", [
    ("profile", "--profile"), ("adopt", "--adopt"), ("dry_run", "--dry-run"),
    ("dev_fast", "--dev-fast"), *SECRETS.items(),
])
def test_what_is_said_for_one_run_and_every_secret_stays_out_of_the_file(name, instead, config):
    line = refusal({}, {}, config(f'{name} = "s3cr3t"'))
    assert f"{name} is not allowed there; use {instead}" in line and "s3cr3t" not in line


@pytest.mark.parametrize("name", ["max_leverage", "api_key", "command"])
def test_a_flag_that_is_not_in_the_table_is_refused(name):
    assert f"flag {name} is not known" in refusal({name: "1"})


# The config file

@pytest.mark.parametrize("content, problem", [
    (b"\xff\xfe",                          "utf-8"),
    (b"interval = ",                       "end of document"),
    (b"bar = 5\nbar = 6\n",                "line 2"),
    (b"interval 5",                        "line 1"),
    (b"interval = 1e99999999999999999999", "not valid TOML"),
    (b"interval = " + b"1" * 5000,         "not valid TOML"),
    (b"interval = " + b"[" * 100_000,      "not valid TOML"),
    (b"#" * (CONFIG_BYTES_MAX + 1),        "longer than 1048576 bytes"),
])
def test_a_file_that_cannot_be_understood_is_refused(content, problem, config):
    file = config(content)
    line = refusal({}, {}, file)
    assert line.startswith(f"config {file}: ") and problem in line


def test_a_file_of_just_the_longest_size_is_read(config):
    assert chosen("bar", config=config(b"bar = 7\n".ljust(CONFIG_BYTES_MAX, b"#")))[0] == 7


@pytest.mark.parametrize("name, problem", [
    (".", "Is a directory"), ("none.toml", "No such file"), ("x" * 5000, "too long"),
    ("a\0b", "null byte"), ("no\nsuch", "No such file"), ("", "Is a directory"),
])
def test_a_file_that_cannot_be_opened_is_refused(name, problem, tmp_path):
    line = refusal({}, {}, f"{tmp_path}/{name}")
    assert line.startswith("config ") and problem in line


def test_numbers_in_the_file_keep_every_digit(config):
    file = config("fee_rate = 0.012345678901")
    assert chosen("fee_rate", config=file)[0] == Decimal("0.012345678901")


# Secrets

@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_never_shown(name):
    secret = "https://localhost/s3cr3t" if name.endswith("_url") else "s3cr3t"
    settings = resolve({}, {SECRETS[name]: secret})
    assert revealed(getattr(settings, name)) == secret
    assert "s3cr3t" not in repr(settings) + str(settings) + repr(list(described(settings)))
    rows = {row[0]: row[1:] for row in described(settings)}
    assert rows[name] == ("set", "", f"environment {SECRETS[name]}")
    assert [rows[other][0] for other in SECRETS if other != name] == ["not set"] * 4


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.env], ids=lambda row: row.env)
def test_a_refused_variable_is_named_and_its_content_is_not(row):
    line = refusal({}, {row.env: "s3cr3t\0"})
    assert row.name in line and row.env in line and "s3cr3t" not in line


def test_a_private_key_may_have_lines_and_a_key_name_may_not():
    pem = "-----BEGIN EC PRIVATE KEY-----\r\nAAAA\n-----END EC PRIVATE KEY-----\n"
    assert chosen("api_secret", environ={"COINBASE_API_SECRET": pem})[0].reveal() == pem
    refusal({}, {"COINBASE_API_SECRET": "\n"})
    refusal({}, {"COINBASE_API_SECRET": "x" * 8193})
    for name in ("COINBASE_API_KEY", "COINBASE_PASSPHRASE"):
        refusal({}, {name: "a\nb"})


# Flags, and what `check` prints

def parsed(*words, names=None):
    parser = argparse.ArgumentParser()
    add_flags(parser, names)
    return vars(parser.parse_args(words))


def test_flags_arrive_as_they_were_written_and_absent_ones_are_absent():
    assert parsed() == {}
    assert parsed("--dry-run", "--leverage", "９", "--profile", "nonsense", "--tif", "") == {
        "dry_run": True, "target_leverage": "９", "profile": "nonsense", "time_in_force": ""}
    assert parsed("--symbols", "A", "B", "--symbols", "c", "--adopt", "D") == {
        "symbols": ["A", "B", "c"], "adopt": ["D"]}


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.flag], ids=lambda row: row.flag)
def test_every_flag_of_the_table_reaches_its_setting(row):
    words = [row.flag] if bool in row.kind.types else [row.flag, "x"]
    assert list(parsed(*words)) == [row.name]


def test_a_command_may_take_some_of_the_flags():
    assert parsed("--profile", "dev", names=("profile", "symbols")) == {"profile": "dev"}
    with pytest.raises(SystemExit):
        parsed("--bar", "5", names=("profile", "symbols"))


@pytest.mark.parametrize("phrase", [
    "(seconds; a number from 1 to 3600; default 5)",
    "(seconds; a whole number from 1 to 86400; default by profile)",
    "(USD; a number above 0, up to 10000000; default by profile)",
    "(one of market, limit; default market)",
    "in capitals, each once; default BTC-PERP)",
])
def test_help_tells_unit_range_and_default(phrase):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert phrase in " ".join(parser.format_help().split())


@pytest.mark.parametrize("flags, row", [
    ({},                              ("dry_run", "no", "", "default")),
    ({"dry_run": True},               ("dry_run", "yes", "", "flag --dry-run")),
    ({},                              ("adopt", "none", "", "default")),
    ({"symbols": ["A-B", "C-D"]},     ("symbols", "A-B C-D", "", "flag --symbols")),
    ({"profile": "prod"},             ("max_position", "50000", "USD", "profile prod")),
    ({"slippage_bps": "0.000000001"}, ("slippage_bps", "0.000000001", "basis points",
                                       "flag --slippage-bps")),
    ({},                              ("order_type", "market", "", "default")),
    ({},                              ("api_key_file", "not set", "", "default")),
    ({},                              ("event_store_root", "data", "", "default")),
])
def test_check_can_print_every_setting_with_unit_and_source(flags, row):
    rows = list(described(resolve(flags, {})))
    assert row in rows
    assert [each[0] for each in rows] == [each.name for each in SETTINGS]


# Which broker

@pytest.mark.parametrize("profile, dry_run, mock, sandbox, kind", [
    ("dev",  0, 0, 0, "paper-synthetic"),
    ("dev",  1, 0, 0, "paper-synthetic"),
    ("dev",  0, 0, 1, "paper-synthetic"),
    ("demo", 0, 1, 1, "paper-synthetic"),
    ("prod", 0, 1, 0, "paper-synthetic"),
    ("prod", 1, 1, 1, "paper-synthetic"),
    ("demo", 1, 0, 0, "paper-live"),
    ("prod", 1, 0, 0, "paper-live"),
    ("demo", 0, 0, 1, "paper-live"),
    ("demo", 1, 0, 1, "paper-live"),
    ("demo", 0, 0, 0, "coinbase"),
    ("prod", 0, 0, 0, "coinbase"),
    ("prod", 0, 0, 1, None),
    ("prod", 1, 0, 1, None),
])
def test_the_broker_follows_from_profile_and_switches(profile, dry_run, mock, sandbox, kind):
    flags = {"profile": profile} | ({"dry_run": True} if dry_run else {})
    environ = {"PERPS_FORCE_MOCK": f"{mock}", "COINBASE_SANDBOX": f"{sandbox}"}
    settings = resolve(flags, environ)
    if kind:
        assert broker_kind(settings) == kind
    else:
        with pytest.raises(ConfigError, match=r"sandbox \(environment COINBASE_SANDBOX\)"):
            broker_kind(settings)


# Whatever is thrown at it

@hypothesis_settings(deadline=None)
@given(st.sampled_from([r for r in SETTINGS if r.env]), st.text(min_size=1))
@example(ROWS["api_url"], "https://[")
def test_any_text_in_a_variable_is_a_value_or_one_line(row, content):
    try:
        assert chosen(row.name, environ={row.env: content})[1] == f"environment {row.env}"
    except ConfigError as error:
        assert str(error).isprintable() and row.env in str(error)


@hypothesis_settings(deadline=None)
@given(st.sampled_from([row for row in SETTINGS if Decimal in row.kind.types and row.flag]),
       st.text("0123456789.e-+_ ", max_size=18))
def test_any_number_on_the_command_line_is_exact_or_refused(row, word):
    try:
        value = getattr(resolve({row.name: word}, {}), row.name)
    except ConfigError as error:
        assert row.name in str(error)
    else:
        assert value == Decimal(word) and set(word) <= set("0123456789.")


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f"bar = {text}".encode()))
def test_any_file_is_settings_or_one_line(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    try:
        assert isinstance(resolve({}, {}, file), Settings)
    except ConfigError as error:
        assert str(error).isprintable() and str(file) in str(error)
