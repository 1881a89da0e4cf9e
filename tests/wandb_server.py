"""A stand-in for a server of W&B: what its client asks to send a run, and to go on with one.

The questions are those of wandb 0.31; to one that it does not know it answers with an error, which
the client takes as a feature that an older server lacks.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40
Values = dict[str, Any]


class SentRun:
    """What has arrived of one run."""

    def __init__(self) -> None:
        self.starts: list[Values] = []  # variables of each `UpsertBucket`
        self.lines: dict[str, dict[int, str]] = {}  # streamed file -> number -> line
        self.files: dict[str, bytes] = {}
        self.exit_codes: list[int] = []

    @property
    def rows(self) -> list[Values]:
        """The history."""
        return [json.loads(line) for line in self.ordered("wandb-history.jsonl")]

    def ordered(self, file: str) -> list[str]:
        lines = self.lines.get(file, {})
        assert sorted(lines) == list(range(len(lines))), "a line is missing"
        return [lines[number] for number in sorted(lines)]

    def newest(self, name: str) -> Any:
        return next((one[name] for one in reversed(self.starts) if one.get(name)), None)


class WandbServer(ThreadingHTTPServer):
    """Attributes: the runs by their ids, and the artifacts, as far as the client has sent them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, SentRun] = {}
        self.artifacts: list[Values] = []
        self.jobs: list[Values] = []  # of a sweep, each given to the agent once
        self.sweep = ""  # its file
        self.failing: int | None = None  # status that all questions and lines get for an answer

    def handle_error(self, *_: object) -> None:
        """A client that turns away is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def graphql(self, name: str, given: Values) -> Values | None:
        """The answer to a question; None if it is unknown."""
        answer = getattr(self, f"_{name}", None)
        return answer and answer(given)

    def _Viewer(self, _: Values) -> Values:
        names = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": names | {"teams": {"edges": []}}}

    def _RunResumeStatus(self, given: Values) -> Values:
        run, bucket = self.runs.get(given["name"]), None
        if run is not None:
            history, events, summary, log = (
                run.ordered(file)
                for file in (
                    "wandb-history.jsonl",
                    "wandb-events.jsonl",
                    "wandb-summary.json",
                    "output.log",
                )
            )
            bucket = {
                **{"id": f"id-{given['name']}", "name": given["name"], "tags": [], "notes": None},
                **{"historyLineCount": len(history), "eventsLineCount": len(events)},
                **{"logLineCount": len(log), "wandbConfig": '{"t": 1}'},
                **{"summaryMetrics": summary[-1] if summary else "{}"},
                **{"historyTail": json.dumps(history[-1:]), "eventsTail": json.dumps(events[-1:])},
                **{"displayName": run.newest("displayName"), "config": run.newest("config")},
            }
        return {"model": {**_project(given), "bucket": bucket}}

    def _UpsertBucket(self, given: Values) -> Values:
        name = given["name"]
        run = self.runs.setdefault(name, SentRun())
        run.starts.append(given)
        bucket = {
            **{"id": f"id-{name}", "name": name, "description": None, "sweepName": given["sweep"]},
            **{"displayName": run.newest("displayName"), "config": run.newest("config")},
            **{"project": _project(given), "historyLineCount": len(run.rows)},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": len(run.starts) == 1}}

    def _CreateRunFiles(self, given: Values) -> Values:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/run/{given['run']}/{name}"}
            for name in given["files"]
        ]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: Values) -> Values:
        self.artifacts.append(given["input"])
        number = str(len(self.artifacts) - 1)
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, given: Values) -> Values:
        url = f"{self.url}/artifact/{given['artifactID']}/manifest"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _CreateArtifactFiles(self, given: Values) -> Values:
        nodes = [
            {
                **{"storagePath": one["name"], "artifact": {"id": one["artifactID"]}},
                **{"uploadHeaders": [], "uploadMultipartUrls": None},
                "uploadUrl": f"{self.url}/artifact/{one['artifactID']}/{one['name']}",
            }
            for one in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, given: Values) -> Values:
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def _SweepWithRuns(self, given: Values) -> Values:
        state = {"id": "1", "name": "sweep", "state": "RUNNING", "config": self.sweep}
        return {"project": {**_project(given), "sweep": {**state, "runs": {"edges": []}}}}

    def _CreateAgent(self, _: Values) -> Values:
        return {"createAgent": {"agent": {"id": "1"}}}

    def _Heartbeat(self, _: Values) -> Values:
        commands = [self.jobs.pop(0)] if self.jobs else []
        return {"agentHeartbeat": {"agent": {"id": "1"}, "commands": json.dumps(commands)}}


def _project(given: Values) -> Values:
    return {"id": "1", "name": given.get("project"), "entity": {"id": "1", "name": "me"}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(404, {})

    def do_PUT(self) -> None:
        _, kind, number, path = self.path.split("/", 3)
        if kind == "run":
            self.server.runs[number].files[path] = self._body()
        else:
            sent = self.server.artifacts[int(number)].setdefault("files", {})
            sent[path] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        raw = self._body()
        sign = (self.headers["Authorization"] or "").removeprefix("Basic ")
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if self.server.failing is not None:
            self._answer(self.server.failing, {"errors": [{"message": "not now"}]})
        elif base64.b64decode(sign) != f"api:{KEY}".encode():
            self._answer(401, {"errors": [{"message": "user is not logged in"}]})
        elif self.path == "/graphql":
            asked = json.loads(raw)
            name = re.search(r"(?:query|mutation) (\w+)", asked["query"])
            answer = self.server.graphql(name[1], asked.get("variables") or {}) if name else None
            unknown = {"errors": [{"message": "unknown"}], "data": None}
            self._answer(200, {"data": answer} if answer else unknown)
        elif stream:
            self._keep(self.server.runs[stream[1]], json.loads(raw))
            self._answer(200, {"exitcode": None, "limits": {}})
        else:
            self._answer(404, {})

    def _keep(self, run: SentRun, sent: Values) -> None:
        for file, part in (sent.get("files") or {}).items():
            lines = run.lines.setdefault(file, {})
            lines |= {part["offset"] + n: line for n, line in enumerate(part["content"])}
        if "exitcode" in sent:
            run.exit_codes.append(sent["exitcode"])

    def _body(self) -> bytes:
        raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
        return gzip.decompress(raw) if self.headers["Content-Encoding"] == "gzip" else raw

    def _answer(self, status: int, content: Values) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_wandb_server() -> Iterator[WandbServer]:
    """A server that runs as long as the context lasts."""
    with WandbServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
