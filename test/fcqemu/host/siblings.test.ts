/** Guests that run from one memory file: what one of them gives up is its own affair. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { startVmm, type Vmm, waitFor } from '../support/vmm-process.ts';

/** Time the guest's kernel has to report free pages, which it does every two seconds. */
const REPORT_MS = 60_000;

/** Holds data it knows the sum of, and memory that it fills and frees when told to: filled, it is in the memory file. */
const SCRIPT = `mkdir /ram; mount -t tmpfs -o size=90% ram /ram; head -c 2000000 /dev/urandom > /ram/data; sum=$(sha1sum < /ram/data)
head -c 4000000 /dev/zero | tr '\\0' x > /ram/piece
fill() { n=$1; while [ $n -gt 0 ]; do cat /ram/piece; n=$((n - 1)); done > /ram/waste; }
fill 8; echo ready
while read c what; do
  case $c in
    fill) fill 20; echo "filled $what";;
    free) rm /ram/waste; echo "freed $what";;
    check) if [ "$(sha1sum < /ram/data)" = "$sum" ]; then echo "intact $what"; else echo "broken $what"; fi;;
  esac
done`;

async function tell(vmm: Vmm, command: string, answer: string): Promise<void> {
  vmm.process.stdin?.write(`${command}\n`);
  await said(vmm, answer);
}

/** Memory of QEMU that is its own. */
function ownMib(vmm: Vmm): number {
  const qemu = readFileSync(`/proc/${vmm.process.pid}/task/${vmm.process.pid}/children`, 'latin1').trim();
  const [, kib] = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${qemu}/status`, 'latin1')) ?? [];
  return Number(kib) / 1024;
}

interface Family {
  one: Vmm;
  two: Vmm;
  /** checksum of the file both run from */
  sum: () => string;
}

async function family(t: TestContext, balloon: object): Promise<Family> {
  const vmm = await prepared(t, SCRIPT, { stdin: 'pipe' });
  await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 160 });
  await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1, ...balloon });
  await start(vmm);
  await said(vmm, 'ready');
  await vmm.patch('/vm', { state: 'Paused' });
  const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
  await vmm.put('/snapshot/create', body);
  vmm.process.kill('SIGKILL');
  await vmm.ended;
  const load = async () => {
    const clone = await startVmm(t, { stdin: 'pipe' });
    await clone.put('/snapshot/load', { ...body, resume_vm: true });
    return clone;
  };
  const sum = () => createHash('sha1').update(readFileSync(body.mem_file_path)).digest('hex');
  return { one: await load(), two: await load(), sum };
}

/** Both still have their data, the second of them untouched until now. */
async function checkBoth({ one, two, sum }: Family, before: string): Promise<void> {
  assert.equal(sum(), before, 'the memory file was written to');
  await tell(two, 'check two', 'intact two');
  await tell(one, 'check one', 'intact one');
  await tell(one, 'fill again', 'filled again');
  await tell(one, 'check again', 'intact again');
  assert.equal(sum(), before, 'the memory file was written to');
}

describe('a guest that shares its memory file with a sibling', { skip: linuxSkipReason(), timeout: 300_000 }, () => {
  it('gives memory to its balloon, which the host gets back, and nothing else changes', async (t) => {
    const all = await family(t, {});
    const { one, sum } = all;
    const before = sum();
    await tell(one, 'free once', 'freed once');
    await tell(one, 'fill once', 'filled once');
    await tell(one, 'free twice', 'freed twice');
    const filled = ownMib(one);
    await one.patch('/balloon', { amount_mib: 80 });
    await waitFor(() => ownMib(one) < filled - 20, 'memory from the balloon', REPORT_MS);
    for (let i = 0; i < 100 && (await one.get('/balloon/statistics')).actual_mib !== 80; i++) await delay(100);
    assert.equal((await one.get('/balloon/statistics')).actual_mib, 80);
    assert.equal(sum(), before, 'the memory file was written to');
    await one.patch('/balloon', { amount_mib: 0 });
    for (let i = 0; i < 100 && (await one.get('/balloon/statistics')).actual_mib !== 0; i++) await delay(100);
    await checkBoth(all, before);
  });

  it('reports free pages, which the host gets back, and nothing else changes', async (t) => {
    const all = await family(t, { free_page_reporting: true });
    const { one, sum } = all;
    const before = sum();
    await tell(one, 'free once', 'freed once');
    await tell(one, 'fill once', 'filled once');
    const filled = ownMib(one);
    await tell(one, 'free twice', 'freed twice');
    await waitFor(() => ownMib(one) < filled - 20, 'memory from reported pages', REPORT_MS);
    await checkBoth(all, before);
  });
});
