/**
 * Holds the guest of a VM that runs, and lets it go on. The record says so before it is done, and until it is undone: what a
 * daemon that died had begun is done again when the VM is adopted.
 */
import type { Paused, VmRecord } from '../../core/vm.ts';
import { goingOn, paused } from '../../core/vm-changes.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import type { Host } from '../host.ts';
import { vmmSocketOf } from '../vmm.ts';

/** A VMM answers in milliseconds; one that writes to a disk without room may have to wait for that. */
const ANSWER_LIMIT_MS = 10_000;

/** One that was found and does not answer hears it when it does: nobody is kept waiting for that. */
const ADOPTED_LIMIT_MS = 2000;

type PauseHost = Pick<Host, 'config' | 'stores' | 'system'>;

/**
 * @returns false when it was stopped or let go on meanwhile
 * @throws BangerError `vmm_failed` when its VMM refuses or does not answer; it runs on then
 */
export async function pauseVm(host: PauseHost, { id }: Pick<VmRecord, 'id'>, why: Paused): Promise<boolean> {
  const { vms } = host.stores;
  if (vms.findById(id)?.phase !== 'running') return false;
  vms.update(id, paused(why));
  try {
    await ask(host, id, 'Paused');
  } catch (error) {
    await ask(host, id, 'Resumed').catch(() => {}); // it may have taken the request and not answered
    if (isHeld(host, id, why)) vms.update(id, goingOn());
    throw error;
  }
  if (isHeld(host, id, why)) return true;
  // whoever stops it, or wants it to go on, may have asked before this did
  await ask(host, id, 'Resumed').catch(() => {});
  return false;
}

/** @throws BangerError `vmm_failed` when its VMM refuses or does not answer; it is held as before then */
export async function letVmGoOn(host: PauseHost, { id }: Pick<VmRecord, 'id'>): Promise<void> {
  await ask(host, id, 'Resumed');
  if (host.stores.vms.findById(id)?.paused) host.stores.vms.update(id, goingOn());
}

/** Holds a VM that was found running: the daemon that wrote that down may have died before it was so. */
export async function holdAdopted(
  host: PauseHost,
  { id, paused: why }: Pick<VmRecord, 'id' | 'paused'>,
): Promise<void> {
  if (why !== null) await ask(host, id, 'Paused', ADOPTED_LIMIT_MS);
}

function isHeld({ stores }: PauseHost, id: string, why: Paused): boolean {
  const now = stores.vms.findById(id);
  return now?.phase === 'running' && now.paused?.at === why.at;
}

async function ask(host: PauseHost, id: string, state: 'Paused' | 'Resumed', limitMs = ANSWER_LIMIT_MS): Promise<void> {
  await using api = connectVmm(vmmSocketOf(host, id));
  await api.send(setState(state), limitMs);
}
