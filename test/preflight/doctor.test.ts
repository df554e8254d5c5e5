import assert from 'node:assert/strict';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { describe as describeCheck } from '../../src/preflight/check.ts';
import { type PreflightCommand, preflight } from '../../src/preflight/commands.ts';
import { runDoctor, sudoersFor } from '../../src/preflight/doctor.ts';
import { BOOTS, failuresOf, REAL_PROGRAMS, type TestMachine, testMachine, whyNotRoot } from './support.ts';

interface Removal {
  what: string;
  remove(machine: TestMachine): Promise<void>;
}

const PROGRAMS: Removal[] = [...REAL_PROGRAMS, 'qemu-system-x86_64', 'fcqemu'].map((program) => ({
  what: `program ${program}`,
  remove: (machine) => machine.remove(program),
}));

const FILES: Removal[] = (['kernel', 'initrd', 'rootfs'] as const).map((file) => ({
  what: `file ${file}`,
  remove: (machine) => rm(machine.files[file]),
}));

const KEY: Removal = {
  what: 'key that others may read',
  async remove({ context }) {
    await mkdir(join(context.clientKeyFile, '..'), { recursive: true });
    await writeFile(context.clientKeyFile, 'key');
    await chmod(context.clientKeyFile, 0o644);
  },
};

/** What running VMs as root needs none of; everything else must turn doctor red. */
const NOT_NEEDED = new Set(['program sysctl', 'program unshare']);

