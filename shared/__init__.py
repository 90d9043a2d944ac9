"""The small utilities every week, paper and capstone may lean on; it knows none of them."""
