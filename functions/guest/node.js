// Runs a Node.js handler (_HANDLER, "file.function") over the Lambda Runtime API.
const http = require("node:http"), fs = require("node:fs"), path = require("node:path"), url = require("node:url");
const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, at, body, headers) {
  return new Promise((resolve, reject) => {
    const data = body === undefined ? undefined : Buffer.from(body);
    const req = http.request({ host, port, agent, method, path: "/2018-06-01/runtime/" + at,
      headers: { ...headers, ...(data ? { "Content-Length": data.length, "Content-Type": "application/json" } : {}) } }, (res) => {
      const parts = [];
      res.on("data", (p) => parts.push(p));
      res.on("end", () => resolve({ status: res.statusCode, headers: res.headers, body: Buffer.concat(parts).toString() }));
      res.on("error", reject);
    });
    req.on("error", reject);
    req.end(data);
  });
}

function describe(e) {
  if (!(e instanceof Error)) e = new Error(typeof e === "string" ? e : JSON.stringify(e));
  return { errorType: e.name || "Error", errorMessage: e.message, trace: String(e.stack || "").split("\n") };
}

const fail = (at, e) => {
  const d = describe(e);
  console.error(JSON.stringify(d));
  return call("POST", at, JSON.stringify(d), { "Lambda-Runtime-Function-Error-Type": d.errorType });
};

async function load() {
  const spec = process.env._HANDLER, dot = spec.lastIndexOf("."), base = path.resolve(process.env.LAMBDA_TASK_ROOT, spec.slice(0, dot));
  const file = ["", ".js", ".mjs", ".cjs"].map((x) => base + x).find((f) => fs.existsSync(f) && fs.statSync(f).isFile());
  if (!file) throw Object.assign(new Error(`cannot find module ${spec.slice(0, dot)}`), { name: "Runtime.ImportModuleError" });
  const module = await import(url.pathToFileURL(file).href);
  let handler = module;
  for (const name of spec.slice(dot + 1).split(".")) handler = handler?.[name] ?? handler?.default?.[name];
  if (typeof handler !== "function") throw Object.assign(new Error(`${spec} is undefined or not exported`), { name: "Runtime.HandlerNotFound" });
  return handler;
}

function run(handler, event, context) {
  return new Promise((resolve, reject) => {
    const done = (e, v) => (e === null || e === undefined ? resolve(v) : reject(e));
    const out = handler(event, context, done);
    if (out && typeof out.then === "function") out.then(resolve, reject);
    else if (handler.length < 3) resolve(out);
  });
}

(async () => {
  let handler;
  try {
    handler = await load();
  } catch (e) {
    await fail("init/error", e);
    process.exit(1);
  }
  for (;;) {
    const next = await call("GET", "invocation/next"), h = next.headers, id = h["lambda-runtime-aws-request-id"];
    if (next.status !== 200) process.exit(1);
    process.env._X_AMZN_TRACE_ID = h["lambda-runtime-trace-id"] || "";
    const context = {
      awsRequestId: id, invokedFunctionArn: h["lambda-runtime-invoked-function-arn"], functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
      functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION, memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
      callbackWaitsForEmptyEventLoop: true, getRemainingTimeInMillis: () => Math.max(0, Number(h["lambda-runtime-deadline-ms"]) - Date.now()),
    };
    try {
      const out = await run(handler, JSON.parse(next.body), context);
      await call("POST", `invocation/${id}/response`, JSON.stringify(out === undefined ? null : out));
    } catch (e) {
      await fail(`invocation/${id}/error`, e);
    }
  }
})();
