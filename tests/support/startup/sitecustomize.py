"""Python imports this first in every process that tests start: the engine's 8,000 modules are imported at once.

Looking for garbage again and again meanwhile would take a fifth of the time, and find none.
"""

import gc

gc.set_threshold(100_000, 20, 20)
