/**
 * Builds the single executables: `dist/banger` (command line and daemon) and `dist/fcqemu`, with the
 * licences of everything inside. Run it with the Node that shall be inside: it is the one that is copied.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createReadStream, createWriteStream, existsSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';
import { type BuildOptions, build, type Plugin } from 'esbuild';
import manifest from '../package.json' with { type: 'json' };
import { V8_FLAGS } from './v8-flags.ts';

const ROOT = join(import.meta.dirname, '..');
const DIST = join(ROOT, 'dist');
const DAEMON = join(ROOT, 'src/daemon/main.ts');
const EMBEDDED_DAEMON = join(ROOT, 'scripts/embedded-daemon.ts');

// a code cache is only valid under the flags it was made with
for (const flag of V8_FLAGS) setFlagsFromString(flag);

/** fcqemu is there once per VM: less room for young objects is 8 MB less memory each while packets pass through it. */
const FCQEMU_FLAGS = [...V8_FLAGS, '--max-semi-space-size=1'];

const COMMON: BuildOptions = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: 'node',
  target: 'node26',
  // names stay as they are, so that a stack trace in a bug report can be read
  minifySyntax: true,
  minifyWhitespace: true,
  // a crash prints the line it happened on
  lineLimit: 200,
  legalComments: 'none',
  // native parts are optional for ssh2, and a single executable cannot load them
  external: ['cpu-features'],
  loader: { '.node': 'empty' },
  // inside there are no files beside the script; what it needs of them are assets
  define: { 'import.meta.filename': 'undefined', 'import.meta.url': '"file:///"' },
  metafile: true,
  write: false,
  logLevel: 'warning',
};

const separateDaemon: Plugin = {
  name: 'separate-daemon',
  setup({ onResolve }) {
    onResolve({ filter: /\/daemon\/main\.ts$/ }, ({ resolveDir, path }) =>
      join(resolveDir, path) === DAEMON ? { path: EMBEDDED_DAEMON } : undefined,
    );
  },
};

/** CommonJS starts 8 ms earlier; an ES module may await at its top level. */
type Format = 'cjs' | 'esm';

interface Bundle {
  format: Format;
  code: string;
  /** files it was made from, relative to the project */
  inputs: string[];
}

await main();

