"""How contracts are requested and described on the TWS wire. Pure.

Field order as in the official client's `reqContractDetails` and `processContractDataMsg`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.simulator.tws import wire

if TYPE_CHECKING:
    from trio_bridge.simulator.contracts import Contract


class ContractQuery(NamedTuple):
    """A contract as a client describes it; empty and zero fields match anything."""

    con_id: int
    symbol: str
    sec_type: str
    expiry: str
    strike: float
    right: str
    multiplier: str
    exchange: str
    primary_exchange: str
    currency: str
    local_symbol: str
    trading_class: str

    @classmethod
    def parse(cls, fields: list[str]) -> ContractQuery:
        """Read the twelve fields that both contract requests carry.

        Raises:
            WireError: fields are missing, or a number is not a number.
        """
        if len(fields) < len(cls._fields):
            raise wire.WireError("a contract with too few fields")
        con_id, symbol, sec_type, expiry, strike, right, *rest = fields[: len(cls._fields)]
        try:
            return cls(
                int(con_id or 0), symbol, sec_type, expiry, float(strike or 0), right[:1], *rest
            )
        except ValueError as bad:
            raise wire.WireError(f"a contract with a bad number: {bad}") from None

    def matches(self, contract: Contract) -> bool:
        """Whether the contract fits the description; the exchange is ignored."""
        if self.con_id:
            return self.con_id == contract.con_id
        return (
            (self.symbol == contract.symbol or self.local_symbol == contract.local_symbol != "")
            and self.sec_type in ("", contract.sec_type)
            and contract.expiry.startswith(self.expiry)
            and self.strike in (0.0, contract.strike)
            and self.right in ("", "?", "0", contract.right)
            and self.multiplier in ("", wire.multiplier(contract))
            and self.currency in ("", contract.currency)
            and self.local_symbol in ("", contract.local_symbol)
            and self.trading_class in ("", contract.trading_class)
        )


def contract_details(version: int, req_id: int, contract: Contract, under_sec_type: str) -> bytes:
    """Everything about one contract: the longest message, and the one that varies most between
    versions."""
    head: tuple[wire.Field, ...] = (10, 8) if version < wire.SIZE_RULES else (10,)
    size_multiplier: tuple[wire.Field, ...] = (1,) if version < wire.SIZE_RULES else ()
    tail: tuple[wire.Field, ...] = ()
    if version >= wire.SIZE_RULES:
        tail = (1, 1, 1)
    elif version == wire.SIZE_MIN_TICK:
        tail = (1,)
    return wire.message(
        *head,
        req_id,
        contract.symbol,
        contract.sec_type,
        _last_trade(contract),
        contract.strike,
        contract.right,
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,  # market name
        contract.trading_class,
        contract.con_id,
        contract.min_tick,
        *size_multiplier,
        wire.multiplier(contract),
        "LMT,MKT",
        ",".join(valid_exchanges(contract)),
        contract.price_magnifier,
        contract.under_con_id,
        contract.long_name,
        contract.primary_exchange,
        contract.expiry[:6],
        "",  # industry
        "",  # category
        "",  # subcategory
        contract.time_zone,
        "",  # trading hours
        "",  # liquid hours
        "",  # ev rule
        0,  # ev multiplier
        0,  # number of security ids
        1,  # aggregated group
        contract.under_symbol,
        under_sec_type,
        "",  # market rules
        contract.real_expiry or contract.expiry,
        "COMMON" if contract.sec_type == "STK" else "",
        *tail,
    )


def contract_details_end(req_id: int) -> bytes:
    """All matching contracts have been sent."""
    return wire.message(52, 1, req_id)


def _last_trade(contract: Contract) -> str:
    """The day alone, or day, time and zone: both are seen."""
    if not contract.last_trade_time:
        return contract.expiry
    return f"{contract.expiry} {contract.last_trade_time} {contract.time_zone}"


def valid_exchanges(contract: Contract) -> tuple[str, ...]:
    """The exchanges that market data for the contract can be requested from; SMART does not route
    futures."""
    smart = ("SMART",) if contract.sec_type in ("STK", "OPT") else ()
    return (*smart, contract.exchange)
