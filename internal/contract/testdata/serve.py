# Serves moto on a free port of the loopback interface, says which, and ends when its standard input does.
import os
import sys

from moto.core.config import default_user_config
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

default_user_config["lambda"] = {"use_docker": False}  # a function answers what it is asked

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
os._exit(0)
