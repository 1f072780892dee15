# A command in Python: arguments, environment, files, time, threads of none; ends with a code of its own.
import os
import sys
import time

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        print("arguments", sys.argv[1:])
        print("name", os.environ.get("NAME"))
        directory = os.environ.get("DIR", "/data")
        path = os.path.join(directory, "notes.txt")
        with open(path, "w") as notes:
            for number in range(1000):
                notes.write(f"line {number}\n")
        with open(path) as notes:
            print("lines", sum(1 for _ in notes))
        print("entries", sorted(os.listdir(directory)))
        os.remove(path)
        before = time.monotonic()
        time.sleep(0.05)
        print("slept", 0.05 <= time.monotonic() - before < 5)
        print("to the error log", file=sys.stderr)
        sys.exit(44 if "fail" in sys.argv else 0)
