"""The small utilities every week, paper and capstone may lean on; it knows none of them."""

from shared.signals import at_once

at_once("study")
