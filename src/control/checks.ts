/** What is asked before a VM is touched: the preflight checks of a command, and which VMM will run it. */
import { dirname, join } from 'node:path';
import type { DoctorCommand, DoctorReport } from '../api/system.ts';
import type { VmRecord } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import { type PreflightCommand, preflight } from '../preflight/commands.ts';
import type { BootFiles, Needs, PreflightContext } from '../preflight/context.ts';
import { runDoctor, sudoersFor } from '../preflight/doctor.ts';
import { chooseVmm, type VmmChoice } from '../preflight/vmm-choice.ts';
import { readHostFacts } from '../system/host-facts.ts';
import type { Argv } from '../system/runner.ts';

/** What stays the same for the life of the daemon. */
export type CheckBase = Pick<
  PreflightContext,
  'config' | 'env' | 'uid' | 'runner' | 'privileged' | 'pool' | 'holdsPool' | 'table' | 'clientKeyFile'
> & {
  /** program and leading arguments of banger itself */
  self: Argv;
};

export interface Checks {
  /**
   * The checks of a start.
   * @throws BangerError `preflight_failed` with every failure and its fix
   */
  beforeStart(boot: BootFiles, vm: Pick<VmRecord, 'vcpus' | 'memoryMib' | 'nat'>): Promise<void>;
  /** @throws BangerError `host_unprepared` when no VMM can run here */
  chooseVmm(boot: BootFiles): Promise<VmmChoice>;
  /** Every check, or those of one command; without boot files for the reason given. */
  doctor(boot: BootFiles | BangerError, command?: DoctorCommand): Promise<DoctorReport>;
  /** text of the sudoers rules that let the daemon's user do without root */
  sudoers(): Promise<string>;
}

/** The checks behind each word of `banger doctor COMMAND`: those the command itself would run. */
const DOCTOR_COMMANDS: Record<DoctorCommand, readonly PreflightCommand[]> = {
  create: ['vm-create'],
  start: ['vm-start', 'nat'],
  nat: ['nat'],
  ssh: ['ssh'],
  build: ['image-build'],
  resize: ['disk-resize'],
};

const NO_NEEDS: Needs = { vcpus: 0, memoryMib: 0, diskBytes: 0 };

export function createChecks(base: CheckBase): Checks {
  const context = async (boot: BootFiles | BangerError, needs: Needs): Promise<PreflightContext> => ({
    ...base,
    facts: await readHostFacts(),
    boot,
    needs,
    fcqemu: besideBanger(base.self),
  });
  return {
    async beforeStart(boot, { vcpus, memoryMib, nat }) {
      const needs = { vcpus, memoryMib, diskBytes: 0 };
      await preflight(await context(boot, needs), 'vm-start', ...(nat ? (['nat'] as const) : []));
    },
    async chooseVmm(boot) {
      return await chooseVmm(await context(boot, NO_NEEDS));
    },
    async doctor(boot, command) {
      const commands = command === undefined ? [] : DOCTOR_COMMANDS[command];
      return await runDoctor(await context(boot, NO_NEEDS), ...commands);
    },
    async sudoers() {
      return await sudoersFor(await context(new BangerError('not_found', 'not asked'), NO_NEEDS));
    },
  };
}

/** fcqemu as it was installed with this banger: the executable next to it, or the source file next to ours. */
function besideBanger([program, script]: Argv): Argv {
  if (script === undefined) return [join(dirname(program), 'fcqemu')];
  return [program, join(dirname(script), 'fcqemu.ts')];
}
