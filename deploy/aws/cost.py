"""The endpoints running in the account's region, and their cost per hour by the catalogue's prices."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from capacity.errors import CapacityError
from capacity.hardware.nodes import load_hardware
from deploy.account import Account, AwsCall


@dataclass(frozen=True, slots=True)
class Running:
    """Instances of one endpoint variant; the price is None where the catalogue has none."""

    endpoint: str
    status: str
    instance_type: str
    instances: int
    usd_per_hour: float | None
    price_note: str


def running(account: Account) -> list[Running]:
    """Every endpoint of the region, including those not deployed by this tool. Raises DeployError."""
    found = []
    for item in account.pages(AwsCall("sagemaker", "list_endpoints", {}), "Endpoints"):
        name = item["EndpointName"]
        endpoint = account.find(AwsCall("sagemaker", "describe_endpoint", {"EndpointName": name}))
        if endpoint is None:
            continue
        named = {"EndpointConfigName": endpoint["EndpointConfigName"]}
        config = account.find(AwsCall("sagemaker", "describe_endpoint_config", named)) or {}
        types = {item["VariantName"]: item.get("InstanceType", "") for item in config.get("ProductionVariants", ())}
        for variant in endpoint.get("ProductionVariants", ()):
            instance_type = types.get(variant["VariantName"], "")
            count = variant.get("CurrentInstanceCount", 0) if instance_type else 0
            usd, note = price(instance_type, count)
            found.append(Running(name, endpoint["EndpointStatus"], instance_type or "serverless", count, usd, note))
    return found


def price(instance_type: str, instances: int) -> tuple[float | None, str]:
    """(US dollars per hour, source of the price) of `instances`."""
    if not instance_type:
        return None, "billed by the request"
    try:
        hardware = load_hardware(instance_type)
    except CapacityError:
        return None, "not in the catalogue"
    if hardware.price is None:
        return None, hardware.price_note or "no price known"
    where = f"{hardware.price.region}, {hardware.price.as_of}"
    return hardware.price.usd_per_hour * instances, f"list price, {where}"


def run_cost(account: Account, console: Console) -> int:
    """`make cost`: print the table."""
    found = running(account)
    if not found:
        console.print(f"nothing is running in {account.region}", highlight=False, soft_wrap=True)
        return 0
    table = Table("endpoint", "status", "instances", "USD an hour", "USD in 730 h", "price", box=None)
    for column in (3, 4):
        table.columns[column].justify = "right"
    for item in found:
        money = (
            ["—", "—"] if item.usd_per_hour is None else [f"{item.usd_per_hour:.2f}", f"{item.usd_per_hour * 730:,.0f}"]
        )
        table.add_row(item.endpoint, item.status, f"{item.instances} × {item.instance_type}", *money, item.price_note)
    console.print(table)
    return 0