describe('runDoctor', () => {
  it('is red exactly when a command would be refused, with the same words', async (t) => {
    const why = whyNotRoot();
    if (why) return t.skip(why);
    const rows: string[] = [];
    for (const removal of [{ what: 'nothing', remove: async () => {} }, ...PROGRAMS, ...FILES, KEY]) {
      const machine = await testMachine(t);
      await removal.remove(machine);
      const report = await runDoctor(machine.context);
      const refusal = await refusalOf(machine);
      rows.push(
        `${removal.what.padEnd(32)} ${(report.ok ? 'green' : 'red').padEnd(8)} ${refusal ? 'refused' : 'allowed'}`,
      );
      const found = `without ${removal.what}: ${failuresOf(report.checks) || 'no check failed'}\nrefusal: ${refusal}`;
      assert.equal(report.ok, refusal === undefined, found);
      assert.equal(report.ok, removal.what === 'nothing' || NOT_NEEDED.has(removal.what), found);
      const failures = report.checks.filter(({ status }) => status === 'failed');
      for (const failure of failures) {
        assert.ok(refusal?.includes(describeCheck(failure)), `${removal.what}: ${describeCheck(failure)}`);
      }
    }
    t.diagnostic(`${'taken away'.padEnd(32)} ${'doctor'.padEnd(8)} commands\n${rows.join('\n')}`);
  });

  it('says what banger would do here', async (t) => {
    const { context } = await testMachine(t);
    const { summary } = await runDoctor(context);
    assert.deepEqual(Object.keys(summary), ['host', 'vmm', 'bundle', 'disks', 'network', 'rights', 'resolver']);
    assert.match(summary.host ?? '', /^Debian GNU\/Linux 12 \(bookworm\), x86_64, 4 CPUs$/);
    assert.match(summary.vmm ?? '', /^fcqemu, emulation \(TCG\): /);
    assert.match(summary.disks ?? '', /^(clones share blocks|sparse copies)/);
    assert.ok(summary.network?.startsWith(`pool ${context.pool}, uplink `), `network: ${summary.network}`);
  });

  it('warns where only building another bundle is impossible, and fails when there is none', async (t) => {
    const { context } = await testMachine(t);
    const build = (report: Awaited<ReturnType<typeof runDoctor>>) =>
      report.checks.find(({ id }) => id === 'image.programs');
    assert.equal(build(await runDoctor(context))?.status, 'warning');
    const boot = new BangerError('not_found', 'There is no bundle.');
    assert.equal(build(await runDoctor({ ...context, boot }))?.status, 'failed');
    assert.equal(build(await runDoctor(context, 'bundle-build'))?.status, 'failed');
  });

  it('runs the checks of some commands on request, each once', async (t) => {
    const { context } = await testMachine(t);
    const ids = async (...commands: PreflightCommand[]) =>
      (await runDoctor(context, ...commands)).checks.map(({ id }) => id);
    assert.deepEqual(await ids('disk-resize'), ['disk.programs', 'disk.space']);
    assert.deepEqual(await ids('disk-resize', 'ssh'), ['disk.programs', 'disk.space', 'ssh.programs', 'ssh.key']);
  });

  it('knows the command that puts right what nobody has to judge, and none for the rest', async (t) => {
    const machine = await testMachine(t, { uid: process.geteuid?.() ?? 0 });
    await KEY.remove(machine);
    await machine.remove('mke2fs');
    await machine.remove('qemu-system-x86_64');
    await rm(machine.files.kernel);
    const { checks } = await runDoctor({ ...machine.context, pool: undefined }, 'vm-start');
    const repairs = Object.fromEntries(
      checks.filter(({ status }) => status === 'failed').map(({ id, repair }) => [id, repair]),
    );
    assert.deepEqual(repairs, {
      vmm: { argv: ['apt-get', 'install', '-y', 'qemu-system-x86'], asRoot: true },
      'boot.kernel': undefined,
      'network.pool': undefined,
      'disk.programs': { argv: ['apt-get', 'install', '-y', 'e2fsprogs'], asRoot: true },
      'ssh.key': { argv: ['chmod', '600', machine.context.clientKeyFile], asRoot: false },
    });
  });

  it('names a Firecracker that nobody has tried, and what an older one cannot do', async (t) => {
    const found = async (version: string) => {
      const machine = await testMachine(t);
      await machine.script('firecracker', `[ "$1" = --version ] && echo 'Firecracker v${version}' && exit\n${BOOTS}`);
      const { checks } = await runDoctor(machine.context, 'vm-start');
      const vmm = checks.find(({ id }) => id === 'vmm');
      return `${vmm?.status}: ${vmm?.detail} ${vmm?.fix ?? ''}`;
    };
    assert.match(await found('1.16.1'), /^ok: VMs run on firecracker, under KVM\. Firecracker 1\.16\.1\. /);
    assert.match(
      await found('1.13.1'),
      /^ok: .* Firecracker 1\.13\.1: it cannot be told the MTU .* themselves; VMs that it runs cannot be suspended or forked \(from 1\.16\.1 on they can\)\. /,
    );
    assert.match(
      await found('1.9.0'),
      /^warning: .* older than 1\.10, .* banger vmm install, and the old one out of PATH$/,
    );
    assert.match(await found('1.18.0'), /^ok: .* newer than 1\.16, the newest that banger was tried with\. /);
    assert.match(await found('2.0.0'), /^warning: .* knows no release after 1\.x, .* or a newer banger\.$/);
  });

  it('says what a Firecracker that is missing would bring, and how to get it', async (t) => {
    const machine = await testMachine(t);
    const found = async () => {
      const { checks } = await runDoctor({ ...machine.context }, 'vm-start');
      return checks.find(({ id }) => id === 'vmm')?.detail ?? '';
    };
    assert.match(await found(), / Firecracker would change nothing here: it needs KVM\.$/);
    await machine.script('qemu-system-x86_64', BOOTS);
    assert.match(
      await found(),
      / get it with: banger vmm install; without a network here: curl -LO https:.* --from firecracker-v/,
    );
    await machine.script('firecracker', BOOTS);
    assert.doesNotMatch(await found(), /would/);
  });

  it('tests KVM again: what was wrong may have been put right', async (t) => {
    const machine = await testMachine(t);
    await runDoctor(machine.context, 'vm-start');
    await machine.script('qemu-system-x86_64', BOOTS);
    const { checks } = await runDoctor({ ...machine.context }, 'vm-start');
    assert.equal(checks.find(({ id }) => id === 'vmm.kvm')?.status, 'ok');
  });
});

describe('sudoersFor', () => {
  it('spells out the programs, pool and user of this machine', async (t) => {
    const { context } = await testMachine(t, { uid: 1000 });
    const text = await sudoersFor(context);
    assert.match(text, /sbin\/ip .*mode tap user 1000/);
    const gateway = context.pool?.replace(/0\/24$/, '1/32').replaceAll('.', '[\\\\.]+');
    assert.match(text, new RegExp(gateway ?? '^$'));
    assert.match(text, /NOPASSWD: BANGER_1000_IP, BANGER_1000_NFT, BANGER_1000_SYSCTL$/m);
  });
});

/** What the first refused command says; undefined when none is refused. */
async function refusalOf({ context }: TestMachine): Promise<string | undefined> {
  const messages: string[] = [];
  for (const command of ['vm-create', 'vm-start', 'nat', 'ssh'] as const) {
    try {
      await preflight({ ...context }, command);
    } catch (error) {
      assert.ok(error instanceof BangerError && error.code === 'preflight_failed', String(error));
      messages.push(error.message);
    }
  }
  return messages.length === 0 ? undefined : messages.join('\n');
}
