// OpenAI's JavaScript client for tests: it reads {url, key, calls} from standard input and prints {name: result} as JSON.
//
// A call is {path, body}: `path` a method of the client, as "chat.completions.create"; in `body`, {"$file": PATH} stands for
// a file. A result is {value}, {events} of a stream, {bytes} in base64, or {error}. Of the client's own helpers, which join
// the events of a stream, it is what they joined.
// require, unlike import, looks into the folders of NODE_PATH.
import { createReadStream, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { OpenAI } = createRequire(import.meta.url)("openai");
const { url, key, calls } = JSON.parse(readFileSync(0, "utf-8"));
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });

function withFiles(value) {
  if (Array.isArray(value)) return value.map(withFiles);
  if (value === null || typeof value !== "object") return value;
  if ("$file" in value) return createReadStream(value.$file);
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, withFiles(one)]));
}

async function resultOf({ path, body }) {
  const names = path.split(".");
  const method = names.pop();
  const owner = names.reduce((found, name) => found[name], client);
  const given = await owner[method](withFiles(body));
  if (given instanceof Response) return { bytes: Buffer.from(await given.arrayBuffer()).toString("base64") };
  if (typeof given.finalChatCompletion === "function") return { value: await given.finalChatCompletion() };
  if (typeof given.finalResponse === "function") return { value: await given.finalResponse() };
  if (given.controller instanceof AbortController) {
    const events = [];
    for await (const event of given) events.push(event);
    return { events };
  }
  return { value: given.data && given.object === "list" && !given.usage ? { data: given.data } : given };
}

const results = {};
for (const [name, call] of Object.entries(calls)) {
  try {
    results[name] = await resultOf(call);
  } catch (error) {
    const { constructor, status, code, param, type, message } = error;
    results[name] = { error: { kind: constructor.name, status, code, param, type, message } };
  }
}
console.log(JSON.stringify(results));
