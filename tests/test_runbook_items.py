"""Whatever the owner's first runbook promised is found by who looks for it: by its number, what
it is about, and where it is now."""

import importlib
import re
from pathlib import Path

import pytest
from test_docs import EVENTS, README, RUNBOOK, STRINGS, commands, documented

from perps_bot.cli import COMMANDS
from perps_bot.settings import PROFILES, SETTINGS, described, resolve

ROOT = Path(__file__).resolve().parent.parent
CHECKLIST = ROOT.parent / "shared" / "reference" / "runbook-items.md"
LINES = list(commands(RUNBOOK))
VARIABLES = {row.env for row in SETTINGS}
ROWS = {row.name: row for row in SETTINGS}
DEFAULTS = {name: value for name, value, _, _ in described(resolve({}, {}))}

# number, what is looked for: where it is, as kind:thing (the kinds stand below)
ITEMS = """
1   the program itself: file:bin/perps-bot; says:scripts/run_perps_bot.py;
    line:bin/perps-bot --profile dev
2   choice of a profile: flag:--profile; setting:profile dev, one of dev, demo, prod
3   no orders are sent: flag:--dry-run; line:bin/perps-bot --profile dev --dry-run
4   one cycle: flag:--dev-fast; line:bin/perps-bot --profile prod --dev-fast --dry-run
5   several symbols: flag:--symbols; line:--symbols BTC-PERP ETH-PERP
6   leverage wanted: flag:--leverage; says:The strictest of `--leverage`
7   exits alone: flag:--reduce-only; line:--profile prod --reduce-only
8   length of a cycle: flag:--interval; line:--interval 1; line:--interval 30
9   kind of entry: flag:--order-type; line:--order-type market; line:--order-type limit
10  life of a limit: flag:--tif; line:--tif GTC; line:--tif IOC
11  the second entry: line:python -m perps_bot perps --profile dev --dev-fast;
    says:simple_cli perps; line:python -m perps_bot perps --profile demo --order-type limit
12  notebooks: file:docs/notebooks/perps_bot.ipynb; section:Python;
    readme:docs/notebooks/perps_bot.ipynb
13  dev, three ways: line:--profile dev --dry-run; line:--profile dev --dev-fast;
    line:--profile dev --symbols
14  demo, small: line:--profile demo --symbols BTC-PERP; line:--profile demo --leverage 1;
    section:Starting
15  prod, three ways: line:bin/perps-bot --profile prod; line:prod --reduce-only;
    line:prod --dev-fast --dry-run
16  a whole cycle on paper: line:--profile dev --interval 1; section:Testing
17  smoke test: line:PERPS_FORCE_MOCK=1 bin/perps-bot --profile dev --dry-run --dev-fast --symbols
18  demo, no keys: line:COINBASE_SANDBOX=1 PERPS_FORCE_MOCK=1 bin/perps-bot --profile demo --dev
19  against the sandbox: says:Coinbase's sandbox is static;
    says:`COINBASE_SANDBOX=1` for real requests; command:validate
20  can it be imported: line:python -c "import perps_bot; print('OK')"
21  is the key there: says:$COINBASE_API_KEY; command:check; says:Never print the key
22  is it running: line:pgrep -af perps_bot; says:`ps aux`
23  state and health: line:perps_bot/demo/last_state.json; line:perps_bot/dev/health.json
24  errors in the log: line:grep ERROR logs/perps_bot.log
25  stop by signal: line:kill -INT PID; section:Stopping
26  state, readable: line:json.dumps(json.load(f), indent=2); line:EVENT_STORE_ROOT
27  one symbol: says:test_symbol('BTC-PERP'); command:symbol; line:bin/perps-bot symbol BTC-PERP
28  tests of the strategy: file:tests/test_strategy.py; says:bin/test tests/test_strategy.py -v
29  quantisation without pytest: line:python tests/test_quantization_simple.py
30  validation, strategy and whole: line:validate strategy; line:validate e2e;
    says:validate_derivatives
31  validation, client and feed: line:validate client; line:validate ws; says:validate_perps_client;
    says:validate_ws
32  where data lives: variable:EVENT_STORE_ROOT; setting:event_store_root data;
    line:EVENT_STORE_ROOT=elsewhere
33  sandbox: variable:COINBASE_SANDBOX
34  paper everywhere: variable:PERPS_FORCE_MOCK
35  how much is logged: variable:LOG_LEVEL; line:LOG_LEVEL=DEBUG;
    setting:log_level INFO, one of DEBUG, INFO, WARNING, ERROR
36  futures allowed: variable:COINBASE_ENABLE_DERIVATIVES
37  validations allowed: variable:RUN_SANDBOX_VALIDATIONS
38  the real adapter: variable:USE_REAL_ADAPTER
39  credentials: variable:COINBASE_API_KEY; variable:COINBASE_API_SECRET;
    variable:COINBASE_PASSPHRASE; section:The key, and the machine
40  load the products: name:catalog.ProductCatalog.load_from_brokerage;
    sample:catalog.load_from_brokerage(client)
41  perpetuals alone: name:catalog.ProductCatalog.get_perpetual_products;
    sample:catalog.get_perpetual_products()
42  steps: name:catalog.enforce_perp_rules; sample:enforce_perp_rules(product, qty=
43  the engine: name:execution.ExecutionEngine.modify_order; name:execution.ExecutionConfig;
    sample:ExecutionEngine(config=exec_config, event_store=event_store)
44  an order: name:execution.ExecutionEngine.place_order;
    sample:order = engine.place_order(symbol="BTC-PERP", side="buy"; says:`await` before a call
45  a cancel: name:execution.ExecutionEngine.cancel_order; sample:engine.cancel_order(order.id)
46  positions: name:tracker.PositionTracker.update_position;
    name:tracker.PositionTracker.get_position; sample:.unrealized_pnl
47  limits by code: name:risk.RiskConfig; sample:max_exposure_pct=0.8;
    says:`max_position_pct_per_symbol`
48  the gate: name:risk.LiveRiskManager.pre_trade; name:risk.LiveRiskManager.post_trade;
    section:Limit breach
49  kill switch by code: name:risk.LiveRiskManager.activate_kill_switch;
    sample:risk_manager.activate_kill_switch("Manual intervention required")
50  strategy by code: name:strategy.StrategyConfig; sample:trailing_stop_pct=0.01;
    sample:enable_shorts=False
51  the strategy: name:strategy.BaselinePerpsStrategy.decide; file:perps_bot/strategy.py;
    setting:enter_on_start no
52  Coinbase's client: name:client.CoinbasePerpetualsClient.products;
    name:client.CoinbasePerpetualsClient.marks; file:perps_bot/client.py
53  everything closed: name:ops.close_all_positions; command:close-all;
    sample:close_all_positions(broker_client, symbols=["BTC-PERP", "ETH-PERP"]);
    says:scripts/emergency_close_all
54  layers: says:The layers, top down; file:tests/test_architecture.py
55  discovery: command:products;
    says:BTC-PERP, ETH-PERP, SOL-PERP and XRP-PERP are found in the venue's listing
56  funding rates: event:funding.rate; event:funding.paid; command:products
57  fills simulated: file:perps_bot/paper.py;
    says:filled on paper unless the engine is given another `broker=`
58  the state: says:`last_state.json`; section:The five figures
59  the health: section:Health format; says:"last_decisions"; command:health
60  events: says:`events/`; file:docs/EVENTS.md; section:Event types
61  risk events: says:`risk_events.json`; line:risk_events.json
62  the log: variable:PERPS_LOG_DIR; line:tail -n 20 logs/perps_bot.log
63  mark cache: says:`marks.json`; says:a fresh mark cache
64  the four events: event:trade.executed; event:risk.rejected; event:position.updated;
    event:strategy.signal; says:`perps_bot/tracker.py`
65  figure, positions and P&L: says:positions and P&L; command:status
66  figure, daily loss: says:daily loss against its limit
67  figure, leverage: says:leverage against its limit
68  figure, signal rate: says:`signal_rate`
69  figure, order success: says:`order_success_rate`
70  limits of dev: profile:dev 10000 3 False
71  limits of demo: profile:demo 100 1 False
72  limits of prod: profile:prod 50000 3 True
73  fast average: setting:short_ma_period 5, from 2 to 50
74  slow average: setting:long_ma_period 20, from 10 to 200
75  leverage: setting:target_leverage 2, from 1 to 5
76  trailing stop: setting:trailing_stop_pct 0.01, from 0.005 to 0.05
77  leverage of all: setting:leverage_max_global 5
78  daily loss: setting:max_daily_loss_pct 0.05
79  exposure: setting:max_exposure_pct 0.8
80  share of a symbol: setting:max_position_pct_per_symbol 0.2
81  smallest order: says:`min_notional`; name:model.Product.min_notional; command:symbol
82  no price: message:No mark price for symbol; says:For a fresh mark cache
83  leverage refused: message:Risk check failed: ; message:Leverage exceeds limit;
    says:Lower `--leverage`, add equity
84  breach: section:Limit breach; says:`Risk check failed` in the log; says:REDUCING
85  too small: message:Quantization failed: Below minimum; says:`check` prints the number
86  no signals: message:Strategy generates no signals; says:The averages are not full
87  start: section:Starting; command:init; command:check
88  first cycles: section:The first cycles; says:`order.intended`
89  kill switch: section:In an emergency; command:halt; line:kill -INT PID;
    says:`activate_kill_switch`
90  unwinding: command:close-all; section:Emergencies
91  limit breach: line:--clear-daily-loss; section:Limit breach; command:resume
92  daily: says:| daily |; command:status; command:why
93  weekly: says:| weekly |; command:report; says:mark cache: nothing to do
94  monthly: says:| monthly |; command:backup; command:restore; command:drill
95  tuning: section:Tuning; says:averages of 3 and 10 bars; says:5 and 20, the default;
    says:10 and 50; says:`--leverage 2`, 3 to 5
96  debugging: section:Debugging; line:LOG_LEVEL=DEBUG; command:symbol; line:json.load
97  safety checklist: section:Safety checklist; says:- [ ] Backups; says:- [ ] Kill switch;
    says:- [ ] People
98  contacts: section:Contacts and resources; says:write the names and numbers here
99  the runbook and the files: file:docs/RUNBOOK_PERPS.md; section:Files
"""


