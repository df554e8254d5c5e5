/** The executable as it is built: its two names, and that it is no Node to anybody. */
import assert from 'node:assert/strict';
import { type ChildProcess, type SpawnSyncOptions, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, link, mkdtemp, readdir, readFile, realpath, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { daemonSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';

const DIST = join(import.meta.dirname, '../../dist');
const BANGER = join(DIST, 'banger');
const FCQEMU = join(DIST, 'fcqemu');
const LIMIT = { timeout: paced(60_000) };

const SAYS = { banger: /^banger \d/, fcqemu: /^Firecracker v\d/ };

function output(program: string, args: string[], options: SpawnSyncOptions = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(program, args, {
    timeout: paced(30_000),
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

/**
 * What Node does by itself when it is asked to: by a variable, by a signal or by a file. `@` is an empty directory, `!` a
 * FIFO that nobody writes to, at which whoever opens it would wait.
 */
const VARIABLES = [
  'NODE_OPTIONS=--inspect=0',
  'NODE_OPTIONS=--no-such-option',
  'NODE_V8_COVERAGE=@',
  'NODE_COMPILE_CACHE=@/cache',
  'NODE_DEBUG=*',
  'NODE_DEBUG_NATIVE=MKSNAPSHOT,SEA,MAIN',
  'NODE_CHANNEL_FD=1',
  'NODE_CHANNEL_FD=99',
  'NODE_UNIQUE_ID=1',
  'NODE_TEST_CONTEXT=child-v8',
  'NODE_PENDING_DEPRECATION=1',
  'NODE_REDIRECT_WARNINGS=@/warnings',
  'NODE_NO_WARNINGS=1',
  'NODE_INSPECT_RESUME_ON_START=1',
  'NODE_REPL_EXTERNAL_MODULE=@/module.js',
  'NODE_PATH=@',
  'NODE_ICU_DATA=@',
  'NODE_EXTRA_CA_CERTS=!',
  'NODE_USE_SYSTEM_CA=1',
  'NODE_USE_ENV_PROXY=1',
  'NODE_TLS_REJECT_UNAUTHORIZED=0',
  'SSL_CERT_FILE=!',
  'SSL_CERT_DIR=@',
  'SSLKEYLOGFILE=@/keys',
  'OPENSSL_CONF=!',
  'OPENSSL_MODULES=@',
  'ICU_DATA=@',
  'UV_THREADPOOL_SIZE=1024',
  'UV_USE_IO_URING=1',
];

describe('the executable is no Node to anybody', { skip: daemonSkip() }, () => {
  it('no variable of Node changes what is said, or leaves a file', LIMIT, async (t) => {
    const dir = await tempDir(t);
    const fifo = join(dir, 'fifo');
    assert.equal(spawnSync('mkfifo', [fifo]).status, 0);
    const commands: [string, string[]][] = [
      [BANGER, ['--version']],
      [FCQEMU, ['--version']],
    ];
    const plain = commands.map(([file, args]) => said(file, args, {}));
    for (const text of VARIABLES) {
      const place = await mkdtemp(join(dir, 'place-'));
      const [name = '', value = ''] = text.split('=', 2);
      const env = { [name]: value.replace('@', place).replace('!', fifo) };
      for (const [index, [file, args]] of commands.entries())
        assert.deepEqual(said(file, args, env), plain[index], `${text} ${file} ${args.join(' ')}`);
      assert.deepEqual(await readdir(place), [], text);
    }
  });

  it('the daemon neither, and programs it starts get them as they are', LIMIT, async (t) => {
    const dir = await tempDir(t);
    const env = Object.fromEntries(
      VARIABLES.filter((text) => !text.includes('!')).map((text) => {
        const [name = '', value = ''] = text.split('=', 2);
        return [name, value.replace('@', dir)];
      }),
    );
    const programs = await tempDir(t);
    const qemu = join(programs, 'qemu');
    const seen = join(programs, 'seen');
    await writeFile(qemu, `#!/bin/sh\nenv > '${seen}'\nexec qemu-system-x86_64 "$@"\n`, { mode: 0o755 });
    await using host = await TestHost.create({ env: { ...env, BANGER_PROGRAMS_QEMU: qemu } });
    const { pid } = await host.daemon();
    await host.run(['doctor']);
    assert.deepEqual(await readdir(dir), []);
    const log = await readFile(join(host.home, 'state/bangerd.log'), 'utf8');
    assert.doesNotMatch(log, /Debugger|MODULE|CHANNEL/);
    // the process itself has them under another name
    assert.match(await readFile(`/proc/${pid}/environ`, 'utf8'), /\0nODE_V8_COVERAGE=/);
    const variables = (await readFile(seen, 'utf8')).split('\n');
    for (const [name, value] of Object.entries(env)) assert.ok(variables.includes(`${name}=${value}`), name);
  });

  it('reads no configuration of OpenSSL', {
    ...LIMIT,
    skip: process.getuid?.() !== 0 && 'mounting takes root',
  }, async (t) => {
    const dir = await tempDir(t);
    const fifo = join(dir, 'fifo');
    assert.equal(spawnSync('mkfifo', [fifo]).status, 0);
    const places = ['/etc/ssl/openssl.cnf', '/usr/lib/ssl/openssl.cnf'].filter((path) => existsSync(path));
    const script = `for place in ${places.join(' ')}; do mount --bind '${fifo}' $place || exit 99; done; exec "$@"`;
    for (const [program, file] of [['banger', BANGER] as const, ['fcqemu', FCQEMU] as const]) {
      const { stdout } = output('unshare', ['--mount', 'sh', '-c', script, 'sh', file, '--version']);
      assert.match(stdout, SAYS[program]);
    }
  });

  it('no arguments of Node are taken', LIMIT, () => {
    for (const option of [
      '--inspect=0',
      '--inspect-brk=0',
      '--eval=1',
      '--v8-options',
      '--node-options=--inspect=0',
      '--experimental-sea-config',
    ]) {
      const banger = output(BANGER, [option]);
      assert.match(banger.stderr, /Unknown option/, option);
      const fcqemu = output(FCQEMU, [option]);
      assert.equal(fcqemu.status, 153, option);
      for (const { stdout, stderr } of [banger, fcqemu]) assert.doesNotMatch(stdout + stderr, /Debugger listening/);
    }
  });

  it('SIGUSR1 ends fcqemu, as it ends Firecracker', LIMIT, async (t) => {
    const dir = await tempDir(t);
    for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) {
      const { child, said } = await startFcqemu(t, FCQEMU, join(dir, `${signal}.sock`));
      const exited = once(child, 'exit');
      child.kill(signal);
      assert.deepEqual(await exited, [null, signal]);
      assert.doesNotMatch(said(), /Debugger/);
    }
  });

  it('SIGUSR1 and SIGUSR2 do nothing to the daemon', LIMIT, async () => {
    await using host = await TestHost.create();
    const { pid } = await host.daemon();
    const listening = async () =>
      (await readFile(`/proc/${pid}/net/tcp`, 'utf8')).match(/ 0100007F:240D 00000000:0000 0A /);
    const before = await listening();
    for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.kill(pid, signal);
    // an ordinary Node, signalled after it, has had the time for it
    const node = spawn(process.execPath, ['--inspect-port=0', '-e', 'console.log("up"); setInterval(() => {}, 1e6)']);
    await once(node.stdout, 'data');
    node.kill('SIGUSR1');
    assert.match(String((await once(node.stderr, 'data'))[0]), /Debugger listening/);
    node.kill('SIGKILL');
    assert.equal((await host.daemon()).pid, pid);
    assert.deepEqual(await listening(), before);
    assert.doesNotMatch(await readFile(join(host.home, 'state/bangerd.log'), 'utf8'), /Debugger/);
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

/** All that a command says, without its times. */
function said(file: string, args: string[], env: NodeJS.ProcessEnv) {
  const { stdout, stderr, status, signal } = output(file, args, { env: { PATH: process.env.PATH, ...env } });
  return { status, signal, text: `${stdout}${stderr}`.replace(/\d{4}-\d\d-\d\dT[\d:.]+/g, 'TIME') };
}
