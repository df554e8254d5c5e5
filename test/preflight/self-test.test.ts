import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { NO_VM_USERS } from '../../src/core/vm-users.ts';
import { endSelfTests, kvmVerdict, type SelfTestOptions } from '../../src/preflight/self-test.ts';
import { findProcesses, findProcessesByArgument } from '../../src/system/processes.ts';
import { until } from '../support/host.ts';
import { BOOTS, REFUSES, SILENT, testMachine } from './support.ts';

const notRoot = process.getuid?.() !== 0 && 'other users need root';
const USERS = { first: 2_000_000_000, last: 2_000_000_015 };

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

/** Does the test in a process that can be killed. */
const TESTER = `
import { kvmVerdict } from ${source('preflight/self-test.ts')};
import { createPrivileged } from ${source('system/privilege.ts')};
import { createRunner } from ${source('system/runner.ts')};
const runner = createRunner(process.env);
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
await kvmVerdict({ ...JSON.parse(process.argv[1]), runner, privileged });
`;

describe('kvmVerdict', () => {
  it('says yes when a guest prints its first line, and ends the guest', async (t) => {
    const { options } = await prepare(t, BOOTS);
    const verdict = await kvmVerdict(options);
    assert.equal(verdict.works, true);
    assert.match(verdict.detail, /^A test guest printed its first line within \d+ ms\.$/);
    assert.deepEqual(await findProcessesByArgument(options.vmm.path), []);
  });

  it('says no after 3 s of silence although the device opens', async (t) => {
    const { options } = await prepare(t, SILENT);
    const began = performance.now();
    const verdict = await kvmVerdict({ ...options, limits: { firstMs: 3000, lastMs: 3000 } });
    const seconds = (performance.now() - began) / 1000;
    assert.deepEqual([verdict.works, verdict.userMayOpen, verdict.undecided], [false, true, undefined]);
    assert.match(verdict.detail, /opens, but a test guest printed nothing for 3 s: guests do not run here\.$/);
    assert.ok(seconds > 2.5 && seconds < 6, `${seconds} s`);
  });

  it('takes no silence for a no: a longer test goes on behind it, and who asks then gets its verdict', async (t) => {
    const { options, machine, ran } = await prepare(t, SILENT);
    const limits = { firstMs: 300, lastMs: 20_000 };
    const first = await kvmVerdict({ ...options, limits });
    assert.deepEqual([first.works, first.undecided], [false, true]);
    assert.match(first.detail, /nothing for 0\.3 s.*A test of 0\.9 s goes on in the background\.$/);
    await prepareScript(machine, `/bin/sleep 1; ${BOOTS}`);
    // also while others ask there is one test at a time, each with more time than the last
    await until('a longer test has seen the first line', async () => (await kvmVerdict({ ...options, limits })).works);
    const tests = await ran();
    assert.ok(tests >= 2 && tests <= 4, `${tests} tests`);
    assert.equal((await kvmVerdict({ ...options, limits })).undecided, undefined);
    assert.equal(await ran(), tests);
  });

  it('counts none of the time in which the VMM still reads its kernel', async (t) => {
    const slowly = 'while read -r line; do /bin/sleep 0.3; done < "$0.data"';
    const { options } = await prepare(t, `${slowly}; ${BOOTS}`);
    await writeFile(`${options.vmm.path}.data`, 'a line\n'.repeat(8));
    const verdict = await kvmVerdict({ ...options, limits: { firstMs: 1000, lastMs: 1000 } });
    assert.equal(verdict.works, true, verdict.detail);
  });

  it('remembers a no that the VMM has explained, and tests nothing behind it', async (t) => {
    const { options, ran } = await prepare(t, REFUSES);
    const limits = { firstMs: 300, lastMs: 2000 };
    assert.equal((await kvmVerdict({ ...options, limits })).undecided, undefined);
    assert.equal((await kvmVerdict({ ...options, limits })).works, false);
    assert.equal(await ran(), 1);
  });

  it('says no with the words of the VMM when it refuses', async (t) => {
    const { options } = await prepare(t, REFUSES);
    const verdict = await kvmVerdict(options);
    assert.equal(verdict.works, false);
    assert.match(verdict.detail, /could not be started: Could not access KVM kernel module/);
  });

  it('takes no warning of the VMM for a line of the kernel', async (t) => {
    const { options } = await prepare(t, "echo 'qemu: warning: host does not support 0.5' >&2; exit 0");
    assert.match((await kvmVerdict(options)).detail, /printed nothing before it ended/);
  });

  it('says no without a device, and tests nothing', async (t) => {
    const { options, ran } = await prepare(t, BOOTS);
    const verdict = await kvmVerdict({ ...options, kvmDevice: '/nonexistent/kvm' });
    assert.deepEqual(verdict, {
      works: false,
      tested: false,
      userMayOpen: false,
      detail: 'There is no /nonexistent/kvm.',
    });
    assert.equal(await ran(), 0);
  });

  it('gives Firecracker a configuration without API, and leaves nothing of it behind', async (t) => {
    const { options, machine } = await prepare(t, BOOTS);
    const path = await machine.script(
      'firecracker',
      `[ "$1 $3 $4" = '--id --no-api --config-file' ] || exit 1\n/bin/cat "$5" > ${machine.home}/seen.json\n${BOOTS}`,
    );
    assert.equal((await kvmVerdict({ ...options, vmm: { kind: 'firecracker', path } })).works, true);
    const seen = JSON.parse(await readFile(join(machine.home, 'seen.json'), 'utf8'));
    assert.equal(seen['boot-source'].kernel_image_path, machine.files.kernel);
    assert.deepEqual(seen.drives, []);
    assert.deepEqual(await readdir(options.cacheDirectory), ['kvm-self-test.json']);
  });

  it("runs the VMM as VMs' users, without a right, and with its kernel in reach", { skip: notRoot }, async (t) => {
    const seen = [
      'read_field() { while read -r name value _; do [ "$name" = "$1:" ] && echo "$value"; done < /proc/self/status; }',
      `[ "$(read_field Uid) $(read_field CapEff) $(read_field CapBnd) $(read_field NoNewPrivs)" = '${USERS.first} 0000000000000000 0000000000000000 1' ] || exit 1`,
      '[ -z "$SECRET" ] || exit 2',
      'for word; do case $last in -kernel) kernel=$word ;; esac; last=$word; done',
      // what it is told, it may read; and it may write nowhere
      ': < "$kernel" || exit 3',
      '(: > new) 2> /dev/null && exit 4',
      BOOTS,
    ].join('\n');
    const { options, machine } = await prepare(t, seen);
    await chmod(machine.files.kernel, 0o600);
    const users = { range: USERS, kvmGroup: undefined };
    const confined = { ...options.confined, users, env: { ...machine.context.env, SECRET: 'x' } };
    const verdict = await kvmVerdict({ ...options, confined });
    assert.equal(verdict.works, true, verdict.detail);
    assert.deepEqual(await readdir(options.cacheDirectory), ['kvm-self-test.json']);
    // what one of a daemon that was killed has left
    const directory = join(options.cacheDirectory, 'self-test-01234567');
    await mkdir(directory);
    const left = spawn('tail', ['-f', '/dev/null'], {
      ...{ argv0: 'self-test-01234567', stdio: 'ignore', uid: USERS.first, gid: USERS.first },
    });
    const ended = once(left, 'close');
    await until('it runs', async () => {
      return (await findProcesses((argv) => argv.includes('self-test-01234567'), [USERS.first])).length > 0;
    });
    await endSelfTests(options.cacheDirectory, users);
    assert.equal((await ended)[1], 'SIGKILL');
    assert.deepEqual(await readdir(options.cacheDirectory), ['kvm-self-test.json']);
  });

  it("lets VMs' user read Firecracker's configuration whatever our umask", { skip: notRoot }, async (t) => {
    const { options, machine } = await prepare(t, BOOTS);
    const path = await machine.script('firecracker', `: < "$5" || exit 1\n${BOOTS}`);
    const confined = { ...options.confined, users: { range: USERS, kvmGroup: undefined } };
    const umask = process.umask(0o077); // as the daemon has it
    t.after(() => process.umask(umask));
    const verdict = await kvmVerdict({ ...options, vmm: { kind: 'firecracker', path }, confined });
    assert.equal(verdict.works, true, verdict.detail);
  });

  it('remembers the verdict for this boot, kernel and VMM', async (t) => {
    const { options, machine, ran } = await prepare(t, BOOTS);
    await kvmVerdict(options);
    await kvmVerdict(options);
    assert.equal(await ran(), 1);

    await utimes(machine.files.kernel, new Date(), new Date(0)); // touched, but the same kernel
    await kvmVerdict(options);
    assert.equal(await ran(), 1);

    await kvmVerdict({ ...options, bootId: 'the next boot' });
    assert.equal(await ran(), 2);

    await writeFile(machine.files.kernel, Buffer.concat([await readFile(machine.files.kernel), Buffer.from('x')]));
    await kvmVerdict({ ...options, bootId: 'the next boot' });
    assert.equal(await ran(), 3);

    await utimes(options.vmm.path, new Date(), new Date(0)); // another QEMU was installed
    await kvmVerdict({ ...options, bootId: 'the next boot' });
    assert.equal(await ran(), 4);
  });

  it('tests a remembered "no" again on request, and never a "yes"', async (t) => {
    const { options, machine, ran } = await prepare(t, REFUSES);
    await kvmVerdict(options);
    assert.equal((await kvmVerdict({ ...options, retest: true })).works, false);
    assert.equal(await ran(), 2);
    await prepareScript(machine, BOOTS);
    assert.equal((await kvmVerdict({ ...options, retest: true })).works, true);
    await kvmVerdict({ ...options, retest: true });
    assert.equal(await ran(), 3);
  });

  it('survives a verdict file that was cut short', async (t) => {
    const { options } = await prepare(t, BOOTS);
    await kvmVerdict(options);
    await writeFile(join(options.cacheDirectory, 'kvm-self-test.json'), '{"bootId":');
    assert.equal((await kvmVerdict(options)).works, true);
  });

  it('leaves nothing that the next daemon does not end', async (t) => {
    const { options } = await prepare(t, 'while :; do /bin/sleep 0.2; done');
    const { runner, privileged, ...data } = options;
    const killed = spawn(process.execPath, ['--input-type=module', '--eval', TESTER, JSON.stringify(data)]);
    const guests = async () => (await findProcessesByArgument(options.vmm.path)).length;
    const marks = async () =>
      (await readdir(options.cacheDirectory).catch(() => [])).filter((name) => name.startsWith('self-test-'));
    // not what becomes it: setpriv has yet to ask for the signal at the end of its parent
    const isGuest = ([shell, program]: readonly string[]) => shell === '/bin/sh' && program === options.vmm.path;
    await until('the test guest runs', async () => (await findProcesses(isGuest)).length > 0);
    killed.kill('SIGKILL');
    await once(killed, 'close');
    await until('QEMU has gone with it', async () => (await guests()) === 0);

    // Firecracker would still be there
    const [mark = ''] = await marks();
    const other = spawn('tail', ['-f', '/dev/null'], { argv0: mark, stdio: 'ignore' });
    const ended = once(other, 'close');
    await endSelfTests(options.cacheDirectory, NO_VM_USERS);
    assert.deepEqual(await marks(), []);
    assert.equal((await ended)[1], 'SIGKILL');
  });
});

type Machine = Awaited<ReturnType<typeof testMachine>>;

async function prepare(t: TestContext, guest: string) {
  const machine = await testMachine(t);
  const path = await prepareScript(machine, guest);
  const { config, facts, rights, runner } = machine.context;
  const options: SelfTestOptions = {
    runner,
    privileged: rights.kvm,
    vmm: { kind: 'qemu', path },
    kernel: machine.files.kernel,
    cacheDirectory: config.paths.cache,
    bootId: facts.bootId,
    kvmDevice: '/dev/null',
    confined: { users: NO_VM_USERS, store: config.paths.store, cp: 'cp', env: machine.context.env },
  };
  const ran = async () => (await readFile(join(machine.home, 'runs'), 'utf8').catch(() => '')).length;
  return { machine, options, ran };
}

function prepareScript(machine: Machine, guest: string): Promise<string> {
  return machine.script('qemu-system-x86_64', `printf x >> ${machine.home}/runs\n${guest}`);
}
