/** Gives a VM another name; address, disks and keys stay, and a running guest learns its new name. */
import { shownState, type VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { askGuest } from '../../guest/ask.ts';
import { expiry } from '../../system/abort.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';

/** A guest that does not answer gets its name at its next start. */
const GUEST_TIMEOUT_MS = 15_000;

export interface RenamedVm {
  vm: VmRecord;
  /** when the guest calls itself by the new name */
  hostname: 'now' | 'at-next-start';
}

/** @throws BangerError `conflict` when the new name is taken */
export async function renameVm(host: Host, name: string, newName: string, progress: Progress): Promise<RenamedVm> {
  const vm = host.stores.vms.get(name);
  if (name === newName) {
    throw new BangerError('invalid_input', `${name} has this name already.`, { hint: 'See what exists: banger ls' });
  }
  const busy = host.operations.activeOn(newName);
  if (busy) {
    throw new BangerError('conflict', `Something is going on with the name ${newName} (operation ${busy.id}).`, {
      hint: `Follow it with: banger operation wait ${busy.id}`,
    });
  }
  // names in DNS and known host keys follow the record
  host.stores.vms.update(vm.id, { name: newName });
  const renamed = host.stores.vms.get(newName);
  if (shownState(vm) !== 'running') return { vm: renamed, hostname: 'at-next-start' };
  progress.step('tell-guest', 'telling the guest its name');
  try {
    await tellGuest(host, renamed, vm.name);
    if (vm.run) host.stores.vms.update(vm.id, { run: { ...vm.run, hostname: newName } });
    return { vm: host.stores.vms.get(newName), hostname: 'now' };
  } catch (error) {
    progress.warn(`The guest calls itself ${name} until its next start: ${messageOf(error)}`);
    return { vm: renamed, hostname: 'at-next-start' };
  }
}

/** Shell command that gives a guest another name. */
export function hostnameScript(oldName: string, name: string): string {
  // names are DNS labels: nothing in them means anything to a shell or to sed
  return [
    `echo ${name} > /etc/hostname`,
    `hostname ${name}`,
    `sed -i 's/^127\\.0\\.1\\.1 ${oldName}$/127.0.1.1 ${name}/' /etc/hosts`,
  ].join(' && ');
}

async function tellGuest(host: Host, vm: VmRecord, oldName: string): Promise<void> {
  const connection = await Promise.race([host.guests.get(vm), expiry(GUEST_TIMEOUT_MS)]);
  if (!connection) throw new BangerError('timeout', 'it does not answer over SSH.');
  const { code } = await askGuest(connection, hostnameScript(oldName, vm.name), GUEST_TIMEOUT_MS);
  if (code !== 0) throw new BangerError('guest_failed', `setting it ended with status ${code}.`);
}
