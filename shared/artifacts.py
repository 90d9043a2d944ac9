"""placeholder."""
import os, tempfile
from pathlib import Path
def write_atomic(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str): data=data.encode()
    t=path.with_name('.'+path.name+'.tmp'); t.write_bytes(data); os.replace(t,path)
