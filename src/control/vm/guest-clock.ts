/** Sets the clocks of guests that stood still: the host slept, or a VMM was halted for a while. */
import { uptime } from 'node:os';
import { type ClockSample, mustStep } from '../../core/clock.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { askGuest } from '../../guest/ask.ts';
import type { Host } from '../host.ts';

/** A guest that just woke up has a lot to do. */
const ANSWER_TIMEOUT_MS = 20_000;

/** CLOCK_MONOTONIC and CLOCK_BOOTTIME; the second is what /proc/uptime has, in steps of 10 ms. */
export function sampleClocks(): ClockSample {
  return { monotonicMs: performance.now(), boottimeMs: uptime() * 1000 };
}

/** Sets each guest's clock that is off; what a guest does not let us do is logged and nothing more. */
export async function stepGuestClocks(host: Host, vms: readonly VmRecord[]): Promise<void> {
  await Promise.all(
    vms.map(async (vm) => {
      try {
        const offSeconds = await stepGuestClock(host, vm);
        if (offSeconds !== 0) host.log.info({ vm: vm.name, offSeconds }, 'the clock of the guest was set');
      } catch (error) {
        host.log.warn({ vm: vm.name, error: messageOf(error) }, 'the clock of the guest could not be set');
      }
    }),
  );
}

/** @returns by how many seconds it was off, 0 when it was left as it is */
async function stepGuestClock(host: Host, vm: VmRecord): Promise<number> {
  const connection = await host.guests.get(vm);
  const before = host.now().getTime();
  const answer = await askGuest(connection, 'date -u +%s', ANSWER_TIMEOUT_MS);
  const guestSeconds = Number(answer.stdout.trim());
  if (answer.code !== 0 || !Number.isFinite(guestSeconds)) {
    throw new BangerError('guest_failed', `date says: ${answer.stdout.slice(0, 100)}`);
  }
  // the guest looked at its clock at some moment in between
  const asked = (before + host.now().getTime()) / 2;
  if (!mustStep(guestSeconds, asked)) return 0;
  const set = await askGuest(connection, `date -u -s @${Math.round(host.now().getTime() / 1000)}`, ANSWER_TIMEOUT_MS);
  if (set.code !== 0) throw new BangerError('guest_failed', `date -s ended with ${set.code}.`);
  return Math.round(guestSeconds - asked / 1000);
}