def is_name(thing):
    room, *path = thing.split(".")
    held = importlib.import_module(f"perps_bot.{room}")
    for name in path:
        held = getattr(held, name, None)
    return held is not None


def is_setting(thing):
    """`name default`, and after a comma what its range must say; both in the runbook, too."""
    said, _, allowed = thing.partition(", ")
    name, default = said.split()
    (row,) = re.findall(rf"^\|(?: `\w+` \|)? `{name}` \|.*$", RUNBOOK, re.M) or [""]
    return name in row and DEFAULTS.get(name) == default and default in row and all(
        allowed in text for text in (ROWS[name].kind.allowed, row))


def is_profile(thing):
    name, position, leverage, shorts = thing.split()
    limits = PROFILES[name]
    return [str(limits[key]) for key in ("max_position", "max_leverage", "enable_shorts")] == [
        position, leverage, shorts]  # that the runbook says so is test_docs'


KINDS = {
    "command": lambda thing: thing in COMMANDS and f"`{thing}" in RUNBOOK + README,
    "event": lambda thing: thing in documented() and f"### `{thing}`" in EVENTS,
    "file": lambda thing: (ROOT / thing).is_file(),
    "flag": lambda thing: thing in {row.flag for row in SETTINGS} and f"`{thing}`" in RUNBOOK,
    "line": lambda thing: any(thing in line for line in LINES),
    "message": lambda thing: thing in STRINGS and thing in RUNBOOK,
    "name": is_name,
    "profile": is_profile,
    "readme": lambda thing: thing in README,
    "sample": lambda thing: any(
        thing in block for block in re.findall(r"^```python\n(.*?)^```", RUNBOOK, re.M | re.S)),
    "says": lambda thing: thing in RUNBOOK,
    "section": lambda thing: re.search(f"^##+ {re.escape(thing)}$", RUNBOOK, re.M) is not None,
    "setting": is_setting,
    "variable": lambda thing: thing in VARIABLES and f"| `{thing}` |" in RUNBOOK,
}
PLACES = [(int(number), what.strip(), *place.strip().split(":", 1))
          for number, rest in re.findall(r"^(\d+) (.+)$", re.sub(r"\n +", " ", ITEMS), re.M)
          for what, _, places in [rest.partition(": ")]
          for place in re.split(r"; (?=[a-z]+:)", places)]


