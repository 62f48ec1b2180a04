// Compiles the contracts into ../artifacts, byte for byte the same on every machine. `--check` compares, `--out DIR` writes elsewhere.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const here = dirname(fileURLToPath(import.meta.url));
const sourceRoot = resolve(here, "../contracts");
const TIMELOCK = "@openzeppelin/contracts/governance/TimelockController.sol";
const settings = JSON.parse(readFileSync(join(here, "settings.json"), "utf8"));

function solidityFiles(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return solidityFiles(path);
      return entry.name.endsWith(".sol") ? [path] : [];
    })
    .sort();
}

/** Settlement runs SettlementChallenges on its own storage: its interface is both, and their storage must be the same. */
function joinSettlement(artifacts, contracts) {
  const layout = (name) =>
    JSON.stringify(
      contracts[`contracts/${name}.sol`][name].storageLayout.storage.map(({ label, slot, offset, type }) => [label, slot, offset, type.replace(/\d+_storage/g, "")]),
    );
  if (layout("Settlement") !== layout("SettlementChallenges")) throw new Error("Settlement's halves disagree about storage");
  const known = new Set(artifacts["Settlement.json"].abi.map((entry) => JSON.stringify(entry)));
  for (const entry of artifacts["SettlementChallenges.json"].abi) {
    if (entry.type !== "constructor" && !known.has(JSON.stringify(entry))) artifacts["Settlement.json"].abi.push(entry);
  }
}

const sha256 = (text) => createHash("sha256").update(text).digest("hex");

/** Compiles everything and returns the artifacts by file name. */
export function compile() {
  const solc = require("solc");
  const sources = {};
  for (const file of solidityFiles(sourceRoot)) {
    const name = "contracts/" + relative(sourceRoot, file).replaceAll("\\", "/");
    sources[name] = { content: readFileSync(file, "utf8") };
  }
  const own = Object.keys(sources);
  // The owner of all contracts is OpenZeppelin's, unchanged.
  sources[TIMELOCK] = { content: readFileSync(join(here, "node_modules", TIMELOCK), "utf8") };
  const findImport = (name) => {
    if (!name.startsWith("@openzeppelin/contracts/")) return { error: "outside the project: " + name };
    return { contents: readFileSync(join(here, "node_modules", name), "utf8") };
  };
  const input = {
    language: "Solidity",
    sources,
    settings: { ...settings, outputSelection: { "*": { "*": ["abi", "evm.bytecode", "evm.deployedBytecode", "metadata", "storageLayout"] } } },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  // OpenZeppelin's own code warns about a future keyword and about transient storage; ours must not warn at all.
  const problems = (output.errors ?? [])
    .filter((e) => e.severity === "error" || !e.sourceLocation?.file.startsWith("@openzeppelin/"))
    .map((e) => e.formattedMessage);
  if (problems.length) throw new Error(problems.join("\n"));

  const artifacts = {};
  for (const name of [...own, TIMELOCK]) {
    for (const [contract, result] of Object.entries(output.contracts[name] ?? {})) {
      const inInterfaces = name.startsWith("contracts/interfaces/");
      const code = result.evm.bytecode.object;
      const deployed = result.evm.deployedBytecode.object;
      if (!code && !inInterfaces) continue; // abstract
      const isLibrary = name.startsWith("contracts/libraries/");
      if (isLibrary || inInterfaces) continue;
      if (deployed.length / 2 > 24576) throw new Error(`${contract} is too large: ${deployed.length / 2} bytes`);
      const used = Object.keys(JSON.parse(result.metadata).sources).sort();
      artifacts[`${contract}.json`] = {
        contractName: contract,
        sourceName: name,
        abi: result.abi,
        bytecode: "0x" + code,
        deployedSize: deployed.length / 2,
        compiler: { version: solc.version(), settings },
        sources: Object.fromEntries(
          used.map((path) => [path, sha256(path in sources ? sources[path].content : findImport(path).contents)]),
        ),
      };
    }
  }
  joinSettlement(artifacts, output.contracts);
  return Object.fromEntries(
    Object.entries(artifacts).sort().map(([file, artifact]) => [file, JSON.stringify(artifact, null, 1) + "\n"]),
  );
}

const args = process.argv.slice(2);
const target = args.includes("--out") ? resolve(args[args.indexOf("--out") + 1]) : resolve(here, "../artifacts");
const artifacts = compile();
if (args.includes("--check")) {
  const stored = readdirSync(target).filter((name) => name.endsWith(".json")).sort();
  const wrong = Object.keys(artifacts).filter((name) => !stored.includes(name) || readFileSync(join(target, name), "utf8") !== artifacts[name]);
  const extra = stored.filter((name) => !(name in artifacts));
  if (wrong.length || extra.length) {
    console.error(`differ from the sources: ${[...wrong, ...extra].join(", ")}; run npm run build`);
    process.exit(1);
  }
} else {
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  for (const [name, text] of Object.entries(artifacts)) writeFileSync(join(target, name), text);
}
for (const [name, text] of Object.entries(artifacts)) console.log(name.padEnd(24), JSON.parse(text).deployedSize, "bytes");
