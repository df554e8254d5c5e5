/**
 * Builds the executable: `dist/banger` (command line and daemon), which is fcqemu and the network helper under its other
 * names `dist/fcqemu` and `dist/bangernet`, and the licences of everything inside. Run it with the Node that shall be inside: it is the one that is copied.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createWriteStream, existsSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, link, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type BuildOptions, build, type Plugin } from 'esbuild';
import manifest from '../package.json' with { type: 'json' };
import { hideEnvironment } from './hide-environment.ts';

const ROOT = join(import.meta.dirname, '..');
/** What was compiled before, and where the executable goes unless the environment names another place. */
const COMPILED = join(ROOT, 'dist');
const DIST = process.env.BANGER_BUILD_OUTPUT || COMPILED;
const DAEMON = join(ROOT, 'src/daemon/main.ts');
const EMBEDDED_DAEMON = join(ROOT, 'scripts/embedded-daemon.ts');

/** What Node is given as its arguments: nothing that its code cache depends on. */
const NODE_FLAGS = [
  // fcqemu is there once per VM: less room for young objects is 8 MB less memory each while packets pass through it
  '--max-semi-space-size=1',
  // the signal would open the debugger at a port of 127.0.0.1, whoever runs us
  '--disable-sigusr1',
  // otherwise /etc/ssl/openssl.cnf is read, which may name libraries to load
  '--openssl-config=/dev/null',
  // what follows is argument 0, which whoever starts us chooses: `-banger` in a login, or `--inspect`
  '--',
];

/** One write of the executable. */
const SLICE_BYTES = 64 * 1024;

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
  // starts 8 ms earlier than an ES module; a dynamic import becomes require()
  format: 'cjs',
  supported: { 'dynamic-import': false },
  // native parts are optional for ssh2, and a single executable cannot load them
  loader: { '.node': 'empty' },
  // inside there are no files beside the script; what it needs of them are assets
  define: {
    'import.meta.filename': 'undefined',
    'import.meta.url': '"file:///"',
    'process.env.BANGER_BUILD_V8_FLAGS': JSON.stringify(process.env.BANGER_BUILD_V8_FLAGS ?? ''),
  },
  metafile: true,
  write: false,
  logLevel: 'warning',
};

/** Optional for ssh2, and a single executable cannot load native parts. Nothing may look for it beside the executable. */
const absent: Plugin = {
  name: 'absent',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^cpu-features$/ }, () => ({ path: 'cpu-features', namespace: 'absent' }));
    onLoad({ filter: /./, namespace: 'absent' }, () => ({ contents: 'throw new Error("not inside");' }));
  },
};

const separateDaemon: Plugin = {
  name: 'separate-daemon',
  setup({ onResolve }) {
    onResolve({ filter: /\/daemon\/main\.ts$/ }, ({ resolveDir, path }) =>
      join(resolveDir, path) === DAEMON ? { path: EMBEDDED_DAEMON } : undefined,
    );
  },
};

interface Bundle {
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
    const cli = await bundle('bin/banger.ts', [separateDaemon]);
    const fcqemu = await bundle('bin/fcqemu.ts');
    const bangernet = await bundle('bin/bangernet.ts');
    const daemon = await bundle('src/daemon/main.ts');
    const loader = await bundle('scripts/embedded-main.ts');
    await executable(work, node, loader, {
      // these begin their work as soon as they are run, so they are compiled and no more
      ...(await script(work, 'banger', cli)),
      ...(await script(work, 'fcqemu', fcqemu)),
      ...(await script(work, 'bangernet', bangernet)),
      ...(await script(work, 'daemon', daemon, 'warm')),
      ...(await helperScripts()),
      'banger-agent': join(COMPILED, 'banger-agent'),
    });
    const inputs = [cli, daemon, fcqemu, bangernet].flatMap((part) => part.inputs);
    await writeFile(join(work, 'LICENSES'), await licences(inputs));
    await rename(join(work, 'LICENSES'), join(DIST, 'LICENSES'));
    await writeFile(join(work, 'parts.json'), await parts(inputs));
    await rename(join(work, 'parts.json'), join(DIST, 'parts.json'));
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
  const helper = execFileSync(join(DIST, 'bangernet'), ['--version'], { encoding: 'utf8' }).trim();
  if (helper !== `bangernet ${manifest.version}`) throw new Error(`dist/bangernet says it is "${helper}"`);
  // a file that is no snapshot: to see that, a part of Node has to be loaded that most processes never need
  const snapshot = join(DIST, `.snapshot-${process.pid}`);
  writeFileSync(snapshot, Buffer.concat([Buffer.from('FCQEMU\0\x01', 'latin1'), Buffer.alloc(16)]));
  const described = spawnSync(join(DIST, 'fcqemu'), ['--describe-snapshot', snapshot], { encoding: 'utf8' });
  rmSync(snapshot);
  if (!described.stderr.includes('Crc64')) throw new Error(`dist/fcqemu: ${described.stderr}`);
}

