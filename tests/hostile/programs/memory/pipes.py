# Parks memory in the buffers of pipes.
# expect: error
import os
while True:
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while True:
            os.write(w, bytes(65536))
    except BlockingIOError:
        pass
