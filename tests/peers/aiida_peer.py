#!/usr/bin/env python3
"""The default profile of AiiDA through its own library: makes processes, and reports what the storage has of them.

Reads one JSON object a line, and answers each with one:
  {"do": "submit", "class": "Waits", "seconds": 1.5}   {"ok": pk}, once there is a task that has a worker run it
  {"do": "store", "class": "Waits", "seconds": 1.5}    {"ok": pk}, without a task: nobody runs it
  {"do": "job", "x": 3, "y": 4}                        {"ok": pk}: a calculation of the code add@localhost
  {"do": "look", "pk": 7}                              {"ok": {"state", "paused", "status", "exit_status"}}
What fails is answered with {"error": "..."}. It ends with its input.
"""
import json
import sys

import aiida_processes
from aiida import engine, load_profile, orm
from aiida.engine.utils import instantiate_process
from aiida.manage.manager import get_manager


def store(request):
    runner = get_manager().get_runner()
    process_class = getattr(aiida_processes, request["class"])
    process = instantiate_process(runner, process_class, seconds=orm.Float(request["seconds"]))
    runner.persister.save_checkpoint(process)
    process.close()
    return process.pid


def submit(request):
    # The two halves of what `aiida.engine.submit` does.
    pk = store(request)
    get_manager().get_runner().controller.continue_process(pk, nowait=False, no_reply=True)
    return pk


def job(request):
    builder = orm.load_code("add@localhost").get_builder()
    builder.x, builder.y = orm.Int(request["x"]), orm.Int(request["y"])
    return engine.submit(builder).pk


def look(request):
    node = orm.load_node(request["pk"])
    return {
        "state": node.process_state.value,
        "paused": node.paused,
        "status": node.process_status,
        "exit_status": node.exit_status,
    }


def main():
    load_profile()
    commands = {"submit": submit, "store": store, "job": job, "look": look}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": commands[request["do"]](request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
