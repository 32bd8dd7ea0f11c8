"""A plugin for pytest under which torch.compile writes C++ without vectors, in every thread.

Its vectors are those of the processor, and do not compile where ATEN_CPU_CAPABILITY says that there are none.
"""

from torch._inductor import config

config._config["cpp.simdlen"].default = 1  # what is assigned holds for one thread
