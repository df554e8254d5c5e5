/** The executable as it is built: its two names, and that it is no Node to anybody. */
import assert from 'node:assert/strict';
import { type ChildProcess, type SpawnSyncOptions, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cp, link, readFile, realpath, stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { daemonSkip, TestHost, until } from '../support/host.ts';
import { tempDir } from '../support/temp-dir.ts';

const DIST = join(import.meta.dirname, '../../dist');
const BANGER = join(DIST, 'banger');
const FCQEMU = join(DIST, 'fcqemu');
const LIMIT = { timeout: 60_000 };

const SAYS = { banger: /^banger \d/, fcqemu: /^Firecracker v\d/ };

function output(program: string, args: string[], options: SpawnSyncOptions = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(program, args, {
    timeout: 30_000,
    ...options,
    encoding: 'utf8',
  });
  assert.ifError(error);
  return { status, signal, stdout, stderr };
}

describe('the executable', { skip: daemonSkip() }, () => {
  it('is one file with two names', LIMIT, async () => {
    const files = await Promise.all([BANGER, FCQEMU].map(async (path) => await stat(path)));
    assert.equal(files[0]?.ino, files[1]?.ino);
  });

  it('is the program it is called, whatever way that is said', LIMIT, async (t) => {
    const dir = await tempDir(t);
    await symlink(FCQEMU, join(dir, 'firecracker'));
    await symlink(BANGER, join(dir, 'banger-link'));
    await symlink(BANGER, join(dir, 'fcqemu'));
    await cp(FCQEMU, join(dir, 'firecracker-v1.16.1-x86_64'));
    await link(join(dir, 'firecracker-v1.16.1-x86_64'), join(dir, 'vmm-banger'));
    const env = { ...process.env, PATH: `${DIST}:${process.env.PATH}` };
    const ways: [keyof typeof SAYS, string, SpawnSyncOptions?][] = [
      ['banger', BANGER],
      ['fcqemu', FCQEMU],
      ['fcqemu', await realpath(FCQEMU)],
      ['banger', './banger', { cwd: DIST }],
      ['fcqemu', './fcqemu', { cwd: DIST }],
      ['fcqemu', `../${DIST.split('/').at(-1)}/fcqemu`, { cwd: DIST }],
      ['banger', 'banger', { env }],
      ['fcqemu', 'fcqemu', { env }],
      ['fcqemu', join(dir, 'firecracker')],
      ['banger', join(dir, 'banger-link')],
      ['fcqemu', join(dir, 'fcqemu')],
      ['fcqemu', join(dir, 'firecracker-v1.16.1-x86_64')],
      ['banger', join(dir, 'vmm-banger')],
      ['fcqemu', BANGER, { argv0: 'firecracker' }],
      ['banger', FCQEMU, { argv0: 'banger' }],
      ['banger', BANGER, { argv0: '-banger' }],
      ['fcqemu', FCQEMU, { argv0: 'whatever' }],
      ['fcqemu', FCQEMU, { argv0: '--inspect' }],
      ['banger', BANGER, { argv0: 'whatever' }],
      ['fcqemu', FCQEMU, { argv0: '' }],
      ['fcqemu', join(dir, 'fcqemu'), { argv0: 'whatever' }],
      ['fcqemu', FCQEMU, { env: {} }],
    ];
    for (const [program, file, options = {}] of ways) {
      const { status, stdout, stderr } = output(file, ['--version'], options);
      assert.match(stdout, SAYS[program], `${file} as ${options.argv0}`);
      assert.deepEqual([status, stderr], [0, '']);
    }
  });

  it('is the program that sudo is asked for', { ...LIMIT, skip: lacking('sudo') }, (t) => {
    if (output('sudo', ['-n', 'true']).status !== 0) return t.skip('sudo asks for a password');
    for (const [program, file] of [['banger', BANGER] as const, ['fcqemu', FCQEMU] as const])
      assert.match(output('sudo', ['-n', file, '--version']).stdout, SAYS[program]);
  });

  it('fcqemu is called what it was started as, and keeps its arguments', LIMIT, async (t) => {
    const dir = await tempDir(t);
    await symlink(FCQEMU, join(dir, 'firecracker'));
    for (const [file, name] of [
      [FCQEMU, 'fcqemu'],
      [join(dir, 'firecracker'), 'firecracker'],
    ] as const) {
      const socket = join(dir, `${name}.sock`);
      const { child } = await startFcqemu(t, file, socket);
      assert.equal(await readFile(`/proc/${child.pid}/comm`, 'utf8'), `${name}\n`);
      assert.equal(await readFile(`/proc/${child.pid}/cmdline`, 'utf8'), `${file}\0--api-sock\0${socket}\0`);
    }
  });

  it('the daemon is called bangerd', LIMIT, async () => {
    await using host = await TestHost.create();
    const { pid } = await host.daemon();
    assert.equal(await readFile(`/proc/${pid}/comm`, 'utf8'), 'bangerd\n');
    assert.match(await readFile(`/proc/${pid}/cmdline`, 'utf8'), /\0daemon\0run\0$/);
  });
});

interface Started {
  child: ChildProcess;
  /** everything on standard output and error so far */
  said(): string;
}

/** Until it answers at its socket; killed after the test. */
async function startFcqemu(t: TestContext, file: string, socket: string, env = process.env): Promise<Started> {
  const child = spawn(file, ['--api-sock', socket], { cwd: dirname(socket), env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = once(child, 'exit');
  t.after(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (bytes: Buffer) => {
      text += bytes.toString('utf8');
    });
  await until('the API server is up', async () => text.includes('API server started'), 20_000);
  return { child, said: () => text };
}
