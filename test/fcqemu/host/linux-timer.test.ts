/** A Linux guest on a host that lets it wait while it measures its timer. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { firecrackerBin, type Vmm } from '../support/vmm-process.ts';

const SKIP = linuxSkipReason() || (firecrackerBin !== undefined && 'only where guests are emulated');

/** How fast a timer of the guest counts, as its kernel believes: 2^32 × its ticks per ns. */
const SCRIPT = `echo "timer $(sed -n '/Clock Event Device: lapic/,/mode/s/ *mult: *//p' /proc/timer_list)"; sleep 1000`;
/** QEMU's has 62.5 MHz */
const RIGHT = 2 ** 32 * 0.0625;

/** CPU time before which no kernel is there yet, in `ms`. */
const EARLY_CPU_MS = 300;
const RUN_MS = 20;
/** What is measured is then four times too much, or nothing: 2.5 times would look like a kernel of 100 Hz. */
const STOP_MS = 400;

function qemuOf(vmm: Vmm): number {
  return Number(
    readFileSync(`/proc/${vmm.process.pid}/task/${vmm.process.pid}/children`, 'latin1').trim().split(' ')[0],
  );
}

function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/**
 * Boots a guest that runs for moments only until it is started over.
 * @returns undefined when it was up before, `KVM` when its processor is not emulated
 */
async function startedOver(t: TestContext): Promise<Vmm | 'KVM' | undefined> {
  const vmm = await prepared(t, SCRIPT);
  await start(vmm);
  const qemu = qemuOf(vmm);
  // no processor waits for its host while it counts its own timer
  if (/\0-accel\0kvm\b/.test(readFileSync(`/proc/${qemu}/cmdline`, 'latin1'))) return 'KVM';
  while (cpuMs(qemu) < EARLY_CPU_MS) await sleep(5);
  while (!vmm.log().includes('it is started over')) {
    if (vmm.output().includes('timer ')) return undefined;
    process.kill(qemu, 'SIGSTOP');
    await sleep(STOP_MS);
    process.kill(qemu, 'SIGCONT');
    await sleep(RUN_MS);
  }
  return vmm;
}

describe('a Linux guest that the host lets wait', { skip: SKIP }, () => {
  it('is started over until its timer is right', { timeout: 300_000 }, async (t) => {
    let vmm: Vmm | 'KVM' | undefined;
    // one that is let run at the right moments measures well
    for (let guests = 0; guests < 3 && vmm === undefined; guests++) vmm = await startedOver(t);
    if (vmm === 'KVM') return t.skip('guests run under KVM, whose timers are not measured in time that they wait');
    assert.ok(vmm, 'no guest was started over');
    await said(vmm, 'timer ');
    await said(vmm, '\n');
    const ratio = Number(/^timer (\d+)/m.exec(vmm.output())?.[1]) / RIGHT;
    assert.ok(ratio > 0.7 && ratio < 1.4, `the timer is ${ratio} of what it should be`);
  });
});