async function main(): Promise<void> {
  await mkdir(DIST, { recursive: true });
  const work = await mkdtemp(join(DIST, '.build-'));
  try {
    const node = await strippedNode(work);
    const cli = await bundle('bin/banger.ts', 'cjs', [separateDaemon]);
    const daemon = await bundle('src/daemon/main.ts', 'cjs');
    const daemonScript = asFunction(daemon.code);
    await writeFile(join(work, 'daemon.js'), daemonScript);
    await writeFile(join(work, 'daemon.cache'), warmCodeCache('daemon', daemonScript));
    const cliScript = asFunction(cli.code);
    await writeFile(join(work, 'cli.js'), cliScript);
    // it runs a command as soon as it is run, so it is compiled and no more
    await writeFile(join(work, 'cli.cache'), new Script(cliScript, { filename: 'cli.js' }).createCachedData());
    const loader = await bundle('scripts/embedded-cli.ts', 'cjs');
    await executable(work, node, 'banger', loader, [], {
      'cli.js': join(work, 'cli.js'),
      'cli.cache': join(work, 'cli.cache'),
      'daemon.js': join(work, 'daemon.js'),
      'daemon.cache': join(work, 'daemon.cache'),
      ...(await helperScripts()),
    });

    const fcqemu = await bundle('bin/fcqemu.ts', 'esm');
    await executable(work, node, 'fcqemu', fcqemu, FCQEMU_FLAGS, {});
    await writeFile(join(work, 'LICENSES'), await licences([...cli.inputs, ...daemon.inputs, ...fcqemu.inputs]));
    await rename(join(work, 'LICENSES'), join(DIST, 'LICENSES'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  tryOut();
}

/** What was built must start, the daemon inside too: a setting that it refuses ends it with status 2. */
function tryOut(): void {
  const said = execFileSync(join(DIST, 'banger'), ['--version'], { encoding: 'utf8' }).trim();
  if (said !== `banger ${manifest.version}`) throw new Error(`dist/banger says it is "${said}"`);
  const env = { ...process.env, BANGER_HOME: DIST, BANGER_VMM: 'none of them' };
  const daemon = spawnSync(join(DIST, 'banger'), ['daemon', 'run'], { env, encoding: 'utf8' });
  if (daemon.status !== 2) throw new Error(`the daemon in dist/banger does not start: ${daemon.stderr}`);
  // a file that is no snapshot: to see that, a part of Node has to be loaded that most processes never need
  const snapshot = join(DIST, `.snapshot-${process.pid}`);
  writeFileSync(snapshot, Buffer.concat([Buffer.from('FCQEMU\0\x01', 'latin1'), Buffer.alloc(16)]));
  const described = spawnSync(join(DIST, 'fcqemu'), ['--describe-snapshot', snapshot], { encoding: 'utf8' });
  rmSync(snapshot);
  if (!described.stderr.includes('CRC validation failed')) throw new Error(`dist/fcqemu: ${described.stderr}`);
}

async function bundle(entry: string, format: Format, plugins: Plugin[] = []): Promise<Bundle> {
  // an ES module has no require() that a dynamic import could become
  const supported = { 'dynamic-import': format === 'esm' };
  const { outputFiles, metafile } = await build({ ...COMMON, supported, format, entryPoints: [entry], plugins });
  const code = outputFiles?.[0]?.text;
  if (code === undefined || !metafile) throw new Error(`esbuild made nothing of ${entry}`);
  return { format, code: code.replace(/^#!.*\n/, ''), inputs: Object.keys(metafile.inputs) };
}

/** Node without its symbol table, which is a fifth of it; Node as it is where `strip` is missing. */
async function strippedNode(work: string): Promise<string> {
  const copy = join(work, 'node');
  await copyFile(process.execPath, copy);
  try {
    execFileSync('strip', [copy], { stdio: 'ignore' });
    execFileSync(copy, ['-e', '0']);
    return copy;
  } catch {
    console.error('strip is not installed or failed here: the executables are some 30 MB larger');
    return process.execPath;
  }
}

async function executable(
  work: string,
  node: string,
  name: string,
  { code, format }: Bundle,
  flags: readonly string[],
  assets: Record<string, string>,
): Promise<void> {
  const main = join(work, `${name}.js`);
  const config = join(work, `${name}.json`);
  const output = join(work, name);
  await writeFile(main, code);
  await writeFile(
    config,
    JSON.stringify({
      main,
      mainFormat: format === 'cjs' ? 'commonjs' : 'module',
      output,
      executable: node,
      disableExperimentalSEAWarning: true,
      useCodeCache: true,
      // NODE_OPTIONS is meant for the user's own programs, not for this one
      execArgvExtension: 'none',
      execArgv: flags,
      assets,
    }),
  );
  execFileSync(process.execPath, [...flags, '--build-sea', config], { stdio: ['ignore', 'ignore', 'inherit'] });
  const target = join(DIST, name);
  // written again in small pieces: in one large write the kernel caches it in large folios, of which a process then
  // has every byte mapped that it never touches, 40 MB more resident memory than Node itself
  const pieces = join(DIST, `${name}.${process.pid}.new`);
  await pipeline(createReadStream(output), createWriteStream(pieces, { mode: 0o755 }));
  await rename(pieces, target); // at once, so that a daemon that runs from it keeps its own file
  const { size } = await stat(target);
  console.log(`${target}  ${(size / 1e6).toFixed(1)} MB`);
}

/** The scripts that bundles are given, by the names under which the program asks for them. */
async function helperScripts(): Promise<Record<string, string>> {
  const names = await readdir(join(ROOT, 'helpers'));
  return Object.fromEntries(names.map((name) => [`helpers/${name}`, join(ROOT, 'helpers', name)]));
}

function asFunction(code: string): string {
  return `(function (exports, require, module, __filename, __dirname) {${code}\n})`;
}

/** V8's code for a script, made after it has run once so that it holds the functions a start needs. */
function warmCodeCache(name: string, source: string): Buffer {
  const script = new Script(source, { filename: `${name}.js` });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, createRequire(import.meta.url), module, '', '');
  return script.createCachedData();
}

/** The licence of Node and of every package that has a file in the executables. */
async function licences(inputs: readonly string[]): Promise<string> {
  const packages = new Set(inputs.map(packageDirectory).filter((directory) => directory !== undefined));
  const directories = [...packages].sort().map((directory) => join(ROOT, directory));
  const parts = await Promise.all(
    [dirname(dirname(process.execPath)), ...directories].map(async (directory) => {
      const { name, version, license } = await describePackage(directory);
      const file = ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'LICENCE', 'license', 'License']
        .map((candidate) => join(directory, candidate))
        .find(existsSync);
      const text =
        file === undefined ? `Licence: ${license}; the package has no licence text.\n` : await readFile(file, 'utf8');
      return `${'='.repeat(78)}\n${name} ${version}\n${'='.repeat(78)}\n\n${text.trimEnd()}\n`;
    }),
  );
  return `The executables contain Node.js and the packages below, under these licences.\n\n${parts.join('\n')}`;
}

async function describePackage(directory: string): Promise<{ name: string; version: string; license: string }> {
  const file = join(directory, 'package.json');
  if (!existsSync(file)) return { name: 'Node.js', version: process.version, license: 'MIT' };
  return JSON.parse(await readFile(file, 'utf8'));
}

/** `node_modules/@scope/name` of a file, the innermost one. */
function packageDirectory(input: string): string | undefined {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(input)?.[0];
}
