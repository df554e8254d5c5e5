import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { assertPassed, type CheckResult, runChecks } from '../../src/preflight/check.ts';
import { allChecks, preflight, preflightFor } from '../../src/preflight/commands.ts';
import type { PreflightContext } from '../../src/preflight/context.ts';
import { createRights } from '../../src/system/privilege.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';
import { testMachine, whyNotRoot } from './support.ts';

const GIB = 1024 ** 3;

describe('checks of what a VM boots from', () => {
  it('pass with a kernel, an initrd and an ext4 image', async (t) => {
    const { context } = await testMachine(t);
    for (const id of ['boot.bundle', 'boot.kernel', 'boot.initrd', 'boot.rootfs']) {
      assert.equal((await check(id, context)).status, 'ok', id);
    }
  });

  it('pass on why there is no bundle, once', async (t) => {
    const { context } = await testMachine(t);
    const boot = new BangerError('not_found', 'There is no bundle "default".', { hint: 'banger bundle build' });
    const result = await check('boot.bundle', { ...context, boot });
    assert.deepEqual([result.status, result.detail, result.fix], ['failed', boot.message, boot.hint]);
    assert.equal((await check('boot.kernel', { ...context, boot })).status, 'not_applicable');
  });

  it('tell what is wrong with a kernel', async (t) => {
    const { context, files } = await testMachine(t);
    await truncate(files.kernel, 100);
    assert.match((await failed('boot.kernel', context)).detail, /vmlinux is cut short/);
    await writeFile(files.kernel, 'not a kernel at all');
    assert.match((await failed('boot.kernel', context)).detail, /is no kernel: it is neither ELF nor bzImage/);
    const arm = { ...context, facts: { ...context.facts, arch: 'aarch64' } };
    const { files: other } = await testMachine(t);
    assert.match(
      (await failed('boot.kernel', { ...arm, boot: { name: 'x', ...other, defaults: {} } })).detail,
      /is for x86_64, not aarch64/,
    );
  });

  it('tell what is wrong with an initrd or a root file system', async (t) => {
    const { context, files } = await testMachine(t);
    await writeFile(files.initrd, '');
    assert.match((await failed('boot.initrd', context)).detail, /initrd\.img is empty\./);
    await truncate(files.rootfs, 1024 * 1024);
    assert.match((await failed('boot.rootfs', context)).detail, /is cut short/);
    await writeFile(files.rootfs, Buffer.alloc(8192));
    assert.match(
      (await failed('boot.rootfs', context)).detail,
      /holds no file system that a guest can have as its root: nothing but zeros/,
    );
  });
});

