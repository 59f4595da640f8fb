"""What a run will take, before anything is sampled or downloaded."""

from bench.price.outlook import Outlook, outlook
from bench.price.probing import Probe, probe
from bench.price.standin import open_or_stand_in

__all__ = ["Outlook", "Probe", "open_or_stand_in", "outlook", "probe"]
