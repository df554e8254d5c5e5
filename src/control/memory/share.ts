/**
 * Memory that several VMs begin with: each has it by a name in its own directory, and no VMM can change it for another. A file
 * that is only read is root's and one for all; whoever opens it for writing has a copy.
 */
import { link } from 'node:fs/promises';
import type { Fit } from '../../core/fit.ts';
import type { VmRecord } from '../../core/vm.ts';
import { copyDisk } from '../../storage/clone.ts';
import type { MemoryFiles } from '../../storage/layout.ts';
import { handOverFile, letReadFile, userOf } from '../handover.ts';
import type { Host } from '../host.ts';

type Files = Pick<MemoryFiles, 'memory' | 'state'>;

/**
 * Whether a VM has to have a memory file of its own. Firecracker opens it for reading; QEMU, which maps it as privately, cannot
 * before 8.2. Where all VMs run as one user, each could write to it by its name anyway.
 */
export function needsOwnMemory(host: Pick<Host, 'system'>, vm: Pick<VmRecord, 'user'>, { vmm }: Fit): boolean {
  return vmm === 'fcqemu' && userOf(host, vm) !== undefined;
}

/** @param own whether the memory is copied. Room for that is the caller's to ask for */
export async function shareMemory(
  { config, system }: Pick<Host, 'config' | 'system'>,
  from: Files,
  to: Files,
  own: boolean,
  signal: AbortSignal,
): Promise<void> {
  await link(from.state, to.state);
  if (own) await copyDisk(system.runner, config.programs.cp, from.memory, to.memory, signal);
  else await link(from.memory, to.memory);
}

/** Lets a VM's VMM open what `shareMemory` has put there. @param own as there */
export async function letLoadShared(
  host: Pick<Host, 'config' | 'stores' | 'system'>,
  vm: Pick<VmRecord, 'user'>,
  { memory, state }: Files,
  own: boolean,
): Promise<void> {
  await letReadFile(host, vm, state);
  await (own ? handOverFile : letReadFile)(host, vm, memory);
}
