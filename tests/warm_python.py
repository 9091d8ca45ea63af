"""A Python that has already imported TensorFlow: `subprocess.run([*warm_python(), "-m", "vse_tf.train", …])`.

Importing TensorFlow and Keras takes 5 s of processor time in every command that a test starts. Here one server of each
test process imports them, and forks for every command: a process of its own, with the command's arguments, folder,
environment, files and exit code; it imports the package itself. The server has run no operation and started no thread
of TensorFlow, so it may be forked. A test takes `sys.executable` where the interpreter is its subject: what is imported
or printed first, memory, environment variables that Python or TensorFlow read when they start, process groups.

The command that is started is a small client. It passes signals on; where it is killed, so is the fork.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def warm_python() -> list[str]:
    """The beginning of a command, in place of `sys.executable`; `-m module` or `-c code` and arguments follow."""
    return [sys.executable, "-IS", __file__, _address()]


def _address() -> str:
    import atexit  # noqa: PLC0415 (a client has no time for imports)
    import subprocess  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    if not _servers:
        folder = tempfile.TemporaryDirectory(prefix="warm-python-")
        address = f"{folder.name}/socket"
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the package does before it imports TensorFlow
        environment.pop("PYTHONPATH", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen([sys.executable, __file__, address, "--server"], env=environment, **pipes)
        _servers[address] = (server, folder)
        assert server.stdout is not None and server.stdout.read(1), "the warm Python has not started"
        # It ends when its input does, even where this process is killed.
        atexit.register(lambda: (server.stdin.close(), server.wait()))
    return next(iter(_servers))


_servers: dict[str, tuple] = {}


def client(address: str, argv: list[str]) -> None:
    """Have the command run, and end as it ends."""
    job = json.dumps([argv, os.getcwd(), dict(os.environ)]).encode("utf-8", "surrogateescape")  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        server.sendmsg([len(job).to_bytes(4, "little")], files)
        server.sendall(job)
        code = int.from_bytes(server.recv(4), "little", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def next_job(address: str) -> list:
    """Serve until the input ends; returns in the fork that is to do a job."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        os.write(1, b"!")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that watch
        while True:
            ready, _, _ = select.select([0, listening], [], [])
            if 0 in ready:
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    left, body = int.from_bytes(head, "little"), b""
    while len(body) < left:
        body += connection.recv(left - len(body))
    fork = os.fork()
    if fork == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return json.loads(body.decode("utf-8", "surrogateescape"))
    for number in (0, 1, 2, *files):
        os.close(number)
    process = os.pidfd_open(fork)
    while process not in select.select([process, connection], [], [])[0]:
        # The client has a signal, or has been killed.
        signal.pidfd_send_signal(process, (connection.recv(1) or bytes([signal.SIGKILL]))[0])
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    try:
        connection.send(code.to_bytes(4, "little", signed=True))
    finally:
        os._exit(0)


def main(address: str) -> None:
    """Import what takes long, then be what `python -m module` or `python -c code` is, in each fork."""
    import gc  # noqa: PLC0415
    import random  # noqa: PLC0415
    import runpy  # noqa: PLC0415
    import types  # noqa: PLC0415

    import h5py  # noqa: F401, PLC0415
    import jsonargparse  # noqa: F401, PLC0415
    import keras  # noqa: F401, PLC0415
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: F401, PLC0415

    gc.collect()
    gc.freeze()
    argv, folder, environment = next_job(address)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    paths = environment.get("PYTHONPATH", "")
    sys.path[:1] = [folder if argv[0] == "-m" else "", *(paths.split(os.pathsep) if paths else [])]
    sys.argv = [argv[0], *argv[2:]]
    if argv[0] == "-m":
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(argv[1], "<string>", "exec"), module.__dict__)


if __name__ == "__main__":
    if sys.argv[2:] == ["--server"]:
        main(sys.argv[1])
    else:
        client(sys.argv[1], sys.argv[2:])
