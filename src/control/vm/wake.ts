/** Tells a guest that has just gone on what it missed: the time, and a seed that nothing saved knows. */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { quote } from '../../guest/command.ts';
import { runInGuest } from '../../guest/run.ts';
import { AWAKE, resumeScript } from '../../guest/wake.ts';
import type { Host } from '../host.ts';
import { awaitLogin } from './boot.ts';
import { hostnameScript } from './rename.ts';

/** What the guest gets to write out what its programs wrote. */
const SYNC_LIMIT_MS = 5 * 60_000;

/** Setting clock and seed starts three programs, on a host that may be busy. */
const WAKE_LIMIT_MS = 30_000;

/**
 * Has everything written to the disks, so that they lose nothing if the memory is given up; nobody is logged in by it
 * afterwards, as the connection would not outlive what follows.
 * @throws BangerError `guest_failed` when it does not answer, and so could not be woken later
 */
export async function quiesceGuest(host: Host, vm: VmRecord, signal: AbortSignal): Promise<void> {
  const connection = await host.guests.get(vm);
  const { exitCode } = await runInGuest(connection, 'sync', { timeoutMs: SYNC_LIMIT_MS, signal });
  await host.guests.drop(vm);
  if (exitCode === 0) return;
  throw new BangerError('guest_failed', `The guest of ${vm.name} did not write out what its programs wrote.`, {
    hint: `See what the guest says: banger logs ${vm.name}`,
  });
}

/**
 * Logs in and sets clock, seed, and the guest's name where that was changed meanwhile. A guest that cannot set them goes on
 * without: its memory is used once, so that nobody else draws the same random numbers.
 * @param limitMs for the login
 * @throws BangerError `timeout` or `guest_failed` when it does not let us in
 */
export async function wakeGuest(host: Host, vm: VmRecord, limitMs: number): Promise<void> {
  await host.guests.drop(vm);
  const connection = await awaitLogin(host, vm, limitMs, new AbortController().signal); // it cannot be un-told
  host.guests.keep(vm, connection);
  const oldName = vm.run?.hostname ?? vm.name;
  // the name first: what follows ends the shell where it fails
  const rename = oldName === vm.name ? '' : `${hostnameScript(oldName, vm.name)}\n`;
  const script = `${rename}${resumeScript(randomBytes(32))}`;
  const input = new Readable({ read() {} });
  const { exitCode } = await runInGuest(connection, `exec sh -c ${quote(script)}`, {
    timeoutMs: WAKE_LIMIT_MS,
    input,
    onLine(line) {
      if (line === AWAKE) input.push(`${(host.now().getTime() / 1000).toFixed(3)}\n`);
    },
  });
  if (oldName !== vm.name && vm.run) host.stores.vms.update(vm.id, { run: { ...vm.run, hostname: vm.name } });
  if (exitCode !== 0) host.log.warn({ vm: vm.name, exitCode }, 'a guest that went on did not set its clock or seed');
}
