/**
 * banger for a user who is not root: a user is made, the real sudo gets the rules that doctor prints and no others,
 * and a VM goes from create to delete. Without the rules every refusal names them.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { DoctorReport } from '../../src/api/system.ts';
import type { VmDetail } from '../../src/api/vm.ts';
import { INSTALL_SUDOERS } from '../../src/preflight/checks/privilege.ts';
import { findProgram } from '../../src/system/host-facts.ts';
import { SUDO_PATH } from '../../src/system/privilege.ts';
import { lowerTo } from '../../src/system/privileged-commands.ts';
import { createRunner, type RunResult } from '../../src/system/runner.ts';
import { freePort } from '../support/free-port.ts';
import { hostSkip, slowGuests, until } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { kvmGroups } from '../support/ordinary-user.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const DIST = join(import.meta.dirname, '../../dist');
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const TUN = '/dev/net/tun';
const RULES_DIRECTORY = '/etc/sudoers.d';
const root = createRunner({ ...process.env, PATH });

const skip =
  hostSkip('debugfs', 'dig', 'sudo', 'visudo', 'useradd', 'userdel', 'setpriv') ||
  (!existsSync(RULES_DIRECTORY) && `sudo reads no ${RULES_DIRECTORY} here`);

describe('a user who is not root', { skip }, () => {
  const user = `banger-${randomBytes(3).toString('hex')}`;
  const rulesFile = join(RULES_DIRECTORY, user);
  let place = '';
  let home = '';
  let banger = '';
  let uid = '';
  let dnsPort = 0;
  let tunMode: number | undefined;

  before(async () => {
    // root's own directories may be closed to others, so the user gets copies of what it needs
    dnsPort = await freePort();
    place = await mkdtemp('/tmp/bu-');
    await chmod(place, 0o755);
    home = join(place, 'home');
    await mkdir(home);
    for (const name of ['banger', 'fcqemu']) await root.run(['install', '-m', '755', join(DIST, name), place]);
    banger = join(place, 'banger');
    const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../../.dev'));
    await root.run(['cp', '-a', '--sparse=always', bundle, join(home, 'bundle')]);
    const groups = (await kvmGroups()).join(',');
    await root.run(['useradd', '--no-create-home', '--home-dir', home, '--groups', groups, user]);
    await root.run(['chown', '-R', user, home]);
    uid = (await root.run(['id', '-u', user])).stdout.trim();
    // udev opens it to all, so where nothing did, doctor says how
    const { mode } = await stat(TUN);
    if ((mode & 0o006) !== 0o006) {
      const tap = JSON.parse((await run('doctor', '--json', 'start')).stdout) as DoctorReport;
      const { fix } = tap.checks.find(({ id }) => id === 'network.tap') ?? {};
      assert.equal(fix, `sudo chmod 0666 ${TUN}`);
      tunMode = mode & 0o7777;
      await chmod(TUN, 0o666);
    }
  });

  after(async () => {
    await run('rm', '--force', 'web');
    await run('daemon', 'stop');
    await rm(rulesFile, { force: true });
    if (tunMode !== undefined) await chmod(TUN, tunMode);
    await root.run(['userdel', user], { okExits: [0, 6, 8, 12] });
    await rm(place, { recursive: true, force: true });
  });

  /** What a login of the user would run, with nothing of root's environment. */
  async function run(...args: string[]): Promise<RunResult> {
    const env = ['PATH=/usr/local/bin:/usr/bin:/bin', `HOME=${home}`, `BANGER_BUNDLE_DEFAULT=${home}/bundle`];
    env.push(`BANGER_DNS_PORT=${dnsPort}`, 'BANGER_WARM_AUTOMATIC=false');
    env.push(...Object.entries(slowGuests()).map(([name, value]) => `${name}=${value}`));
    const as = ['setpriv', '--reuid', user, '--regid', user, '--init-groups', '--', 'env', '-i', ...env] as const;
    const okExits = Array.from({ length: 256 }, (_, status) => status);
    return await root.run([...as, banger, ...args], { cwd: '/', timeoutMs: LIMIT.timeout, okExits });
  }

  async function ok(...args: string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await run(...args);
    assert.equal(exitCode, 0, `banger ${args.join(' ')} ended with ${exitCode}:\n${stderr}${stdout}`);
    return stdout.trimEnd();
  }

  /** What the host has of the VM, seen from outside. */
  async function traces(id: string): Promise<string[]> {
    const links = (await root.run(['ip', '-br', 'link'])).stdout;
    const tables = (await root.run(['nft', 'list', 'tables'])).stdout;
    const routes = (await root.run(['ip', '-4', 'route', 'show', 'proto', '119'])).stdout;
    const { pool } = JSON.parse(await ok('daemon', 'status', '--json')) as { pool: string };
    const processes = await processesOf(uid);
    return [
      ...(links.includes(`bgr-${id}`) ? ['tap'] : []),
      ...(new RegExp(` banger_u${uid}$`, 'm').test(tables) ? ['table'] : []),
      ...(routes.includes(pool) ? ['route'] : []),
      ...(processes.some((line) => /qemu-system|fcqemu|firecracker/.test(line)) ? ['VMM'] : []),
    ];
  }

  it('can create a VM, and a start names the rules while there are none', LIMIT, async () => {
    await ok('create', 'web', '--memory', '256M', '--work-disk', 'none');
    const { id } = JSON.parse(await ok('show', 'web', '--json')) as VmDetail;
    for (const args of [
      ['start', 'web'],
      ['doctor', 'start'],
    ]) {
      const { exitCode, stdout, stderr } = await run(...args);
      assert.equal(exitCode, 6, stderr);
      const said = stderr + stdout;
      assert.match(said, /rights: sudo does not let this user run without a password: ip link delete dev bgr-0/);
      assert.ok(said.includes(`fix: ${INSTALL_SUDOERS}`), said);
    }
    assert.deepEqual(await traces(id), [], 'a start that was refused left something');
  });

  it('runs a VM from start to delete with the rules that doctor prints', LIMIT, async (t) => {
    const rules = await ok('doctor', '--sudoers');
    await writeFile(rulesFile, `${rules}\n`, { mode: 0o440 });
    await root.run(['visudo', '--check', '--file', rulesFile]);
    const report = JSON.parse((await run('doctor', '--json', 'start')).stdout) as DoctorReport;
    assert.deepEqual(
      report.checks.filter(({ status }) => status === 'failed'),
      [],
    );

    await ok('start', 'web');
    const { id, pid, address } = JSON.parse(await ok('show', 'web', '--json')) as VmDetail;
    assert.deepEqual(await traces(id), ['tap', 'table', 'route', 'VMM']);
    assert.equal(await ownerOf(pid), uid, 'the VMM runs as the user');
    assert.equal(await ok('exec', '-n', 'web', '--', 'hostname'), 'web');
    assert.equal(
      await ok('exec', '-n', 'web', '--', 'sh', '-c', 'ip -br address show eth0 | grep -o "[0-9.]*/32"'),
      `${address}/32`,
    );
    assert.equal(await ok('ssh', 'web', 'id', '-u'), '0');
    const found = await ok('exec', '-n', 'web', '--', 'getent', 'hosts', 'api.web.vm');
    assert.deepEqual(found.split(/\s+/), [address, 'api.web.vm'], 'the guest finds names');
    const [name] = (await root.run(['dig', '+short', '@127.0.0.1', '-p', String(dnsPort), 'web.vm'])).stdout.split(
      '\n',
    );
    assert.equal(name, address, 'the host finds names');

    await ok('stop', 'web');
    assert.deepEqual(await traces(id), [], 'a stop left something');
    await ok('rm', '--now', 'web');
    assert.equal(await ok('ls', '--names'), '');
    assert.deepEqual(await readdir(join(home, '.local/state/banger/store/vms')), []);
    t.diagnostic(`rules: ${rules.split('\n').length} lines`);
  });

  it('may run nothing else by these rules, and nothing as root', LIMIT, async (t) => {
    const sudo = ['setpriv', '--reuid', user, '--regid', user, '--init-groups', '--', 'sudo', '-n'] as const;
    const gid = (await root.run(['id', '-g', user])).stdout.trim();
    const lowered = ['setpriv', ...lowerTo('network', { uid: Number(uid), gid: Number(gid), kvmGroup: undefined })];
    const one = lowered.slice(1).join(' ');
    for (const argv of [
      ['ip', 'link', 'delete', 'dev', 'bgr-00000000'],
      ['nft', '-f', '-'],
      ['kill', '-KILL', '1'],
      ['cat', '/etc/shadow'],
      [...lowered, '/usr/sbin/ip', 'link', 'delete', 'dev', 'eth0'],
      [...lowered, '/usr/sbin/ip', 'link', 'delete', 'dev', 'bgr-00000000', 'x'],
      [...lowered, '/usr/sbin/ip', 'netns', 'exec', 'x', 'sh'],
      [...lowered, '/usr/sbin/nft', '-f', '/etc/shadow'],
      [...lowered, '/usr/sbin/sysctl', '-q', '-w', 'kernel.core_pattern=|/bin/sh'],
      [...lowered, '/bin/sh', '-c', 'id'],
      [...lowered.filter((word) => !word.startsWith('--reuid')), '/usr/sbin/nft', '-f', '-'],
      [...lowered.filter((word) => word !== '--no-new-privs'), '/usr/sbin/nft', '-f', '-'],
    ]) {
      const { exitCode, stderr } = await root.run([...sudo, ...argv], { okExits: [0, 1] });
      assert.equal(exitCode, 1, argv.join(' '));
      assert.match(stderr, /^sudo: a password is required|not allowed/m, argv.join(' '));
    }
    // sudo sees the words joined by spaces: however they are cut, setpriv takes none of them for less
    const nft = (await findProgram('nft', { PATH: SUDO_PATH })) as { path: string };
    const words = [...lowered.slice(1), nft.path, '-f', '-'];
    const secret = join(place, 'secret');
    await writeFile(secret, 'topsecret of root\n', { mode: 0o600 });
    const input = `include "${secret}"\n`;
    for (let at = 0; at < words.length - 1; at++) {
      const cut = [...words.slice(0, at), `${words[at]} ${words[at + 1]}`, ...words.slice(at + 2)];
      const { exitCode, stderr, stdout } = await attack([...sudo, 'setpriv', ...cut], input);
      assert.notEqual(exitCode, 0, cut.join('|'));
      assert.doesNotMatch(stderr + stdout, /topsecret/);
    }
    assert.notEqual((await attack([...sudo, 'setpriv', `${one} ${nft.path} -f -`], input)).exitCode, 0);
    // as it is meant, it opens what the user may open
    const included = await attack([...sudo, 'setpriv', ...words], input);
    assert.match(included.stderr, /Permission denied/);
    assert.doesNotMatch(included.stderr, /topsecret/);
    const linked = join(home, 'link');
    await symlink(secret, linked);
    assert.match((await attack([...sudo, 'setpriv', ...words], `include "${linked}"\n`)).stderr, /Permission denied/);
    t.diagnostic(`${words.length} ways to cut the words`);
  });

  it(
    'has processes with the right to set up networks and no other, which the user cannot take over',
    LIMIT,
    async () => {
      const sudo = ['setpriv', '--reuid', user, '--regid', user, '--init-groups', '--', 'sudo', '-n'] as const;
      const nft = (await findProgram('nft', { PATH: SUDO_PATH })) as { path: string };
      const gid = (await root.run(['id', '-g', user])).stdout.trim();
      const words = lowerTo('network', { uid: Number(uid), gid: Number(gid), kvmGroup: undefined });
      const [program, ...args] = [...sudo, 'setpriv', ...words, nft.path, '-f', '-'];
      const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'pipe'], env: { PATH } });
      try {
        await until('nft reads its input', async () => (await readers()).length > 0, 10_000);
        const [pid = 0] = await readers();
        const status = await readFile(`/proc/${pid}/status`, 'utf8');
        assert.match(status, new RegExp(`^Uid:(\\t${uid}){4}$`, 'm'));
        assert.match(status, new RegExp(`^Gid:(\\t${gid}){4}$`, 'm'));
        for (const set of ['CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
          assert.match(status, new RegExp(`^${set}:\\t0{12}1000$`, 'm'), set);
        }
        assert.match(status, /^NoNewPrivs:\t1$/m);
        // its memory and its capability stay its own
        const mem = [
          'setpriv',
          '--reuid',
          user,
          '--regid',
          user,
          '--clear-groups',
          '--',
          'head',
          '-c',
          '1',
          `/proc/${pid}/mem`,
        ] as const;
        assert.match((await root.run(mem, { okExits: [0, 1] })).stderr, /Permission denied/);
      } finally {
        child.kill('SIGKILL');
        for (const pid of await readers()) process.kill(pid, 'SIGKILL');
      }

      async function readers(): Promise<number[]> {
        const { stdout } = await root.run(['ps', '-u', uid, '-o', 'pid=,args='], { okExits: [0, 1] });
        return stdout
          .split('\n')
          .flatMap((line) =>
            line.includes(`${nft.path} -f -`) && !line.includes('setpriv') ? [Number.parseInt(line, 10)] : [],
          );
      }
    },
  );
});

async function attack(argv: readonly string[], input: string): Promise<RunResult> {
  const okExits = Array.from({ length: 256 }, (_, status) => status);
  const [program = '', ...args] = argv;
  return await root.run([program, ...args], { input, okExits, timeoutMs: 20_000 });
}

async function processesOf(uid: string): Promise<string[]> {
  const { stdout } = await root.run(['ps', '-u', uid, '-o', 'args='], { okExits: [0, 1] });
  return stdout.split('\n').filter(Boolean);
}

async function ownerOf(pid: number | null): Promise<string | undefined> {
  return /^Uid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
}
