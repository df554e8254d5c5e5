/** What of this host the memory of a guest depends on: of suspended VMs, and of those that image builds keep. */
import { stat } from 'node:fs/promises';
import { release } from 'node:os';
import type { FileMark, Fit } from '../../core/fit.ts';
import { binaryVersion } from '../../firecracker/versions.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { readProcessor } from '../../system/processor.ts';
import type { Host } from '../host.ts';

/** The shape a guest has, or would have. */
export interface GuestShape {
  vcpus: number;
  memoryMib: number;
}

/**
 * What would be around a guest of this shape if it was started now.
 * @param chosen the VMM, where the caller knows it
 */
export async function fitOf(
  host: Pick<Host, 'checks' | 'system'>,
  { vcpus, memoryMib }: GuestShape,
  boot: BootFiles,
  chosen?: VmmChoice,
): Promise<Fit> {
  const vmm = chosen ?? (await host.checks.chooseVmm(boot));
  const { kind, acceleration } = vmm;
  const [program, processor, kernel, initrd] = await Promise.all([
    versionOf(host, vmm),
    readProcessor(),
    markOf(boot.kernel),
    boot.initrd === undefined ? null : markOf(boot.initrd),
  ]);
  const emulated = acceleration === 'tcg';
  return {
    ...{ vmm: kind, acceleration, program },
    processor: emulated ? null : processor.description,
    hostKernel: emulated ? null : release(),
    tscMhz: emulated ? processor.tscMhz : null,
    ...{ kernel, initrd, vcpus, memoryMib },
  };
}

/** A program that does not tell is told apart by nothing: loading its state is what shows it. */
async function versionOf({ system }: Pick<Host, 'system'>, { program, env }: VmmChoice): Promise<string> {
  const path = env.FCQEMU_QEMU ?? program.at(-1) ?? program[0];
  const version = await binaryVersion(system.runner, path, { ...system.env, ...env }).catch(() => undefined);
  return version?.text ?? 'of an unknown version';
}

async function markOf(path: string): Promise<FileMark> {
  const { size, mtime } = await stat(path);
  return { path, size, modifiedAt: mtime.toISOString() };
}
