// A handler of wasi:http in JavaScript: the fetch event, as in browsers' service workers, which StarlingMonkey turns wasi:http into.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

let served = 0;

async function answer(request) {
  const url = new URL(request.url);
  console.error(`${request.method} ${url.pathname}`);
  if (url.pathname === "/boom") throw new Error("asked to fail");
  if (url.pathname === "/echo") return new Response(request.body, { headers: { "content-type": "text/plain" } });
  if (url.pathname === "/sleep") await new Promise((done) => setTimeout(done, 50));
  if (url.pathname === "/ask") {
    const other = await fetch(url.searchParams.get("url"));
    return new Response(`they say ${other.status}: ${await other.text()}`);
  }
  return new Response(JSON.stringify({ hello: "from JavaScript", path: url.pathname, served: ++served, time: Date.now() }) + "\n");
}
