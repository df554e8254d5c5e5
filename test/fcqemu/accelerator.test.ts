/** How it is found out whether a kernel boots under KVM, with a stand-in for QEMU. */
import assert from 'node:assert/strict';
import { accessSync, chmodSync, constants, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { ThreadLog } from '../../fcqemu/log.ts';
import { AcceleratorChoice } from '../../fcqemu/qemu/accelerator.ts';
import { KvmVerdicts } from '../../fcqemu/qemu/kvm-verdicts.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitFor } from './support/vmm-process.ts';

const BOOT = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();

function kvmSkip(): string | false {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return false;
  } catch {
    return 'this host has no /dev/kvm that opens';
  }
}

interface Host {
  choice: () => AcceleratorChoice;
  kernel: string;
  cacheDir: string;
  /** the verdict as it is noted; undefined while there is none */
  noted: () => string | undefined;
  calls: () => number;
  logged: string[];
}

/** @param behaviour shell commands of QEMU; `greet` and `speak` are what it and the kernel say */
async function host(t: TestContext, behaviour: string): Promise<Host> {
  const dir = await tempDir(t);
  const [qemu, kernel, cacheDir] = [join(dir, 'qemu'), join(dir, 'kernel'), join(dir, 'cache')];
  writeFileSync(kernel, 'a kernel');
  writeFileSync(
    qemu,
    `#!/bin/sh
echo called >> ${dir}/calls
greet() { printf '{"QMP": {}}\\r\\n' >&4; }
speak() { printf 'Linux version 6.1' >&3; }
${behaviour}
`,
  );
  chmodSync(qemu, 0o755);
  const logged: string[] = [];
  const note = (text: string) => void logged.push(text);
  const log = { info: note, warn: note } as unknown as ThreadLog;
  const settings = { accelerator: 'auto', qemu, cacheDir, env: process.env } as const;
  const noted = () => {
    const names = existsSync(cacheDir) ? readdirSync(cacheDir) : [];
    const name = names.find((each) => /-[0-9a-f]{32}$/.test(each) && !/-(try|sum)-/.test(each));
    return name && readFileSync(join(cacheDir, name), 'latin1').trim();
  };
  const calls = () =>
    existsSync(join(dir, 'calls')) ? readFileSync(join(dir, 'calls'), 'latin1').split('\n').length - 1 : 0;
  return { choice: () => new AcceleratorChoice(settings, log), kernel, cacheDir, noted, calls, logged };
}

describe('the choice of an accelerator', { skip: kvmSkip(), timeout: 60_000 }, () => {
  it('is KVM for a kernel that speaks, which is tried once however many ask', async (t) => {
    const { choice, kernel, noted, calls } = await host(t, 'greet; speak; exec sleep 60');
    // a file that is settled is known by its times, without reading it
    await delay(1100);
    const first = choice();
    first.prepare(kernel);
    await waitFor(() => noted() === 'works 3000', 'the verdict');
    assert.equal(await first.choose(kernel), 'kvm');
    assert.deepEqual(await Promise.all([choice(), choice()].map((each) => each.choose(kernel))), ['kvm', 'kvm']);
    assert.equal(calls(), 1);
  });

  it('is emulation for a kernel that makes QEMU end, for as long as the host is up', async (t) => {
    const { choice, kernel, noted, calls, logged } = await host(t, 'greet; exit 1');
    choice().prepare(kernel);
    await waitFor(() => noted() === 'fails 3000', 'the verdict');
    assert.equal(await choice().choose(kernel), 'tcg');
    assert.equal(calls(), 1);
    assert.match(logged.join(), /does not boot with it/);
  });

  it('does not count the time QEMU takes to load a kernel', async (t) => {
    const { choice, kernel, noted } = await host(t, 'sleep 3.5; greet; speak; exec sleep 60');
    choice().prepare(kernel);
    await waitFor(() => noted() === 'works 3000', 'the verdict');
  });

  it('is emulation after a moment while a kernel is silent, which is tried again with more time', async (t) => {
    const { choice, kernel, noted, calls, logged } = await host(t, 'greet; exec sleep 60');
    const begin = performance.now();
    assert.equal(await choice().choose(kernel), 'tcg');
    assert.ok(performance.now() - begin < paced(2000), 'it waited for the trial');
    assert.match(logged.join(), /still being tried out/);
    await waitFor(() => noted() === 'silent 3000', 'the verdict');
    assert.equal(await choice().choose(kernel), 'tcg');
    await waitFor(() => calls() === 2, 'another trial');
    // nobody tries it a third time meanwhile
    assert.equal(await choice().choose(kernel), 'tcg');
    assert.equal(calls(), 2);
  });
});

describe('what is known about kernels', () => {
  it('is by content, which is read once per file', async (t) => {
    const dir = await tempDir(t);
    const [one, same, cacheDir] = [join(dir, 'one'), join(dir, 'same'), join(dir, 'cache')];
    for (const path of [one, same]) writeFileSync(path, 'kernel');
    const verdicts = new KvmVerdicts(cacheDir);
    const name = await verdicts.nameOf(one);
    assert.equal(await verdicts.nameOf(same), name);
    // a file this new may change once more within one tick of its clock
    assert.equal(existsSync(cacheDir), false);
    await delay(1100);
    assert.equal(await verdicts.nameOf(one), name);
    const [note = ''] = readdirSync(cacheDir);
    writeFileSync(join(cacheDir, note), 'what is noted');
    assert.equal(await verdicts.nameOf(one), 'what is noted');
    writeFileSync(one, 'another kernel');
    assert.notEqual(await verdicts.nameOf(one), 'what is noted');
  });

  it('ends with the boot of the host', async (t) => {
    const cacheDir = await tempDir(t);
    writeFileSync(join(cacheDir, 'kvm-earlier-k'), 'works 3000');
    const verdicts = new KvmVerdicts(cacheDir);
    assert.equal(verdicts.read('k'), undefined);
    verdicts.write('k', { outcome: 'silent', timeMs: 3000 });
    assert.deepEqual(new KvmVerdicts(cacheDir).read('k'), { outcome: 'silent', timeMs: 3000 });
    assert.deepEqual(readdirSync(cacheDir), [`kvm-${BOOT}-k`]);
  });

  it('is found out by one process at a time, and by another when that one died', async (t) => {
    const cacheDir = join(await tempDir(t), 'cache');
    const verdicts = new KvmVerdicts(cacheDir);
    const release = verdicts.claim('k');
    assert.ok(release);
    assert.equal(verdicts.claim('k'), undefined);
    release();
    writeFileSync(join(cacheDir, `kvm-${BOOT}-try-k`), '4194304');
    assert.ok(verdicts.claim('k'));
  });

  it('does without a directory that cannot be written', async (t) => {
    const kernel = join(await tempDir(t), 'kernel');
    writeFileSync(kernel, 'x');
    const verdicts = new KvmVerdicts(join(kernel, 'below-a-file'));
    assert.match(await verdicts.nameOf(kernel), /^[0-9a-f]{32}$/);
    verdicts.write('k', { outcome: 'works', timeMs: 1 });
    assert.equal(verdicts.read('k'), undefined);
    assert.ok(verdicts.claim('k'));
  });
});