describe('checks of programs', () => {
  it('name every missing program, where it was looked for, and one command', async (t) => {
    const { context, remove, bin } = await testMachine(t);
    await remove('mke2fs');
    await remove('resize2fs');
    const result = await failed('disk.programs', context);
    assert.equal(
      result.detail,
      `mke2fs is not installed (looked in PATH (${bin})); resize2fs is not installed (looked in PATH (${bin})).`,
    );
    assert.equal(result.fix, 'apt install e2fsprogs');
  });

  it('point at the setting of a program that is configured and missing', async (t) => {
    const { context } = await testMachine(t, { env: { BANGER_PROGRAMS_SSH: '/opt/none/ssh' } });
    const result = await failed('ssh.programs', context);
    assert.match(result.detail, /\/opt\/none\/ssh is not installed \(looked at that path: /);
    assert.match(result.fix ?? '', /\[programs\]/);
  });

  it('send builders without apt to a machine that has it', async (t) => {
    const { context } = await testMachine(t);
    const distribution = { family: 'fedora', id: 'fedora', name: 'Fedora', version: '42' } as const;
    const result = await failed('image.programs', { ...context, facts: { ...context.facts, distribution } });
    assert.match(result.fix ?? '', /^Build a bundle on Debian or Ubuntu/);
  });
});

describe('checks of room', () => {
  it('fail when the store has less than is needed', async (t) => {
    const { context } = await testMachine(t);
    const result = await failed('disk.space', { ...context, needs: { ...context.needs, diskBytes: 2 ** 50 } });
    assert.match(result.lookedFor, /1024\.1? ?TiB free|1024 TiB free/);
    assert.match(result.detail, /^Only .* are free\.$/);
  });

  it('fail when a VM has more memory than the host, and warn when it has more than is free', async (t) => {
    const { context } = await testMachine(t);
    const facts = { ...context.facts, memoryTotalBytes: 4 * GIB, memoryAvailableBytes: GIB };
    const needs = (memoryMib: number) => ({ ...context, facts, needs: { ...context.needs, memoryMib } });
    assert.equal((await check('memory', needs(1024))).status, 'ok');
    assert.equal((await check('memory', needs(2048))).status, 'warning');
    const result = await failed('memory', needs(5000));
    assert.equal(result.fix, 'Give the VM less: BANGER_VM_MEMORY=2048MiB');
  });
});

describe('checks of the login key', () => {
  it('pass before there is one', async (t) => {
    const { context } = await testMachine(t);
    assert.equal((await check('ssh.key', context)).status, 'ok');
  });

  it('fail when others may read it, or its public half is gone', async (t) => {
    const { context } = await testMachine(t, { uid: process.geteuid?.() ?? 0 });
    await mkdir(dirname(context.clientKeyFile), { recursive: true });
    await writeFile(context.clientKeyFile, 'key');
    await chmod(context.clientKeyFile, 0o644);
    const open = await failed('ssh.key', context);
    assert.match(open.detail, /Others may read the key \(mode 644\)/);
    assert.equal(open.fix, `chmod 600 ${context.clientKeyFile}`);
    await chmod(context.clientKeyFile, 0o600);
    assert.match((await failed('ssh.key', context)).detail, /public half .* is gone/);
    await writeFile(`${context.clientKeyFile}.pub`, 'key');
    assert.equal((await check('ssh.key', context)).status, 'ok');
  });

  it('fail when somebody else owns it', async (t) => {
    const { context } = await testMachine(t, { uid: 4242 });
    await mkdir(dirname(context.clientKeyFile), { recursive: true });
    await writeFile(context.clientKeyFile, 'key', { mode: 0o600 });
    assert.match((await failed('ssh.key', context)).detail, /^User \d+ owns the key\.$/);
  });
});

describe('checks of the network', () => {
  it('take a pool that only banger itself routes', async (t) => {
    const own = [
      { dst: 'default', dev: 'eth0' },
      { type: 'unreachable', dst: '172.30.0.0/16', protocol: '119' },
      { dst: '172.30.0.2', dev: 'bgr-0a1b2c3d', scope: 'link' },
      { dst: '192.168.1.0/24', dev: 'eth0' },
    ];
    assert.equal((await check('network.pool', await withRoutes(t, own))).status, 'ok');
  });

  it('name the device whose route takes the pool', async (t) => {
    const result = await failed('network.pool', await withRoutes(t, [{ dst: '172.30.5.0/24', dev: 'docker0' }]));
    assert.equal(result.detail, 'The pool 172.30.0.0/16 overlaps with a route by docker0.');
    assert.match(result.fix ?? '', /BANGER_NETWORK_POOL=/);
  });

  it('take a pool beside the pieces of a default route, and not one of a VPN’s network', async (t) => {
    const halves = ['0.0.0.0/1', '128.0.0.0/1'].map((dst) => ({ dst, gateway: '10.8.0.1', dev: 'tun0' }));
    assert.equal((await check('network.pool', await withRoutes(t, halves))).status, 'ok');
    const network = [...halves, { dst: '172.16.0.0/12', dev: 'tun0' }];
    assert.match((await failed('network.pool', await withRoutes(t, network))).detail, /a route by tun0/);
  });

  it('name the table of a route that `ip route` does not show', async (t) => {
    const network = { dst: '172.30.0.0/16', dev: 'tailscale0', table: '52' };
    const result = await failed('network.pool', await withRoutes(t, [network]));
    assert.equal(result.detail, 'The pool 172.30.0.0/16 overlaps with a route by tailscale0 (ip route show table 52).');
  });

  it('name another banger that has the pool, which routes tell only once it runs VMs', async (t) => {
    const poolHolder = async () => ({ pid: 4711, uid: 0, stranger: false });
    const result = await failed('network.pool', { ...(await withRoutes(t, [])), poolHolder });
    assert.match(
      result.detail,
      /^Another banger on this host \(process 4711\) gives its VMs addresses of 172\.30\.0\.0\/16;/,
    );
    assert.match(result.fix ?? '', /BANGER_NETWORK_POOL=/);
  });

  it('let nobody be shut out by another user who has the name of the pool and no VMs', async (t) => {
    const named = { poolHolder: async () => ({ pid: 4711, uid: 1234, stranger: true }) };
    const routes = [
      { type: 'unreachable', dst: '172.30.0.0/16', protocol: '119' },
      { dst: '172.30.0.2', dev: 'bgr-0a1b2c3d', scope: 'link' },
    ];
    const ownLinks = () => ['172.30.0.0/16', 'bgr-0a1b2c3d'];
    for (const context of [await withRoutes(t, []), { ...(await withRoutes(t, routes)), ownLinks }]) {
      const { status, detail } = await check('network.pool', { ...context, ...named });
      assert.equal(status, 'warning');
      assert.match(detail, /^Process 4711 of another user \(1234\) has taken the name of the pool 172\.30\.0\.0\/16,/);
    }
    // routes take root: that one has VMs
    const theirs = await failed('network.pool', { ...(await withRoutes(t, routes)), ...named, ownLinks: () => [] });
    assert.match(theirs.detail, /overlaps with a route by/);
  });

  it('name another banger that has a part of the pool', async (t) => {
    const routes = [{ type: 'unreachable', dst: '172.30.128.0/17' }];
    assert.match((await failed('network.pool', await withRoutes(t, routes))).detail, /a route by unreachable/);
  });

  it('fail without the device that makes taps', async (t) => {
    const { context, home } = await testMachine(t);
    const missing = await failed('network.tap', { ...context, tunDevice: '/nonexistent/tun' });
    assert.deepEqual([missing.detail, missing.fix], ['There is no /nonexistent/tun.', 'modprobe tun']);
    const file = join(home, 'tun');
    await writeFile(file, '');
    assert.match((await failed('network.tap', { ...context, tunDevice: file })).detail, /is no device/);
  });

  it('try a device with all that VMs have, and say nothing of IPv6 to a kernel without', async (t) => {
    const why = whyNotRoot();
    if (why) return t.skip(why);
    const { context, script } = await testMachine(t);
    const refuses = "echo 'Address family not supported by protocol' >&2; exit 2";
    await script('ip', `while read -r line; do case $line in *addrgenmode*) ${refuses} ;; esac; done`);
    const tried = { ...context, tunDevice: '/dev/null' };
    assert.match(
      (await failed('network.tap', { ...tried, hasIpv6: true })).detail,
      /A trial tap failed: Address family not supported/,
    );
    assert.equal((await check('network.tap', { ...tried, hasIpv6: false })).status, 'ok');
  });

  it('take the devices of this kernel', async (t) => {
    const why = whyNotRoot() ?? (existsSync('/dev/net/tun') ? undefined : 'there is no /dev/net/tun');
    if (why) return t.skip(why);
    const { context } = await testMachine(t);
    const { status, detail } = await check('network.tap', context);
    assert.deepEqual([status, detail], ['ok', 'taps can be made']);
  });

  it('fail with the words of the kernel when it refuses the rules', async (t) => {
    const why = whyNotRoot();
    if (why) return t.skip(why);
    const { context, script } = await testMachine(t);
    assert.equal((await check('network.rules', context)).status, 'ok');
    await script('nft', "echo 'Error: Could not process rule: No such file or directory' >&2; exit 1");
    const result = await failed('network.rules', context);
    assert.match(result.detail, /refused a trial of banger's rules: Error: Could not process rule/);
  });

  it('warn, not fail, without a default route: a laptop still runs VMs', async (t) => {
    assert.equal((await check('nat.uplink', await withRoutes(t, []))).status, 'warning');
  });

  it('fail when the uplink that is configured does not exist', async (t) => {
    const { context } = await testMachine(t, { env: { BANGER_NETWORK_UPLINK: 'nosuchdev0' } });
    assert.match((await failed('nat.uplink', context)).detail, /There is no network device nosuchdev0/);
  });
});

describe('checks of rights', () => {
  it('fail when sudo would be needed and is ruled out', async (t) => {
    const { context } = await testMachine(t, { uid: 1000, env: { BANGER_PRIVILEGE_SUDO: 'never' } });
    assert.match((await failed('privilege', context)).detail, /privilege\.sudo is "never"/);
  });

  it('fail without sudo, and name its package', async (t) => {
    const { context } = await testMachine(t, { uid: 1000 });
    const result = await failed('privilege', context);
    assert.match(result.detail, /sudo is not installed/);
    assert.equal(result.fix, 'apt install sudo');
  });

  it('pass by the network helper without sudo, and name what to do when it does not answer', async (t) => {
    const { context, home } = await testMachine(t, { uid: 1000 });
    const helper = join(home, 'net.sock');
    const config = { ...context.config, privilege: { ...context.config.privilege, helper } };
    let answer = '{"ok":true,"result":{"version":"1.2","vmLimit":7}}\n';
    const server = createServer((socket) => socket.on('data', () => socket.end(answer))).listen(helper);
    t.after(() => server.close());
    await once(server, 'listening');
    const result = await check('privilege', { ...context, config });
    assert.deepEqual([result.status, result.lookedFor], ['ok', `the network helper at ${helper}`]);
    assert.match(result.detail, /helper \(1\.2\) sets up networks for up to 7 VMs/);
    answer = '';
    const broken = await failed('privilege', { ...context, config });
    assert.match(broken.detail, /ended before it had answered/);
    assert.equal(broken.fix, 'sudo systemctl restart bangernet.socket');
    // rules of others are nobody's to see
    const drops = await check('nat.firewall', { ...context, config, pool: '172.30.0.0/16' });
    assert.equal(drops.status, 'not_applicable');
    assert.match(drops.detail, /shows nobody the rules/);
  });

  it('name the commands sudo refuses and the one that installs the rules', async (t) => {
    const { context, script } = await testMachine(t, { uid: 1000 });
    await script('sudo', "echo 'sudo: a password is required' >&2; exit 1");
    const result = await failed('privilege', context);
    assert.match(result.detail, /without a password: ip link delete dev bgr-00000000; nft -j list table/);
    assert.equal(result.fix, 'banger doctor --sudoers | sudo install -m 0440 /dev/stdin /etc/sudoers.d/banger');
  });

  it('pass when sudo runs them, whatever the programs say about devices that do not exist', async (t) => {
    const { context, script } = await testMachine(t, { uid: 1000 });
    await script('sudo', 'echo \'Cannot find device "bgr-00000000"\' >&2; exit 1');
    assert.equal((await check('privilege', context)).status, 'ok');
  });

  it('ask sudo about every single rule when they are thorough', async (t) => {
    const { context, script } = await testMachine(t, { uid: 1000 });
    // allows everything but the neighbour entry
    await script('sudo', 'case "$*" in *" -l "*neighbour*) exit 1;; *" -l "*) exit 0;; *) exit 1;; esac');
    assert.equal((await check('privilege', context)).status, 'ok');
    const result = await failed('privilege', { ...context, thorough: true });
    assert.match(result.detail, /without a password: .*ip neighbour replace 198\.18\.\d+\.2 lladdr/);
  });
});

describe('runChecks', () => {
  it('counts a check that breaks as failed: what cannot be found out is no yes', async () => {
    const broken = {
      id: 'x',
      title: 'broken',
      run: () => Promise.reject(new BangerError('corrupt', 'No idea.', { hint: 'Look.' })),
    };
    const [result] = await runChecks([broken], undefined);
    assert.deepEqual(result, {
      id: 'x',
      title: 'broken',
      status: 'failed',
      lookedFor: 'broken',
      detail: 'No idea.',
      fix: 'Look.',
    });
  });
});

describe('assertPassed', () => {
  const result = (id: string, status: CheckResult['status']): CheckResult => ({
    id,
    title: id,
    status,
    lookedFor: `${id} everywhere`,
    detail: `No ${id}.`,
    fix: `install ${id}`,
  });

  it('lets warnings pass', () => {
    assertPassed([result('a', 'ok'), result('b', 'warning'), result('c', 'not_applicable')], 'start a VM');
  });

  it('tells all failures with their fixes in one error', () => {
    assert.throws(
      () => assertPassed([result('a', 'failed'), result('b', 'ok'), result('c', 'failed')], 'start a VM'),
      (error) => {
        assert.ok(error instanceof BangerError);
        assert.equal(error.exitStatus, 6);
        assert.equal(
          error.message,
          [
            '2 things are missing to start a VM; nothing was touched.',
            '  a: No a. (looked for a everywhere)',
            '    fix: install a',
            '  c: No c. (looked for c everywhere)',
            '    fix: install c',
          ].join('\n'),
        );
        assert.deepEqual(error.details, { checks: [result('a', 'failed'), result('c', 'failed')] });
        return true;
      },
    );
  });
});

describe('templates', () => {
  it('are told with what they take, and why none of them is of use', async (t) => {
    const { context } = await testMachine(t);
    const told = async (...templates: { image: string; bytes: number; misfits: string[] }[]) => {
      const { status, detail, fix } = await check('warm.templates', { ...context, templates: async () => templates });
      return [status, detail, fix];
    };
    const whole = { image: 'debian', bytes: 2 ** 20, misfits: [] };
    assert.equal((await told())[0], 'not_applicable');
    assert.deepEqual(await told(whole), ['ok', '1 template (1 MiB)', undefined]);
    assert.deepEqual(await told(whole, { ...whole, image: 'dev', misfits: ['its kernel was replaced'] }), [
      'warning',
      '2 templates (2 MiB), and no VM can start from 1 of them: of dev: its kernel was replaced.',
      'banger image prune',
    ]);
  });
});

describe('preflightFor', () => {
  it('asks each command only what it needs', () => {
    const ids = (command: Parameters<typeof preflightFor>[0]) => preflightFor(command).map(({ id }) => id);
    assert.deepEqual(ids('disk-resize'), ['disk.programs', 'disk.space']);
    assert.deepEqual(ids('nat'), ['nat.uplink', 'nat.forwarding', 'nat.firewall', 'nat.names']);
    assert.deepEqual(ids('ssh'), ['ssh.programs', 'ssh.key']);
  });

  it('gives every check an id of its own', () => {
    const ids = allChecks().map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
  });
});

describe('preflight', () => {
  it('passes on a machine that has everything, within half a second', async (t) => {
    const why = whyNotRoot();
    if (why) return t.skip(why);
    const { context } = await testMachine(t);
    const times: number[] = [];
    // the best of some: what a busy machine adds is not the checks' own
    for (let run = 0; run < 5; run += 1) {
      const began = performance.now();
      await preflight({ ...context }, 'vm-start');
      times.push(performance.now() - began);
    }
    assert.ok(Math.min(...times) < 500, `took ${times.map(Math.round).join(', ')} ms`);
  });
});

async function check(id: string, context: PreflightContext): Promise<CheckResult> {
  const wanted = allChecks().find((candidate) => candidate.id === id) ?? assert.fail(`no check ${id}`);
  const [result] = await runChecks([wanted], context);
  return result ?? assert.fail('no result');
}

async function failed(id: string, context: PreflightContext): Promise<CheckResult> {
  const result = await check(id, context);
  assert.equal(result.status, 'failed', result.detail);
  assert.ok(result.fix, 'a failed check must say how to fix it');
  return result;
}

/** A machine whose routes are as given. */
async function withRoutes(t: TestContext, routes: object[]): Promise<PreflightContext> {
  const { context, bin } = await testMachine(t);
  const runner = scriptedRunner({
    [`${join(bin, 'ip')} -j -4 route show default`]: { stdout: '[]' },
    [`${join(bin, 'ip')} -j -4 route show`]: { stdout: JSON.stringify(routes) },
  });
  const rights = createRights(runner, { uid: 0, sudo: 'auto', sudoProgram: 'sudo' });
  return { ...context, runner, rights, pool: '172.30.0.0/16' };
}
