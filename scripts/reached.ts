/**
 * Which fast test reaches which file of control/: `node scripts/reached.ts`. A file is reached by a test in which a function of
 * it was called. Each test file runs by itself; V8 counts what is called. Ends with 1 when a file is reached by none.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = resolve(import.meta.dirname, '..');
/** What must be reached, and where the fast tests of it are. */
const SOURCES = 'src/control';
const TESTS = ['test/control', 'test/daemon'];

/** Of Node's coverage, what is read here. */
interface Coverage {
  result: { url: string; functions: { functionName: string; ranges: { count: number }[] }[] }[];
}

const files = async (directory: string, ending: string): Promise<string[]> =>
  (await readdir(join(ROOT, directory), { recursive: true }))
    .filter((name) => name.endsWith(ending))
    .map((name) => join(directory, name))
    .sort();

/** Files of control/ of which this test calls a function, with the number of functions. */
async function reachedBy(test: string): Promise<Map<string, number>> {
  const directory = await mkdtemp(join(tmpdir(), 'banger-reached-'));
  try {
    const env = { ...process.env, NODE_V8_COVERAGE: directory };
    // a test that fails here still shows what it reaches: whether it passes is what `make unit` asks
    await promisify(execFile)(process.execPath, ['--test', test], { cwd: ROOT, env, maxBuffer: 2 ** 28 }).catch(
      () => {},
    );
    const reached = new Map<string, number>();
    for (const name of await readdir(directory)) {
      const { result } = JSON.parse(await readFile(join(directory, name), 'utf8')) as Coverage;
      for (const { url, functions } of result) {
        if (!url.startsWith('file:')) continue;
        const path = relative(ROOT, fileURLToPath(url));
        // the first one is the file itself, which every import calls
        const called = functions.slice(1).filter(({ ranges: [whole] }) => (whole?.count ?? 0) > 0).length;
        if (path.startsWith(`${SOURCES}/`) && called > 0) reached.set(path, Math.max(called, reached.get(path) ?? 0));
      }
    }
    return reached;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const sources = await files(SOURCES, '.ts');
const tests = (await Promise.all(TESTS.map((directory) => files(directory, '.test.ts')))).flat();
const best = new Map<string, { test: string; called: number }>();
const queue = [...tests];
await Promise.all(
  Array.from({ length: availableParallelism() }, async () => {
    for (let test = queue.shift(); test !== undefined; test = queue.shift()) {
      for (const [file, called] of await reachedBy(test)) {
        if (called > (best.get(file)?.called ?? 0)) best.set(file, { test, called });
      }
    }
  }),
);

/** A file that declares types and calls nothing is there for the compiler alone. */
const isTypesOnly = async (file: string) =>
  !/\b(function|=>)\s|\bclass\b/.test(
    (await readFile(join(ROOT, file), 'utf8')).replace(/\/\*[\s\S]*?\*\/|=>\s*\w+[;,)]|\(.*\): .*;/g, ''),
  );

let missing = 0;
for (const file of sources) {
  const found = best.get(file);
  const types = !found && (await isTypesOnly(file));
  if (!found && !types) missing += 1;
  const by = found ? `${relative('test', found.test)} (${found.called} functions)` : types ? 'types only' : 'NONE';
  process.stdout.write(`${relative(SOURCES, file).padEnd(32)} ${by}\n`);
}
process.stdout.write(`${sources.length} files, ${missing} reached by no fast test\n`);
process.exitCode = missing > 0 ? 1 : 0;