@pytest.mark.parametrize("number, what, kind, thing", PLACES)
def test_what_the_first_runbook_promised_is_found(number, what, kind, thing):
    assert KINDS[kind](thing), f"{number}, {what}: {kind} {thing}"


def test_every_row_has_a_place():
    assert sorted({number for number, *_ in PLACES}) == list(range(1, 100))


@pytest.mark.skipif(not CHECKLIST.exists(), reason="the owner's checklist is not in ../shared")
def test_the_rows_are_those_of_the_owners_checklist():
    rows = re.findall(r"^\| (\d+) \|", CHECKLIST.read_text("utf-8"), re.M)
    assert [int(row) for row in rows] == sorted({number for number, *_ in PLACES})


@pytest.mark.parametrize("kind, absent", [
    ("command", "sweep-all"), ("event", "trade.undone"), ("file", "bin/nothing"),
    ("flag", "--nothing"), ("line", "bin/perps-bot nothing"), ("message", "Nothing failed"),
    ("name", "risk.LiveRiskManager.nothing"), ("profile", "prod 50001 3 True"),
    ("readme", "docs/NOTHING.md"), ("sample", "nothing()"), ("says", "nothing of this"),
    ("section", "Nothing"), ("setting", "short_ma_period 6, from 2 to 50"),
    ("setting", "short_ma_period 5, from 3 to 50"), ("variable", "PERPS_NOTHING"),
])
def test_what_is_absent_is_not_found(kind, absent):
    assert not KINDS[kind](absent)
