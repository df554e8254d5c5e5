/** Brings saved memory back into a VMM that was told nothing yet, and says why it cannot come back. */
import { type Fit, misfits } from '../../core/fit.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { type VmmApi, versionOfVmm } from '../../firecracker/api.ts';
import { loadSnapshot } from '../../firecracker/requests.ts';
import type { MemoryFiles } from '../../storage/layout.ts';
import { asVmmNamesIt, sealAgainstVmm } from '../handover.ts';
import type { Host } from '../host.ts';
import { disksOf } from './checkpoint.ts';
import { changedSince, type Manifest } from './manifest.ts';

/**
 * Loads it; the guest stands still until it is told to go on.
 * @param tap device of another VM than the one that was saved
 * @throws BangerError `conflict` when the VMM is another version than the one that wrote the state: none reads another's
 */
export async function loadMemory(
  host: Host,
  vm: VmRecord,
  api: VmmApi,
  { memory, state }: Pick<MemoryFiles, 'memory' | 'state'>,
  vmmVersion: string,
  tap?: string,
): Promise<void> {
  await requireVersion(api, vmmVersion);
  const mem_backend = { backend_type: 'File', backend_path: asVmmNamesIt(host, vm, memory) } as const;
  const network = tap === undefined ? {} : { network_overrides: [{ iface_id: 'eth0', host_dev_name: tap }] };
  await api.send(loadSnapshot({ snapshot_path: asVmmNamesIt(host, vm, state), mem_backend, ...network }));
  await sealAgainstVmm(host, vm);
}

/** @throws BangerError `conflict` */
export async function requireVersion(api: VmmApi, vmmVersion: string): Promise<void> {
  const { text } = await versionOfVmm(api);
  if (text === vmmVersion) return;
  throw new BangerError('conflict', `Version ${vmmVersion} of the VMM wrote its state, and ${text} is here now.`, {
    hint: 'See which there are: banger vmm list   Give the memory up: banger start NAME --discard-memory',
  });
}

/** What keeps a VM's memory from going on, each a clause: empty when everything is as it was. */
export async function obstacles(
  host: Pick<Host, 'config'>,
  vm: Pick<VmRecord, 'id' | 'workDiskBytes' | 'address'>,
  files: MemoryFiles,
  manifest: Manifest,
  now: Fit,
): Promise<string[]> {
  const found = misfits(manifest.fit, now);
  if (manifest.address !== vm.address) found.push(`its address was ${manifest.address}, now ${vm.address}`);
  for (const name of await changedFiles(host, vm, files, manifest)) found.push(`its ${name} was changed since`);
  return found;
}

/** What of it or of its disks is not as it was, by what people call it. */
async function changedFiles(
  host: Pick<Host, 'config'>,
  vm: Pick<VmRecord, 'id' | 'workDiskBytes'>,
  { memory, state }: MemoryFiles,
  manifest: Manifest,
): Promise<string[]> {
  return [
    ...(await changedSince(manifest.disks, disksOf(host, vm))),
    ...(await changedSince({ memory: manifest.memory, state: manifest.state }, { memory, state })),
  ];
}

/** Whether a guest that may have gone on from it has written nothing to its disks. */
export async function isUnused(
  host: Pick<Host, 'config'>,
  vm: Pick<VmRecord, 'id' | 'workDiskBytes'>,
  files: MemoryFiles,
  manifest: Manifest,
): Promise<boolean> {
  return (await changedFiles(host, vm, files, manifest)).length === 0;
}
