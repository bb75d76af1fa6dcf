# Runs a Python handler (_HANDLER, "file.function") over the Lambda Runtime API.
import http.client, importlib, json, os, sys, time, traceback

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def call(method, path, body=None, headers={}):
    api.request(method, "/2018-06-01/runtime/" + path, body=body, headers=headers)
    answer = api.getresponse()
    return answer, answer.read()


def fail(path, error):
    told = {"errorMessage": str(error), "errorType": type(error).__name__,
            "stackTrace": traceback.format_tb(error.__traceback__)}
    print(json.dumps(told), file=sys.stderr, flush=True)
    call("POST", path, json.dumps(told), {"Lambda-Runtime-Function-Error-Type": told["errorType"]})


class Context:
    def __init__(self, headers):
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = headers["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self._deadline = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline - int(time.time() * 1000))


try:
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    name, _, function = os.environ["_HANDLER"].rpartition(".")
    handler = getattr(importlib.import_module(name.replace("/", ".")), function)
except BaseException as e:
    fail("init/error", e)
    sys.exit(1)

while True:
    answer, event = call("GET", "invocation/next")
    if answer.status != 200:
        sys.exit(1)
    context = Context(answer.headers)
    os.environ["_X_AMZN_TRACE_ID"] = answer.headers.get("Lambda-Runtime-Trace-Id", "")
    try:
        out = json.dumps(handler(json.loads(event), context))
        sys.stdout.flush()
    except Exception as e:
        sys.stdout.flush()
        fail("invocation/%s/error" % context.aws_request_id, e)
    else:
        call("POST", "invocation/%s/response" % context.aws_request_id, out.encode(), {"Content-Type": "application/json"})
