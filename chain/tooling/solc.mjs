#!/usr/bin/env node
// Stands for the solc binary, so that forge works offline: answers --version and --standard-json from soljson.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);
if (process.argv.includes("--version")) {
  // forge asks for the version often; reading it from the package saves loading eight megabytes each time.
  const { version } = require("solc/package.json");
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${version}+commit.00000000.Emscripten.clang`);
} else if (process.argv.includes("--standard-json")) {
  process.stdout.write(require("solc").compile(readFileSync(0, "utf8")));
} else {
  console.error("only --version and --standard-json");
  process.exit(1);
}