async function bundle(entry: string, plugins: Plugin[] = []): Promise<Bundle> {
  const { outputFiles, metafile } = await build({ ...COMMON, entryPoints: [entry], plugins: [absent, ...plugins] });
  const code = outputFiles?.[0]?.text;
  if (code === undefined || !metafile) throw new Error(`esbuild made nothing of ${entry}`);
  return { code: code.replace(/^#!.*\n/, ''), inputs: Object.keys(metafile.inputs) };
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
    console.error('strip is not installed or failed here: the executable is some 30 MB larger');
    return process.execPath;
  }
}

/** Files of a script and its code cache in `work`, by their names as assets. */
async function script(
  work: string,
  name: string,
  { code }: Bundle,
  ...warm: ['warm'?]
): Promise<Record<string, string>> {
  const [source, cache] = [join(work, `${name}.js`), join(work, `${name}.cache`)];
  await writeFile(source, `(function (exports, require, module, __filename, __dirname) {${code}\n})`);
  const argv = ['--hash-seed=1', join(ROOT, 'scripts/code-cache.ts'), source, cache, ...warm.map(String)];
  execFileSync(process.execPath, argv, { stdio: ['ignore', 'ignore', 'inherit'] });
  return { [`${name}.js`]: source, [`${name}.cache`]: cache };
}

async function executable(work: string, node: string, main: Bundle, assets: Record<string, string>): Promise<void> {
  const output = join(work, 'output');
  await writeFile(join(work, 'main.js'), main.code);
  await writeFile(
    join(work, 'main.json'),
    JSON.stringify({
      // the path is part of what is made, and the same sources must make the same, wherever they are
      main: 'main.js',
      mainFormat: 'commonjs',
      output,
      executable: node,
      disableExperimentalSEAWarning: true,
      // of the loader, which is small; made here, it would be another one each time
      useCodeCache: false,
      // NODE_OPTIONS is meant for the user's own programs, not for this one
      execArgvExtension: 'none',
      execArgv: NODE_FLAGS,
      assets,
    }),
  );
  execFileSync(process.execPath, ['--build-sea', 'main.json'], { cwd: work, stdio: ['ignore', 'ignore', 'inherit'] });
  const file = await readFile(output);
  hideEnvironment(file);
  // written in small pieces: in one large write the kernel caches it in large folios, of which a process then
  // has every byte mapped that it never touches, 40 MB more resident memory than Node itself
  const pieces = join(DIST, `banger.${process.pid}.new`);
  const others = ['fcqemu', 'bangernet'].map((name) => ({ name, link: join(DIST, `${name}.${process.pid}.new`) }));
  await pipeline(Readable.from(slices(file)), createWriteStream(pieces, { mode: 0o755 }));
  // a link that is no symbolic one keeps its name when somebody asks for its real path
  for (const other of others) await link(pieces, other.link);
  // at once, so that a daemon that runs from it keeps its own file
  await rename(pieces, join(DIST, 'banger'));
  for (const other of others) await rename(other.link, join(DIST, other.name));
  const { size } = await stat(join(DIST, 'banger'));
  console.log(`${join(DIST, 'banger')}  ${(size / 1e6).toFixed(1)} MB, also called fcqemu and bangernet`);
}

function* slices(file: Buffer): Generator<Buffer> {
  for (let offset = 0; offset < file.length; offset += SLICE_BYTES) yield file.subarray(offset, offset + SLICE_BYTES);
}

/** The scripts that bundles are given, by the names under which the program asks for them. */
async function helperScripts(): Promise<Record<string, string>> {
  const names = await readdir(join(ROOT, 'helpers'));
  return Object.fromEntries(names.map((name) => [`helpers/${name}`, join(ROOT, 'helpers', name)]));
}

/** Directories of the packages that have a file in the executable. */
function packageDirectories(inputs: readonly string[]): string[] {
  const packages = new Set(inputs.map(packageDirectory).filter((directory) => directory !== undefined));
  return [...packages].sort().map((directory) => join(ROOT, directory));
}

/** What the executable is made of, for its bill of materials. */
async function parts(inputs: readonly string[]): Promise<string> {
  const packages = await Promise.all(packageDirectories(inputs).map(describePackage));
  const listed = packages.map(({ name, version, license }) => ({ name, version, license }));
  return `${JSON.stringify({ node: process.versions, packages: listed }, null, 2)}\n`;
}

/** The licence of Node and of every package that has a file in the executable. */
async function licences(inputs: readonly string[]): Promise<string> {
  const texts = await Promise.all(
    [dirname(dirname(process.execPath)), ...packageDirectories(inputs)].map(async (directory) => {
      const { name, version, license } = await describePackage(directory);
      const file = ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'LICENCE', 'license', 'License']
        .map((candidate) => join(directory, candidate))
        .find(existsSync);
      const text =
        file === undefined ? `Licence: ${license}; the package has no licence text.\n` : await readFile(file, 'utf8');
      return `${'='.repeat(78)}\n${name} ${version}\n${'='.repeat(78)}\n\n${text.trimEnd()}\n`;
    }),
  );
  const musl = `${'='.repeat(78)}\nmusl, in the agent for guests\n${'='.repeat(78)}\n\n${await muslLicence()}\n`;
  return `The executable contains Node.js and the packages below, under these licences.\n\n${[...texts, musl].join('\n')}`;
}

async function muslLicence(): Promise<string> {
  return (await readFile(join(COMPILED, 'LICENSE.musl'), 'utf8')).trimEnd();
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
