// node build.mjs SOURCE WIT-FOLDER OUTPUT: a component from a module of JavaScript.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [source, wit, output] = process.argv.slice(2);
const { component } = await componentize({ sourcePath: source, witPath: wit, worldName: "wasi:http/proxy", enableFeatures: ["http", "fetch-event"] });
await writeFile(output, component);
