"""A process that starts the fake server under a keeper, for a test to kill: ``parent.py PORT FOLDER``."""

import os
import signal
import sys
from pathlib import Path

from anybroker_contract.brokers.process import Keeper

keeper = Keeper("anybroker-test-")
script = Path(__file__).with_name("fake_server.py")
keeper.run([sys.executable, str(script), sys.argv[1], sys.argv[2]], env=dict(os.environ))
print(keeper.folder, flush=True)
signal.pause()
